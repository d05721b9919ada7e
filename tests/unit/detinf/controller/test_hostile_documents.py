"""What others write (records, deliveries, reports, annotations) stops no reconcile, and what cannot be read is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from cluster_api import copied
from fleet import Fleet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journeys import NAME, NAMESPACE, SETTINGS
from steps import condition, events, fleet_with, reconcile, records, settle

from detinf.api import names
from detinf.controller import gather as gathering
from detinf.controller.decide import decide
from detinf.controller.exported import Exported
from detinf.controller.gather import HttpReports, gather
from detinf.controller.pods import format_time
from detinf.controller.reconcile import Reconciler
from detinf.documents import (
    ALL,
    Baseline,
    Candidate,
    Document,
    DocumentError,
    Evidence,
    References,
    Report,
    seal,
)

HUGE = "9" * 5000
TEXTS = {
    "nothing": "",
    "no JSON": "{",
    "another type": "[]",
    "null": "null",
    "no number": '{"schema": NaN}',
    "infinity": '{"schema": 1, "x": Infinity}',
    "a huge integer": f'{{"schema": {HUGE}}}',
    "a huge integer where anything may stand": f'{{"schema": 1, "hardware": {{"devices": {HUGE}}}}}',
    "nested too deeply": "[" * 5000,
    "nested too deeply where anything may stand": '{"schema": 1, "hardware": ' + '{"a":' * 150 + "1" + "}" * 151,
    "half a character": '{"schema": 1, "boot": "\\ud800"}',
    "a future schema": '{"schema": 2}',
    "a zero byte": "\0",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.KIND)
def test_document_that_cannot_be_read_is_refused_in_a_short_line(kind: type[Document], text: str) -> None:
    with pytest.raises(DocumentError) as refused:
        kind.parse(text)
    assert len(str(refused.value)) < 600
    assert "\n" not in str(refused.value)


async def settled() -> Fleet:
    fleet = fleet_with()
    await settle(fleet)
    return fleet


MUTATIONS = st.one_of(
    st.sampled_from(list(TEXTS.values())),
    st.text(max_size=30),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.integers(min_value=2**52, max_value=2**200)
        | st.floats()
        | st.text(max_size=5),
        lambda item: st.lists(item, max_size=3) | st.dictionaries(st.text(max_size=5), item, max_size=3),
        max_leaves=6,
    ).map(json.dumps),
)


def changed(document: Any, path: int, value: str) -> str:
    """Return a document's text with one of its values, counted through, replaced by another text."""
    places: list[tuple[Any, Any]] = []

    def walk(item: Any) -> None:
        for key, inner in item.items() if isinstance(item, dict) else enumerate(item):
            places.append((item, key))
            if isinstance(inner, (dict, list)):
                walk(inner)

    walk(document)
    holder, key = places[path % len(places)]
    mark = "\x01mark\x01"
    holder[key] = mark
    return json.dumps(document).replace(json.dumps(mark), value if value.strip() else '""')


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([References, Baseline, Candidate, Evidence]),
    path=st.integers(0, 200),
    value=MUTATIONS,
    where=st.sampled_from(["record", "delivery", "status"]),
)
async def test_no_record_delivery_or_status_of_anybody_stops_the_decision(
    kind: type[Document], path: int, value: str, where: str
) -> None:
    fleet = await once()
    live = copied(fleet.api.objects)
    try:
        whole = next(
            (
                json.loads(item["data"][f"{kind.KIND}.json"])
                for (of, _, _), item in live.items()
                if of == "ConfigMap" and item["metadata"]["labels"].get(names.LABEL_DOCUMENT) == kind.KIND
            ),
            {"schema": 1},
        )
        text = changed(whole, path, value)
        delivery = copied(fleet.api.objects["ConfigMap", NAMESPACE, names.delivery_name(NAME)])
        if where == "record":
            broken = copied(fleet.api.objects["ConfigMap", NAMESPACE, records(fleet, "baseline")[0]])
            broken["metadata"]["name"], broken["metadata"]["uid"] = "hand", "hand"
            broken["metadata"]["labels"][names.LABEL_DOCUMENT] = kind.KIND
            broken["data"] = {f"{kind.KIND}.json": text}
            fleet.api.objects["ConfigMap", NAMESPACE, "hand"] = broken
        elif where == "delivery":
            for of in ("references", "baseline"):
                for name in records(fleet, of):
                    del fleet.api.objects["ConfigMap", NAMESPACE, name]
            delivery["data"] = dict.fromkeys(delivery["data"], seal(text.encode(errors="replace")))
            fleet.api.objects["ConfigMap", NAMESPACE, names.delivery_name(NAME)] = delivery
        else:
            delivery["data"] = None
            fleet.api.objects["ConfigMap", NAMESPACE, names.delivery_name(NAME)] = delivery
        observed = await gather(fleet.api, fleet, NAMESPACE, NAME)
        assert observed is not None
        decide(observed, SETTINGS, fleet.now)
    finally:
        fleet.api.objects = live


