"""The variables of the Cogment Model Registry: Go's durations, what each of them means, and what all of them imply."""

from __future__ import annotations

from pathlib import Path

import pytest

from broadcaster.cli.cogment import require_grpc_access
from broadcaster.cogment_variables import ALL, PORT, PREFIX, parse_duration, read_variables
from broadcaster.config import Settings, load_settings
from broadcaster.protocol.errors import ConfigError, MissingDependency


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, "config"]:
        monkeypatch.delenv(f"BROADCASTER_{name.upper()}", raising=False)


def said(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(PREFIX + name, text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("1h30m", 5400), ("1h0m0s", 3600), ("90m", 5400), ("1.5s", 1.5), ("300ms", 0.3), ("+2m", 120), (".5h", 1800),
     ("0", 0), ("100us", 1e-4), ("100µs", 1e-4), ("7ns", 7e-9), ("1s1s", 2)],
)  # fmt: skip
def test_a_duration_is_read_as_go_writes_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "3600", "h", "1 h", "1h ", "1d", "-1h", "1h-5m", "1,5s", "١h", "1.2.3s", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(text)


def test_without_a_variable_nothing_is_given_or_implied() -> None:
    found = read_variables({"HOME": "/", PREFIX + "PORT": "", "COGMENT_LOG_LEVEL": "debug", PREFIX + "SERVICE_HOST": "10.0.0.1"})
    assert (found.given, found.implied, found.mistakes) == ({}, {}, ())


def test_without_a_variable_grpc_is_off() -> None:
    settings = load_settings({})
    assert settings.grpc_port is None and settings.grpc_open is False


def test_every_variable_is_the_setting_that_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said(
        monkeypatch,
        PORT="9100",
        ARCHIVE_DIR="/data/models",
        VERSION_CACHE_MAX_SIZE="1073741824",
        VERSION_CACHE_EXPIRATION="1h30m",
        VERSION_CACHE_TO_PRUNE_COUNT="5",
        SENT_MODEL_VERSION_DATA_CHUNK_SIZE="5242880",
        GRPC_REFLECTION="1",
    )
    settings = load_settings({})
    assert (settings.grpc_port, settings.grpc_open, settings.grpc_reflection) == (9100, True, True)
    assert (settings.archive_dir, settings.memory_budget, settings.expiry) == (Path("/data/models"), 1 << 30, 5400.0)
    assert settings.grpc_chunk_size == 5 << 20, "what is sent is never that large, but the command is understood"
    assert (settings.keep, settings.keep_large) == (1000, ALL), "the byte budget alone decides"


def test_a_number_of_items_is_what_a_model_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, VERSION_CACHE_MAX_ITEMS="100")
    settings = load_settings({})
    assert (settings.keep, settings.keep_large) == (100, 100)


def test_one_variable_turns_it_on_at_the_port_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, GRPC_REFLECTION="false")
    settings = load_settings({})
    assert (settings.grpc_port, settings.grpc_open, settings.grpc_reflection) == (9000, True, False)


def test_a_variable_wins_over_ours_and_a_flag_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image has BROADCASTER_ARCHIVE_DIR; who names another directory in the old way means it."""
    said(monkeypatch, ARCHIVE_DIR="/old", PORT="9100")
    monkeypatch.setenv("BROADCASTER_ARCHIVE_DIR", "/data")
    monkeypatch.setenv("BROADCASTER_GRPC_PORT", "9200")
    assert load_settings({}).archive_dir == Path("/old") and load_settings({}).grpc_port == 9100
    assert load_settings({"archive_dir": "/flag", "grpc_port": "0"}).archive_dir == Path("/flag")


def test_what_a_variable_only_implies_yields_to_whatever_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said(monkeypatch, ARCHIVE_DIR="/old")
    monkeypatch.setenv("BROADCASTER_GRPC_OPEN", "false")
    file = tmp_path / "broadcaster.toml"
    file.write_text("keep_large = 16\ngrpc_port = 9300")
    settings = load_settings({}, file)
    assert (settings.grpc_port, settings.grpc_open, settings.keep_large) == (9300, False, 16)


def test_all_mistakes_are_told_at_once_each_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    said(
        monkeypatch, PORT="tcp://10.0.0.1:9000", VERSION_CACHE_EXPIRATION="3600", VERSION_CACHE_MAX_SIZE="0", GRPC_REFLECTION="x"
    )
    monkeypatch.setenv("BROADCASTER_KEEP", "none")
    with pytest.raises(ConfigError) as refused:
        load_settings({})
    for part in ("PORT: must be a port", "EXPIRATION: must be a duration", "MAX_SIZE: must be", "REFLECTION: must be", "keep: "):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("PORT", "65536"), ("PORT", "-1"), ("VERSION_CACHE_EXPIRATION", "0"), ("VERSION_CACHE_TO_PRUNE_COUNT", "few"),
     ("VERSION_CACHE_MAX_ITEMS", "0")],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    said(monkeypatch, **{name: text})
    with pytest.raises(ConfigError, match=name):
        load_settings({})


def test_without_the_extra_it_says_which_one_brings_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broadcaster.cli.cogment.find_spec", lambda name: None if name == "grpc_health" else object())
    with pytest.raises(MissingDependency) as missing:
        require_grpc_access(load_settings({"grpc_port": "0"}))
    assert str(missing.value) == "--grpc-port needs grpcio-health-checking: pip install 'model-broadcaster[grpc]'"


def test_to_open_it_turns_it_on_unless_it_is_turned_off_by_name() -> None:
    assert load_settings({"grpc_open": True}).grpc_on == PORT == 9000
    assert load_settings({"grpc_open": True, "grpc_port": "0"}).grpc_on == 0
    assert load_settings({"grpc_open": True, "grpc_port": "off"}).grpc_on is None
    assert load_settings({}).grpc_on is None


def test_it_listens_where_the_rest_does_unless_told_otherwise() -> None:
    assert load_settings({"host": "10.0.0.1"}).grpc_address == "10.0.0.1"
    assert load_settings({"host": "10.0.0.1", "grpc_host": "*"}).grpc_address == "0.0.0.0"
