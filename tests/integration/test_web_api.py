"""Models, versions, payloads and numbers over HTTP, of a real broadcaster; each answer is what /openapi.json says of it."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import clients
from broadcaster.web import help as table
from broadcaster.web.openapi import SCHEMAS, describe
from broadcaster.web.routes import ROUTES
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.schema import breaches

BIG = os.urandom((3 << 20) + 12_345)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    """With a model of three small transient versions and a large archived one, and another of many versions."""
    with BroadcasterProcess(tmp_path_factory.mktemp("api") / "broadcaster", http=True) as process:
        with clients.connect(process.url) as client, clients.connect(process.url, namespace="lab") as lab:
            policy = client.publisher("policy")
            for at in range(3):
                policy.publish(b"weights %d" % at, metrics={"return": float(at)}, user_data={"step": str(at), "<b>": "&\u2028"})
            policy.publish(BIG, archived=True, metrics={"loss": math.nan, "best": math.inf})
            client.registry.set_alias("policy", "champion", 2)
            client.registry.set_tags("policy", {"stage": "candidate"}, ref=2)
            lab.publisher("elsewhere").publish(b"x")
            many = client.publisher("many")
            for _ in range(25):
                many.publish(b"one of many")
        yield process


@pytest.fixture
def web(served: BroadcasterProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.ready["http"], timeout=20) as client:
        yield client


def told(web: httpx.Client, path: str, status: int = 200) -> Any:
    """What a route answers, which is what the description says."""
    said = web.get(path)
    assert said.status_code == status, said.text
    plain = path.partition("?")[0]
    (route,) = [one for one in ROUTES if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one.path), plain)]
    schema = route.answers[status]
    kind = "application/problem+json" if schema == "Problem" else "application/json"
    assert said.headers["content-type"] == kind
    assert breaches(SCHEMAS[schema], said.json(), SCHEMAS) == []
    return said.json()


# --- the description -------------------------------------------------------------------------------------------------


def test_the_description_names_every_route_and_only_what_it_defines(web: httpx.Client) -> None:
    said = told(web, "/openapi.json")
    assert said == describe(ROUTES) and said["openapi"].startswith("3.1")
    assert set(said["paths"]) == {route.path for route in ROUTES}
    for path, methods in said["paths"].items():
        for operation in methods.values():
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)) and operation["summary"]
    assert set(re.findall(r"#/components/schemas/(\w+)", str(said))) <= set(SCHEMAS)
    ids = [operation["operationId"] for methods in said["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


def test_every_route_that_is_described_is_there(web: httpx.Client) -> None:
    for route in ROUTES:
        path = route.path.format(model="policy", ref="2", name="nothing.css") if "{" in route.path else route.path
        with web.stream("GET", path) as said:
            assert said.status_code in route.answers, (route.path, said.status_code)


# --- models and versions ---------------------------------------------------------------------------------------------


def test_models_are_listed_by_namespace_and_page(web: httpx.Client) -> None:
    names = [model["model_id"] for model in told(web, "/v1/models")["models"]]
    assert names == ["many", "policy"]
    assert [model["model_id"] for model in told(web, "/v1/models?namespace=lab")["models"]] == ["elsewhere"]
    first = told(web, "/v1/models?limit=1")
    assert [model["model_id"] for model in first["models"]] == ["many"] and first["next"] == "many"
    assert [model["model_id"] for model in told(web, f"/v1/models?limit=1&after={first['next']}")["models"]] == ["policy"]
    policy = told(web, "/v1/models/policy")
    assert (policy["newest"], policy["versions"], policy["aliases"]) == (4, 4, {"champion": 2})


def test_versions_have_what_was_said_of_them(web: httpx.Client) -> None:
    one, two, three, four = told(web, "/v1/models/policy/versions")["versions"]
    assert [version["number"] for version in (one, two, three, four)] == [1, 2, 3, 4]
    assert two["aliases"] == ["champion"] and two["tags"] == {"stage": "candidate"} and two["metrics"] == {"return": 1.0}
    assert two["user_data"] == {"step": "1", "<b>": "&\u2028"} and two["created"].endswith("Z")
    assert four["metrics"] == {"loss": "NaN", "best": "Infinity"} and four["archived"]
    assert four["sha256"] == hashlib.sha256(BIG).hexdigest() and four["size"] == len(BIG)
    for ref, number in (("champion", 2), ("latest", 4), ("-1", 4), ("-3", 2), ("3", 3)):
        assert told(web, f"/v1/models/policy/versions/{ref}")["number"] == number


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_of_versions_neither_repeat_nor_leave_out(web: httpx.Client, order: str) -> None:
    found: list[int] = []
    after = ""
    while True:
        page = told(web, f"/v1/models/many/versions?limit=7&order={order}{after}")
        found += [version["number"] for version in page["versions"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == sorted(range(1, 26), reverse=order == "desc")


def test_subscribers_and_how_far_they_are(served: BroadcasterProcess, web: httpx.Client) -> None:
    with clients.connect(served.url, name="actor-1") as client:
        subscriber = client.subscriber("policy")
        subscriber.wait(timeout=20)
        wait_until(lambda: told(web, "/v1/models/policy/subscribers")["subscribers"][:1], "it is known")
        wait_until(lambda: told(web, "/v1/models/policy/subscribers")["subscribers"][0]["applied"] == 4, "it is up to date")
        (one,) = told(web, "/v1/models/policy/subscribers")["subscribers"]
        assert one["name"] == "actor-1" and one["lag"] == subscriber.lag.versions == 0


REFUSED = {
    "/v1/models/nothing": (404, "unknown-model"),
    "/v1/models/nothing/versions": (404, "unknown-model"),
    "/v1/models/nothing/subscribers": (404, "unknown-model"),
    "/v1/models/policy/versions/99": (404, "unknown-version"),
    "/v1/models/policy/versions/99/data": (404, "unknown-version"),
    "/v1/models/policy/versions/0": (404, "unknown-version"),
    "/v1/models/policy/versions/-99": (404, "unknown-version"),
    "/v1/models/policy/versions/nobody": (404, "unknown-version"),
    "/v1/models/policy/versions/not valid": (400, "invalid-name"),
    "/v1/models/%2e%2e": (400, "invalid-name"),
    "/v1/models/" + "m" * 200: (400, "invalid-name"),
    "/v1/models?namespace=..": (400, "invalid-name"),
    "/v1/models?limit=0": (400, "invalid-request"),
    "/v1/models?limit=1001": (400, "invalid-request"),
    "/v1/models?limit=x": (400, "invalid-request"),
    "/v1/models?limit=1&limit=2": (400, "invalid-request"),
    "/v1/models/policy/versions?order=up": (400, "invalid-request"),
    "/v1/models/policy/versions?after=-1": (400, "invalid-request"),
    "/v1/models/policy/versions?order=desc&after=rubbish": (400, "invalid-request"),
    "/v1/models/policy/subscribers?after=zz": (400, "invalid-request"),
    "/v1/events?after=7": (400, "invalid-request"),
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_cannot_be_answered_is_told_as_a_problem(web: httpx.Client, path: str) -> None:
    status, code = REFUSED[path]
    said = web.get(path)
    assert said.status_code == status, said.text
    problem = said.json()
    assert problem["code"] == code and problem["status"] == status and said.headers["x-request-id"] == problem["request_id"]
    assert said.headers["content-type"] == "application/problem+json"


def test_a_deleted_version_is_gone(served: BroadcasterProcess, web: httpx.Client) -> None:
    with clients.connect(served.url) as client:
        client.publisher("short-lived").publish(b"x")
        client.publisher("short-lived").publish(b"y")
        client.registry.delete("short-lived", 1)
        assert told(web, "/v1/models/short-lived/versions/1", 410)["code"] == "version-deleted"
        client.registry.delete_model("short-lived")


# --- payloads --------------------------------------------------------------------------------------------------------

DATA = "/v1/models/policy/versions/4/data"


def test_a_payload_comes_whole(web: httpx.Client) -> None:
    said = web.get(DATA)
    assert said.status_code == 200 and said.content == BIG
    assert said.headers["content-length"] == str(len(BIG)) and said.headers["accept-ranges"] == "bytes"
    assert said.headers["etag"] == f'"{hashlib.sha256(BIG).hexdigest()}"' and "immutable" in said.headers["cache-control"]
    assert said.headers["content-disposition"].startswith("attachment;")
    small = web.get("/v1/models/policy/versions/champion/data")
    assert small.content == b"weights 1" and "no-cache" in small.headers["cache-control"]
    head = web.head(DATA)
    assert head.content == b"" and dict(head.headers) | {"x-request-id": "", "date": ""} == dict(said.headers) | {
        "x-request-id": "",
        "date": "",
    }


@pytest.mark.parametrize(
    "first, end",
    [(0, 1), (0, 1 << 20), ((1 << 20) - 3, (1 << 20) + 3), (1 << 20, 2 << 20), (5, len(BIG)), (len(BIG) - 1, len(BIG))],
)
def test_a_range_of_a_payload_comes(web: httpx.Client, first: int, end: int) -> None:
    said = web.get(DATA, headers={"Range": f"bytes={first}-{end - 1}"})
    assert said.status_code == 206 and said.content == BIG[first:end]
    assert said.headers["content-range"] == f"bytes {first}-{end - 1}/{len(BIG)}"


def test_suffixes_open_ranges_and_what_lies_outside(web: httpx.Client) -> None:
    assert web.get(DATA, headers={"Range": "bytes=-100"}).content == BIG[-100:]
    assert web.get(DATA, headers={"Range": f"bytes={len(BIG) - 7}-"}).content == BIG[-7:]
    outside = web.get(DATA, headers={"Range": f"bytes={len(BIG)}-"})
    assert outside.status_code == 416 and outside.headers["content-range"] == f"bytes */{len(BIG)}"
    for ignored in ("bytes=0-1,5-6", "pages=1-2", "bytes=9-1"):
        assert web.head(DATA, headers={"Range": ignored}).status_code == 200


def test_what_a_client_has_already_is_not_sent_again(web: httpx.Client) -> None:
    tag = web.head(DATA).headers["etag"]
    again = web.get(DATA, headers={"If-None-Match": tag})
    assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == tag
    digest = told(web, "/v1/models/policy/versions/4")["digest"]
    assert web.get(DATA, headers={"If-None-Match": f'W/"{digest}"'}).status_code == 304
    assert web.head(DATA, headers={"If-None-Match": '"other"'}).status_code == 200
    part = {"Range": "bytes=0-9"}
    assert web.head(DATA, headers=part | {"If-Range": tag}).status_code == 206
    assert web.head(DATA, headers=part | {"If-Range": '"other"'}).status_code == 200


def test_a_download_takes_little_memory_however_large_it_is(served: BroadcasterProcess, web: httpx.Client) -> None:
    payload = os.urandom(1 << 20) * 96
    web.get(DATA)
    pid = served.pids[2]

    def most() -> int:
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) >> 10

    with clients.connect(served.url) as client:
        client.publisher("large").publish(payload)
        before = most()
        assert hashlib.sha256(web.get("/v1/models/large/versions/1/data").content).digest() == hashlib.sha256(payload).digest()
        client.registry.delete_model("large")
    assert most() - before < 32


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_stats_have_rates_and_quantiles(served: BroadcasterProcess, web: httpx.Client) -> None:
    told(web, "/v1/stats")
    with clients.connect(served.url) as client:
        subscriber, publisher = client.subscriber("rated"), client.publisher("rated")
        publisher.publish(b"first")
        subscriber.wait(timeout=20)

        # Who has received nothing before is a late joiner as far as the broadcaster knows.
        path = "/v1/models/rated/subscribers"
        wait_until(lambda: [one for one in told(web, path)["subscribers"] if one["received"]], "its first ack is there")

        def seen() -> int:
            return int(told(web, "/v1/stats")["quantiles"]["visible_seconds"]["count"])

        for _ in range(3):  # Each waits for the ack of the one before, which comes 50 to 100 ms late: that is not in here.
            before, number = seen(), publisher.publish(b"x").number
            subscriber.wait(timeout=20, newer_than=number - 1)
            wait_until(lambda before=before: seen() > before, "it is acked")  # type: ignore[misc]
        wait_until(lambda: told(web, "/v1/stats")["per_second"]["publishes"], "there are rates")
        said = told(web, "/v1/stats")
        assert 0 < said["quantiles"]["publish_seconds"]["p50_seconds"] < 1
        assert 0 < said["quantiles"]["visible_seconds"]["p50_seconds"] < 0.05
        client.registry.delete_model("rated")


def test_every_stat_of_the_core_is_in_the_table(served: BroadcasterProcess) -> None:
    with clients.connect(served.url) as client:
        assert [name for name in client.registry.stats() if not table.is_told(name)] == []
        assert [name for name in table.GAUGES if name not in client.registry.stats()] == []


def test_open_metrics_are_told_where_they_are_asked_for(served: BroadcasterProcess, web: httpx.Client) -> None:
    with clients.connect(served.url, name='actor "2"\n') as client:
        subscribers = [client.subscriber("policy") for _ in range(25)]
        for subscriber in subscribers:
            subscriber.wait(timeout=20)
        said = web.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert said.headers["content-type"].startswith("application/openmetrics-text")

        def families() -> dict[str, Any]:
            text = web.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}).text
            return {family.name: family for family in text_string_to_metric_families(text)}

        wait_until(lambda: len(families()["broadcaster_subscriber_lag_versions"].samples) == 20, "the worst are told by name")
        found = families()
        assert found["broadcaster_other_subscribers"].samples[0].value >= 5
        assert {one.labels["state"] for one in found["broadcaster_slots"].samples} == {"used", "free", "pinned", "lost"}
        assert {one.labels["reason"] for one in found["broadcaster_dropped"].samples} >= {"chunk", "ack", "reply"}
        assert found["broadcaster_publish_seconds"].type == "histogram"
        assert {one.labels["name"] for one in found["broadcaster_subscriber_lag_seconds"].samples} == {'actor "2"\n'}
