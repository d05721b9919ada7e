#!/usr/bin/env bash
# promtool 2.42.0 (Debian 12): `promtool test rules` evaluates every group each `evaluation_interval` of the test file,
# and a group's own `interval` is ignored. A rule of a group with `interval: 5m` has 20 samples in 20 minutes, where
# Prometheus itself makes 4. Whoever counts samples of such a rule (time slices) passes a test of what never happens.
#
# Needs apt and dpkg; installs nothing.
set -euo pipefail
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK"
apt-get download -q prometheus=2.42.0+ds-5+deb12u1 2>/dev/null
dpkg -x prometheus_*.deb .

cat >rules.yml <<'RULES'
groups:
  - name: slices
    interval: 5m
    rules:
      - record: slice
        expr: vector(1)
RULES
cat >test.yml <<'TEST'
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    promql_expr_test:
      - expr: count_over_time(slice[20m])
        eval_time: 19m
        exp_samples: [{labels: "{}", value: 4}]
TEST
usr/bin/promtool --version 2>&1 | head -n 1
usr/bin/promtool check rules rules.yml
seen=$(usr/bin/promtool test rules test.yml 2>&1) && { echo "$seen"; echo "it heeds the interval now"; exit 1; }
echo "$seen"
grep -q 'got: {} 2E+01' <<<"$seen"
echo "as when this was found"
