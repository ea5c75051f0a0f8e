"""The token that a first start makes where the network reaches everything. Nothing is bound: `serve` asks the same first."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from broadcaster.cli.web import require_http_access
from broadcaster.config import load_settings
from broadcaster.protocol.errors import ConfigError
from broadcaster.web.tokens import TokenFile

OPEN = {"host": "0.0.0.0", "http_host": "0.0.0.0"}


def test_the_first_start_makes_a_token_that_opens_and_is_told_to_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = load_settings(OPEN | {"archive_dir": tmp_path})
    require_http_access(settings)
    kept = tmp_path / "keys" / "admin.token"
    token = kept.read_text().strip()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    grant = TokenFile(settings.token_file).grant_of(token)
    assert grant is not None and grant.role == "admin" and grant.covers_all
    assert str(kept) in caplog.text and token not in caplog.text
    assert token not in settings.token_file.read_text()


def test_the_second_start_makes_none(tmp_path: Path) -> None:
    settings = load_settings(OPEN | {"archive_dir": tmp_path})
    require_http_access(settings)
    before = (tmp_path / "keys" / "admin.token").read_text()
    require_http_access(settings)
    assert (tmp_path / "keys" / "admin.token").read_text() == before


def test_what_cannot_be_kept_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "keys" / "admin.token").mkdir(parents=True)
    settings = load_settings(OPEN | {"archive_dir": tmp_path})
    with pytest.raises(ConfigError, match=r"admin\.token cannot be written"):
        require_http_access(settings)
    assert not settings.token_file.exists()


def test_insecure_makes_none_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    require_http_access(load_settings(OPEN | {"archive_dir": tmp_path, "insecure": True}))
    assert list(tmp_path.iterdir()) == [] and "INSECURE" in caplog.text


def test_http_alone_on_the_network_is_refused_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no token"):
        require_http_access(load_settings({"http_host": "0.0.0.0", "archive_dir": tmp_path}))
