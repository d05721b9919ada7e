#!/usr/bin/env bash
# kube-apiserver 1.36.3: server-side apply with a metadata.resourceVersion creates an object that is not there (201), on
# whatever version, though create (POST) refuses one (500) and update (PUT) answers 404. So any version but "0" makes an
# apply "create only": the second one is a 409. "0" is no condition for a ConfigMap (200) and is invalid for a
# PodDisruptionBudget (422), so it is no neutral value.
# Who means "apply this only if it is unchanged since I read it" gets a second object after a deletion, not a conflict.
#
# Needs Go 1.26, curl and openssl; builds etcd 3.6.8 and kube-apiserver from their Go modules (minutes), on loopback.
set -euo pipefail
WORK=$(mktemp -d)
started=()
end() { for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done; wait; rm -rf "$WORK"; }
trap end EXIT
cd "$WORK"

KUBERNETES=v1.36.3 ETCD=v3.6.8
mkdir build && cd build
cat >main.go <<'GO'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if os.Args[1] == "etcd" {
		etcdmain.Main(os.Args[1:])
		return
	}
	os.Args = os.Args[1:]
	os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
}
GO
go mod init finding >/dev/null 2>&1
# The modules of Kubernetes' own repository are released as v0.X.
download=$(go mod download -json "k8s.io/kubernetes@$KUBERNETES" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
sed -n 's|^\t*\(k8s.io/[a-z0-9-]*\) => ./staging/src/.*|\1|p' "$download" | sort -u | while read -r module; do
  go mod edit -replace "$module=$module@v0${KUBERNETES#v1}"
done
go mod edit -require "k8s.io/kubernetes@$KUBERNETES" -require "go.etcd.io/etcd/server/v3@$ETCD"
go mod tidy >/dev/null 2>&1
go build -o ../run .
cd ..

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
client=$(port) peer=$(port) secure=$(port)
openssl genrsa -out key 2048 2>/dev/null
echo 'token,admin,1,system:masters' >tokens
./run etcd --data-dir etcd --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
  --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
  --initial-cluster "default=http://127.0.0.1:$peer" >etcd.log 2>&1 &
started+=($!)
./run kube-apiserver --etcd-servers "http://127.0.0.1:$client" --bind-address 127.0.0.1 --secure-port "$secure" \
  --cert-dir certificates --token-auth-file tokens --authorization-mode RBAC --service-cluster-ip-range 10.0.0.0/24 \
  --service-account-issuer https://issuer --service-account-key-file key --service-account-signing-key-file key \
  >apiserver.log 2>&1 &
started+=($!)
server="https://127.0.0.1:$secure"
ask() { curl -sk -o answer -w '%{http_code}' -H 'Authorization: Bearer token' "$@"; }
until [ "$(ask "$server/readyz" || true)" = 200 ]; do
  kill -0 "${started[@]}" || { cat apiserver.log; exit 2; }
  sleep 0.2
done

maps=/api/v1/namespaces/default/configmaps
budgets=/apis/policy/v1/namespaces/default/poddisruptionbudgets
body() { echo "{\"apiVersion\": \"$1\", \"kind\": \"$2\", \"metadata\": {\"name\": \"$3\", \"resourceVersion\": \"$4\"}}"; }
apply() { # FOLDER APIVERSION KIND NAME VERSION
  ask -X PATCH -H 'Content-Type: application/apply-patch+yaml' --data "$(body "$2" "$3" "$4" "$5")" \
    "$server$1/$4?fieldManager=finding&force=true"
}
seen=""
for version in 1 999999999 0; do
  seen+="ConfigMap $version: $(apply $maps v1 ConfigMap "v$version" $version) $(apply $maps v1 ConfigMap "v$version" $version)"$'\n'
  seen+="PodDisruptionBudget $version: $(apply $budgets policy/v1 PodDisruptionBudget "v$version" $version) "
  seen+="$(apply $budgets policy/v1 PodDisruptionBudget "v$version" $version)"$'\n'
done
json='Content-Type: application/json'
seen+="create 1: $(ask -X POST -H "$json" --data "$(body v1 ConfigMap posted 1)" "$server$maps")"$'\n'
seen+="update 1: $(ask -X PUT -H "$json" --data "$(body v1 ConfigMap put 1)" "$server$maps/put")"
echo "$seen"
diff - <(echo "$seen") <<'SEEN'
ConfigMap 1: 201 409
PodDisruptionBudget 1: 201 409
ConfigMap 999999999: 201 409
PodDisruptionBudget 999999999: 201 409
ConfigMap 0: 201 200
PodDisruptionBudget 0: 201 422
create 1: 500
update 1: 404
SEEN
echo "as when this was found"
