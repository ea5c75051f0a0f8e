"""What a user passes is checked before anything is sent, and the error names what and why."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from broadcaster.protocol.errors import InvalidRequest
from clients._address import Address
from clients._checks import check_annotations, check_metrics, check_ref, check_tags, check_timeout, check_user_data


@pytest.mark.parametrize(
    ("url", "data"),
    [
        ("tcp://localhost:5552", "tcp://127.0.0.1:5552"),
        ("tcp://learner", "tcp://learner:5552"),
        ("tcp://10.0.0.7:9", "tcp://10.0.0.7:9"),
        ("tcp://[::1]:7000", "tcp://[::1]:7000"),
        ("tcp://[fe80::1]", "tcp://[fe80::1]:5552"),
        ("ipc:///run/slots/data.sock", "ipc:///run/slots/data.sock"),
    ],
)
def test_an_address_names_the_data_channel(url: str, data: str) -> None:
    assert Address.parse(url).data == data


@pytest.mark.parametrize(
    "url", ["", "localhost:5552", "http://a:1", "tcp://", "tcp://a:0", "tcp://a:65536", "tcp://a:b", "ipc:///x", "tcp://::1:1"]
)
def test_what_is_no_address_is_refused_by_its_name(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROADCASTER_URL", raising=False)
    if not url:
        assert Address.parse(url).data == "tcp://127.0.0.1:5552"
        return
    with pytest.raises(InvalidRequest, match="neither tcp"):
        Address.parse(url)


def test_without_an_address_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROADCASTER_URL", "tcp://sidecar:1234")
    assert Address.parse(None).data == "tcp://sidecar:1234"


def test_the_other_channels_are_on_the_same_host_unless_the_broadcaster_names_another() -> None:
    address = Address.parse("tcp://a:1")
    assert address.of("push", {"push": 7}, None) == "tcp://a:7"
    assert address.of("push", {"push": 7}, "b") == "tcp://b:7"
    assert Address.parse("ipc:///d/data.sock").of("push", {"push": 7}, "b") == "ipc:///d/push.sock"
    with pytest.raises(InvalidRequest, match="names no port for the channel upload"):
        address.of("upload", {"push": 7}, None)


@pytest.mark.parametrize("value", [1, 1.5, np.float32(1.5), np.int64(3), np.array(2.0), np.float64("nan")])
def test_a_metric_is_any_single_number(value: Any) -> None:
    found = check_metrics({"return": value})["return"]
    assert type(found) is float and (found == float(value) or found != found)


@pytest.mark.parametrize("value", [True, "1", None, 1j, np.array([1.0, 2.0]), [1], 10**400])
def test_what_is_no_single_number_is_no_metric(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="metrics: 'return'"):
        check_metrics({"return": value})


def test_user_data_maps_text_to_text() -> None:
    assert check_user_data({"step": "1000"}) == {"step": "1000"}
    for wrong in ({"step": 1000}, {1: "a"}, {"a": b"a"}):
        with pytest.raises(InvalidRequest, match="user_data"):
            check_user_data(wrong)  # type: ignore[arg-type]
    assert check_tags({"a": None, "b": "c"}) == {"a": None, "b": "c"}
    with pytest.raises(InvalidRequest, match="tags"):
        check_tags({"a": 1})  # type: ignore[dict-item]


def test_annotations_have_a_limit_in_bytes_and_must_be_writable() -> None:
    check_annotations(user_data={"a": "x" * 16_000})
    with pytest.raises(InvalidRequest, match="over the limit of 16384 bytes"):
        check_annotations(user_data={"a": "x" * 17_000}, metrics={})
    with pytest.raises(InvalidRequest, match="surrogates"):
        check_annotations(user_data={"a": "\ud800"})


def test_a_reference_is_a_number_or_an_alias() -> None:
    assert [check_ref(ref) for ref in (3, -1, np.int64(4), "champion")] == [3, -1, 4, "champion"]
    assert [check_ref(ref) for ref in ("3", "-1", "3a", "²", "")] == [3, -1, "3a", "²", ""], "no alias is a number"
    for wrong in (True, 1.0, None, 1 << 63):
        with pytest.raises(InvalidRequest, match="neither a version number nor an alias"):
            check_ref(wrong)  # type: ignore[arg-type]


def test_a_timeout_is_a_number_of_seconds() -> None:
    assert check_timeout(3) == 3.0
    for wrong in (0, -1, float("nan"), float("inf"), "3", None, True):
        with pytest.raises(InvalidRequest, match="timeout"):
            check_timeout(wrong)  # type: ignore[arg-type]


def test_an_import_opens_nothing_and_loads_no_server_of_any_kind() -> None:
    count = "len(os.listdir('/proc/self/fd'))"
    source = f"import os, sys\nbefore = {count}\nimport clients, clients.aio\nprint({count} - before, *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    opened, *modules = done.stdout.split()
    assert opened == "0"
    assert {"sqlite3", "http", "broadcaster.broker"} & {name for name in modules} == set()