_FLEET: list[Fleet] = []


async def once() -> Fleet:
    if not _FLEET:
        _FLEET.append(await settled())
    return _FLEET[0]


@settings(deadline=None, max_examples=60)
@given(path=st.integers(0, 200), value=MUTATIONS)
async def test_no_report_stops_the_decision(path: int, value: str) -> None:
    fleet = await once()
    observed = await gather(fleet.api, fleet, NAMESPACE, NAME)
    assert observed is not None
    (uid, report), *_ = observed.reports.items()
    text = changed(json.loads(report.canonical()), path, value)
    try:
        hostile = Report.parse(text.encode(errors="replace"))
    except DocumentError:
        return
    observed.reports[uid] = hostile  # type: ignore[index]
    decide(observed, SETTINGS, fleet.now)


async def test_record_that_cannot_be_read_is_told_by_name_with_what_is_wrong() -> None:
    fleet = await settled()
    (record,) = records(fleet, "baseline")
    broken = copied(fleet.api.objects["ConfigMap", NAMESPACE, record])
    broken["metadata"]["name"], broken["metadata"]["uid"] = "hand", "hand"
    broken["data"] = {"baseline.json": TEXTS["a huge integer"]}
    fleet.api.objects["ConfigMap", NAMESPACE, "hand"] = broken
    await reconcile(fleet)
    found = condition(fleet, "Degraded")
    assert (found["status"], found["reason"]) == ("True", "RecordUnreadable")
    assert found["message"].startswith(
        "ConfigMap hand holds no record that can be read, and counts for nothing: baseline"
    )
    assert found["message"].endswith("; kubectl delete configmap hand")


async def test_failure_of_a_reconcile_is_told_on_the_resource_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = await settled()
    reconciler = Reconciler(fleet.api, fleet, SETTINGS, Exported(), instance="test", now=lambda: fleet.now)

    async def fails(*_arguments: object) -> None:
        raise RecursionError("of somebody's document")

    monkeypatch.setattr("detinf.controller.reconcile.gather", fails)
    for _ in range(3):
        await reconciler.work_on((NAMESPACE, NAME))
    assert events(fleet).count("ReconcileFailed") == 1


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_report_that_cannot_be_read_over_http_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await fetched(text.encode(), monkeypatch)


async def test_report_without_an_end_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "LARGEST_BYTES", 100_000)
    monkeypatch.setattr("detinf.documents.base.LARGEST_BYTES", 100_000)
    await fetched(b" " * 10_000_000, monkeypatch)


async def fetched(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold that a probe's answer is no report, and raises nothing."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/v1/report", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        monkeypatch.setattr(gathering, "PROBE_PORT", runner.addresses[0][1])
        async with HttpReports() as reports:
            pod = {"metadata": {"name": "a-0-0", "uid": "u"}, "status": {"podIP": "127.0.0.1"}}
            assert await reports.fetch(pod) is None
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("seconds", [-1, 2**53 - 1, -(2**53), 0])
def test_time_that_no_year_has_is_shown_as_the_nearest(seconds: int) -> None:
    assert format_time(seconds) in {"1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"}
