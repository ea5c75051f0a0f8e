"""Roles, the file of keys, and the guard: what stands in no table is not allowed."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from broadcaster.protocol.errors import AccessDenied, AlreadyExists, ConfigError
from broadcaster.protocol.keyfile import Key, parse_key, write_key
from broadcaster.protocol.messages import KINDS, Abort, Begin, Commit, Follow, GetModel, ListModels, Request
from broadcaster.security import LOCAL, NETWORK, TRUSTED, Book, Entry, Grant, Guard, KeyDirectory, Verb, admit, read_book
from broadcaster.security.roles import VERBS
from broadcaster.web.tokens import add_token, read_tokens

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ALICE, BOB, NEW = "A" * 40, "B" * 40, "C" * 40
ID = bytes(16)


def guard(**entries: tuple[str, str]) -> Guard:
    """alice="learner policy-*": keys of one letter by name."""
    keys = {name[0].upper() * 40: Entry(name, (Grant(role, "default", models),)) for name, (role, models) in entries.items()}
    return Guard(Book(keys))


def begin(model: str, upload_id: bytes = ID) -> Begin:
    return Begin(request_id=ID, model_id=model, upload_id=upload_id, size=1)


MAY = {
    "actor": {Verb.FOLLOW, Verb.READ},
    "relay": {Verb.FOLLOW, Verb.READ},
    "learner": {Verb.FOLLOW, Verb.READ, Verb.PUBLISH},
    "admin": {Verb.FOLLOW, Verb.READ, Verb.PUBLISH, Verb.ADMINISTER},
    "nobody": set(),
}


@pytest.mark.parametrize(("role", "verb"), list(itertools.product(MAY, Verb)))
def test_a_role_may_what_its_row_says_to_its_models_and_nothing_else(role: str, verb: Verb) -> None:
    grant = Grant(role, "lab-*", "policy-?")
    assert grant.allows(verb, "lab-1", "policy-a") is (verb in MAY[role])
    for namespace, model in (("lab-1", "policy-ab"), ("lab-1", "value"), ("default", "policy-a"), ("lab-1", None)):
        assert not grant.allows(verb, namespace, model)
    assert Grant(role, "lab-1", "*").allows(verb, "lab-1", None) is (verb in MAY[role])


def test_every_request_has_its_verb() -> None:
    requests = {kind for kind in KINDS.values() if issubclass(kind, Request)}
    assert requests <= set(VERBS), "a new request is for admins only until it stands in the table"


def test_a_whole_namespace_is_for_those_who_may_see_all_of_it() -> None:
    some = guard(alice=("actor", "policy-*"), bob=("actor", "*"))
    some.check(ALICE, GetModel(request_id=ID, model_id="policy-a"))
    some.check(BOB, ListModels(request_id=ID))
    with pytest.raises(AccessDenied, match="all models of namespace default"):
        some.check(ALICE, ListModels(request_id=ID))


def test_a_refusal_says_who_asked_for_what_and_what_they_may() -> None:
    with pytest.raises(AccessDenied) as refused:
        guard(alice=("actor", "policy-*")).check(ALICE, begin("policy-a"))
    assert str(refused.value) == (
        "the request begin is not allowed: key alice may not publish default/policy-a: "
        "it may follow/read default/policy-* (actor)"
    )


def test_an_upload_is_its_owners_alone() -> None:
    two = guard(alice=("learner", "*"), bob=("learner", "*"))
    two.check(ALICE, begin("policy"))
    two.check(ALICE, begin("policy"))
    for request in (begin("policy"), Commit(request_id=ID, upload_id=ID, digest=""), Abort(request_id=ID, upload_id=ID)):
        for user in (BOB, TRUSTED):
            with pytest.raises(AccessDenied, match="another user's"):
                two.check(user, request)
    assert two.owns(ALICE, ID) and not two.owns(BOB, ID) and not two.owns(TRUSTED, ID) and not two.owns("", ID)
    two.check(ALICE, Commit(request_id=ID, upload_id=ID, digest=""))


def test_two_keys_of_one_name_are_one_user() -> None:
    both = Guard(Book({ALICE: Entry("alice", (Grant("learner", "*", "*"),)), NEW: Entry("alice", (Grant("learner", "*", "*"),))}))
    both.check(ALICE, begin("policy"))
    both.check(NEW, Commit(request_id=ID, upload_id=ID, digest=""))


def test_a_subscriber_is_acked_by_its_owner_alone() -> None:
    two = guard(alice=("actor", "*"), bob=("actor", "*"))
    assert two.may_ack(ALICE, ID, "default", "policy") and two.may_ack(ALICE, ID, "default", "policy")
    assert not two.may_ack(BOB, ID, "default", "policy") and not two.may_ack(ALICE, b"x" * 16, "other", "policy")


def test_what_was_taken_back_counts_from_the_next_message_on() -> None:
    one = guard(alice=("learner", "*"), bob=("actor", "*"))
    before = one.book
    one.check(ALICE, begin("policy"))
    assert not one.change(Book({**before.keys, NEW: Entry("new", ())})), "more is no less"
    assert one.change(Book({BOB: before.keys[BOB]}))
    for request in (begin("policy"), Follow(request_id=ID, model_id="policy"), Commit(request_id=ID, upload_id=ID, digest="")):
        with pytest.raises(AccessDenied, match="not valid any more"):
            one.check(ALICE, request)
    assert one.change(Book({BOB: Entry("bob", (Grant("actor", "default", "x"),))}))
    assert not one.may_subscribe(BOB, "default", "policy") and one.may_subscribe(BOB, "default", "x")


def test_keys_and_tokens_have_patterns_of_one_form(tmp_path: Path) -> None:
    for pattern, meant in (
        ("policy-*", ("default", "policy-*")),
        ("lab/*", ("lab", "*")),
        ("*/*", ("*", "*")),
        ("*", ("default", "*")),
    ):
        grants = read_book(entry(models=f'"{pattern}"'), "keys.toml", NOW).keys[ALICE].grants
        assert [(grant.namespace, grant.models) for grant in grants] == [meant]
        file = tmp_path / f"{len(pattern)}{pattern.count('/')}.toml"
        add_token(file, "alice", "actor", [pattern])
        assert [grant.models for grant in read_tokens(file)] == [("/".join(meant),)]
    assert read_book(entry(models='"x"', namespace='"lab-*"'), "keys.toml", NOW).keys[ALICE].grants[0].namespace == "lab-*"


# --- the door --------------------------------------------------------------------------------------------------------


def question(domain: str, mechanism: bytes, *credentials: bytes, version: bytes = b"1.0") -> list[bytes]:
    return [version, b"7", domain.encode(), b"10.0.0.1", b"", mechanism, *credentials]


def test_only_known_keys_and_the_host_itself_get_in() -> None:
    public, _ = zmq.curve_keypair()
    other, _ = zmq.curve_keypair()
    book = Book({public.decode(): Entry("alice", ())})
    answer, admitted = admit(question(NETWORK, b"CURVE", z85.decode(public)), book)
    assert admitted and answer == [b"1.0", b"7", b"200", b"OK", public, b""]
    assert admit(question(LOCAL, b"NULL"), book)[0][4] == TRUSTED.encode()
    for wrong in (
        question(NETWORK, b"CURVE", z85.decode(other)),
        question(NETWORK, b"NULL"),
        question(NETWORK, b"PLAIN", b"alice", b"x"),
        question(NETWORK, b"CURVE"),
        question(NETWORK, b"CURVE", b"short"),
        question(LOCAL, b"CURVE", z85.decode(public)),
        question("", b"NULL"),
        question(NETWORK, b"CURVE", z85.decode(public), version=b"2.0"),
        [b"1.0", b"7"],
        [],
    ):
        answer, admitted = admit(wrong, book)
        assert not admitted and answer[2] != b"200" and answer[4] == b"", wrong


# --- files -----------------------------------------------------------------------------------------------------------


def entry(**given: str) -> str:
    fields = {"name": '"alice"', "public": f"'{ALICE}'", "role": '"actor"'} | given
    return "[[key]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items() if value)


def test_a_book_is_read_as_it_is_meant() -> None:
    text = entry() + entry(role='"learner"', models='"policy-*"') + entry(public=f"'{BOB}'", expires="2029-12-31T23:59:59Z")
    book = read_book(text, "keys.toml", NOW)
    assert book.keys == {ALICE: Entry("alice", (Grant("actor", "default", "*"), Grant("learner", "default", "policy-*")))}
    assert read_book("", "keys.toml", NOW).keys == {}


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[key]",
        "key = 1",
        "other = 1",
        entry(name='"../x"'),
        entry(name=""),
        entry(public="'short'"),
        entry(public=f"'{'€' * 40}'"),
        entry(role='"root"'),
        entry(models='"a/b/c"'),
        entry(models='"a/b"', namespace='"a"'),
        entry(namespace='"a/b"'),
        entry(models='"lab/"'),
        entry(namespace="1"),
        entry(expires='"soon"'),
        entry(admin="true"),
        entry() + entry(name='"bob"'),
    ],
)
def test_a_book_with_anything_wrong_in_it_is_no_book(text: str) -> None:
    with pytest.raises(ConfigError, match="keys.toml"):
        read_book(text, "keys.toml", NOW)


def test_keys_are_made_for_their_owner_alone_and_over_nothing(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path / "keys")
    assert not keys.exists and keys.ensure() == tmp_path / "keys" / "admin.key" and keys.ensure() is None
    made = keys.make("alice", Grant("learner", "default", "policy-*"))
    assert keys.directory.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in keys.directory.iterdir()} == dict.fromkeys(
        ("server.key", "keys.toml", "admin.key", "alice.key", ".lock"), 0o600
    )
    key = parse_key(made.read_text(), "alice.key")
    assert key.server == keys.server_key().public
    assert keys.book().keys[key.public] == Entry("alice", (Grant("learner", "default", "policy-*"),))
    assert key.secret not in keys.book_file.read_text() + repr(key) + repr(keys.server_key())
    with pytest.raises(AlreadyExists, match="--file"):
        keys.make("alice", Grant("learner", "default", "*"))
    (keys.directory / "bob.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists):
        keys.make("bob", Grant("learner", "default", "*"))
    assert not (tmp_path / "elsewhere").exists() and len(keys.book().keys) == 2


def test_files_that_others_can_meddle_with_are_refused(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path)
    keys.ensure()
    keys.book_file.chmod(0o622)
    with pytest.raises(ConfigError, match="can be written by others"):
        keys.book()
    (tmp_path / "server.key").chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        keys.server_key()
    (tmp_path / "server.key").rename(tmp_path / "moved")
    (tmp_path / "server.key").symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.server_key()


def test_a_key_file_that_is_none_tells_nothing_of_what_is_in_it() -> None:
    key = Key("alice", ALICE, "s" * 40, BOB)
    assert parse_key(write_key(key), "x") == key
    for text in (write_key(key).replace("s" * 40, "s" * 39), "secret: " + "s" * 40):
        with pytest.raises(ConfigError) as refused:
            parse_key(text, "x")
        assert "sss" not in str(refused.value)
