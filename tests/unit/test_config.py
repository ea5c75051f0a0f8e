"""Settings: which source wins, and that all mistakes are told at once, each with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from broadcaster.config import Settings, is_loopback, load_settings
from broadcaster.protocol.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, "config"]:
        monkeypatch.delenv(f"BROADCASTER_{name.upper()}", raising=False)


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "broadcaster.toml"
    file.write_text(text)
    return file


def refusal(flags: dict[str, object], file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        load_settings(flags, file)
    return str(refused.value)


def test_without_a_word_it_listens_on_loopback_at_the_known_ports() -> None:
    settings = load_settings({})
    assert (settings.host, settings.upload_port, settings.push_port, settings.data_port) == ("127.0.0.1", 5550, 5551, 5552)
    assert settings.memory_budget == 1 << 30


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml(tmp_path, 'keep = 1\nkeep-large = 1\nexpiry = 1\narchive_dir = "here"')
    monkeypatch.setenv("BROADCASTER_KEEP", "2")
    monkeypatch.setenv("BROADCASTER_KEEP_LARGE", "2")
    settings = load_settings({"keep": "3", "expiry": None}, file)
    assert (settings.keep, settings.keep_large, settings.expiry) == (3, 2, 1.0)
    assert settings.archive_dir == Path("here")


def test_the_environment_names_the_file_unless_a_flag_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROADCASTER_CONFIG", str(toml(tmp_path, "keep = 7")))
    assert load_settings({}).keep == 7
    other = tmp_path / "other.toml"
    other.write_text("keep = 8")
    assert load_settings({}, other).keep == 8


def test_one_file_leaves_nothing_behind_for_the_next(tmp_path: Path) -> None:
    assert load_settings({}, toml(tmp_path, "keep = 7")).keep == 7
    assert load_settings({}).keep == 1000


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROADCASTER_SLOT_DIR", "")
    monkeypatch.setenv("BROADCASTER_CONFIG", "")
    assert load_settings({}).slot_dir is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 1 << 20), ("512MiB", 512 << 20), ("1g", 1 << 30), ("1.5 GiB", 3 << 29), ("2048k", 2 << 20), (" 1M ", 1 << 20)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert load_settings({"memory_budget": text}).memory_budget == size


@pytest.mark.parametrize("text", ["", "x", "1TB", "-1", "1 g b", "1e9", "9" * 400, "1.", "٣g"])
def test_a_size_that_is_none_is_refused_with_what_would_be_right(text: str) -> None:
    assert "memory-budget: must be a number of bytes, or a number with KiB, MiB or GiB" in refusal({"memory_budget": text})


WRONG = {
    "upload-port": {"upload_port": "70000"},
    "push-port": {"push_port": "x"},
    "memory-budget": {"memory_budget": "5q"},
    "max-payload": {"max_payload": "65GiB"},
    "keep": {"keep": "0"},
    "keep-large": {"keep_large": "many"},
    "expiry": {"expiry": "nan"},
    "host": {"host": ""},
    "log-level": {"log_level": "loud"},
    "advertise": {"advertise": ""},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_by_its_flag(name: str) -> None:
    assert refusal(WRONG[name]).startswith(f"{name}: ")


def test_all_mistakes_of_all_sources_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {key: value for given in WRONG.values() for key, value in given.items() if key not in ("keep", "expiry")}
    monkeypatch.setenv("BROADCASTER_KEEP", "0")
    said = refusal(flags, toml(tmp_path, 'expiry = -1\narchiv_dir = "x"'))
    assert [name for name in [*WRONG, "archiv-dir"] if f"{name}: " not in said] == []
    assert "archiv-dir: there is no such setting" in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "learner.example", "*"])
def test_a_host_that_the_network_reaches_is_none_of_loopback(host: str) -> None:
    settings = load_settings({"host": host})
    assert settings.host == host.replace("*", "0.0.0.0") and not is_loopback(settings.host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_word(host: str) -> None:
    assert is_loopback(host) and load_settings({"host": host}).host == host


def test_two_channels_cannot_share_a_port_but_both_may_pick_one() -> None:
    assert refusal({"upload_port": "6000", "data_port": "6000"}).startswith("data-port: 6000 is the upload-port already")
    assert refusal({"push_port": "5550"}).startswith("push-port: 5550 is the upload-port already")
    assert load_settings({"upload_port": "0", "push_port": "0", "data_port": "0"}).data_port == 0


def test_a_file_that_is_missing_or_no_toml_is_one_sentence(tmp_path: Path) -> None:
    assert "there is no file" in refusal({}, tmp_path / "none.toml")
    assert "broadcaster.toml: " in refusal({}, toml(tmp_path, "keep = = 1"))
    (tmp_path / "latin.toml").write_bytes(b'host = "\xff"')
    assert "latin.toml: " in refusal({}, tmp_path / "latin.toml")
    assert "cannot be read" in refusal({}, tmp_path)


def test_a_table_in_the_file_where_a_value_belongs_is_a_mistake_not_a_crash(tmp_path: Path) -> None:
    said = refusal({}, toml(tmp_path, "[keep]\nx = 1\n[serve]\nhost = 'a'"))
    assert "keep: " in said and "serve: there is no such setting" in said
