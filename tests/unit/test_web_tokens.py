"""The file of tokens: what is in it, who may have written it, and that a token is nowhere but where it was shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broadcaster.protocol.errors import AlreadyExists, ConfigError, InvalidName, InvalidRequest
from broadcaster.web import tokens
from broadcaster.web.tokens import Grant, TokenFile, add_token, read_tokens, remove_token


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tokens, "LOOK", 0.0)
    return tmp_path / "keys" / "http-tokens.toml"


def test_a_token_is_known_and_its_file_does_not_have_it(file: Path) -> None:
    assert TokenFile(file).needed is False and TokenFile(None).needed is False
    token = add_token(file, "dashboard", "learner", ["default/policy-*"])
    assert len(token) >= 43 and token not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    found = TokenFile(file)
    assert found.needed
    grant = found.grant_of(token)
    assert grant is not None and (grant.name, grant.role) == ("dashboard", "learner")
    assert grant.allows("default", "policy-1") and not grant.allows("default", "value") and not grant.allows("lab", "policy-1")
    for wrong in ("", token[:-1], token + "x", "ü\udc80", grant.digest.hex()):
        assert found.grant_of(wrong) is None
    assert os.listdir(file.parent) == [file.name]


def test_a_token_that_is_taken_back_is_known_no_more_and_the_last_one_leaves_the_door_closed(file: Path) -> None:
    token, other = add_token(file, "one", "actor"), add_token(file, "two", "admin")
    found = TokenFile(file)
    grant = found.grant_of(token)
    assert grant is not None and found.holds(grant)
    assert remove_token(file, "one") and not remove_token(file, "one")
    assert found.grant_of(token) is None and not found.holds(grant) and found.grant_of(other) is not None
    assert remove_token(file, "two")
    assert found.needed and found.grant_of(other) is None


@pytest.mark.parametrize("done", ["removed", "writable", "link", "broken", "folder", "unknown"])
def test_a_file_that_cannot_be_trusted_lets_nobody_in(file: Path, done: str) -> None:
    token = add_token(file, "one", "admin")
    found = TokenFile(file)
    assert found.grant_of(token) is not None
    text = file.read_text()
    if done == "writable":
        file.chmod(0o662)
    else:
        file.unlink()
    if done == "link":
        file.with_name("elsewhere").write_text(text)
        file.symlink_to(file.with_name("elsewhere"))
    elif done == "broken":
        file.write_text(text + "\n[[token")
    elif done == "folder":
        file.mkdir()
    elif done == "unknown":
        file.write_text(text + "\n[[tokens]]\n")
    assert found.needed and found.grant_of(token) is None and found.trouble
    if done != "removed":
        with pytest.raises(ConfigError):
            read_tokens(file)


@pytest.mark.parametrize(
    "line",
    ['role = "root"', 'sha256 = "xyz"', 'models = "all"', 'models = ["two/slashes/in"]', 'name = "a b"', "name = 3"],
)
def test_a_wrong_entry_is_named(file: Path, line: str) -> None:
    add_token(file, "one", "admin")
    key = line.partition(" ")[0]
    kept = [one for one in file.read_text().splitlines() if not one.startswith(key)]
    file.write_text("\n".join([*kept, line]))
    with pytest.raises(ConfigError, match="http-tokens"):
        read_tokens(file)


def test_wrong_arguments_make_no_token(file: Path) -> None:
    add_token(file, "one", "admin")
    before = file.read_text()
    for kind, name, role, models in (
        (AlreadyExists, "one", "admin", ["*/*"]),
        (InvalidName, 'a"b', "admin", ["*/*"]),
        (InvalidRequest, "two", "root", ["*/*"]),
        (InvalidRequest, "two", "admin", ["a/b\"]\nrole = 'x"]),
    ):
        with pytest.raises(kind):
            add_token(file, name, role, models)
    assert file.read_text() == before


def test_roles_are_in_order() -> None:
    ranks = {name: Grant("x", name) for name in tokens.ROLES}
    assert [ranks["actor"].has(role) for role in tokens.ROLES] == [True, False, False]
    assert [ranks["learner"].has(role) for role in tokens.ROLES] == [True, True, False]
    assert all(ranks["admin"].has(role) for role in tokens.ROLES)
