"""Whatever is changed in whatever order, and whatever the disk refuses: the next life knows what this one answered."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol.errors import StoreUnavailable
from broadcaster.store.archive import Archive
from tests.bare_peer import BarePeer, wait_until
from tests.integration.cores import Inbox, rooms, serving

MODELS = ("policy", "value")
WRITES = (
    "set_model",
    "set_tags",
    "set_description",
    "add_metrics",
    "set_pinned",
    "delete_version",
    "delete_model",
    "keep",
    "annotate",
)


class Disk:
    """Refuses a part of all writes, before they begin."""

    def __init__(self, chance: random.Random, patch: pytest.MonkeyPatch) -> None:
        self.part = 0.0
        self._chance = chance
        for name in (*WRITES, "delete_versions"):
            patch.setattr(Archive, name, self._refusing(getattr(Archive, name)))

    def _refusing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*given: Any, **named: Any) -> Any:
            if self._chance.random() < self.part:
                raise StoreUnavailable(operation="writing", where="the archive", reason="no", hint="Check the disk.")
            return real(*given, **named)

        return write


def change(chance: random.Random, numbers: list[int]) -> tuple[str, dict[str, Any]]:
    number, word = chance.choice(numbers or [1]), chance.choice("abc")
    versions: dict[str, dict[str, Any]] = {
        "set-alias": {"alias": word, "number": chance.choice([number, None])},
        "set-tags": {"number": chance.choice([number, None]), "tags": {word: chance.choice(["x", "y", None])}},
        "describe": {"number": chance.choice([number, None]), "description": word},
        "add-metrics": {"number": number, "metrics": {word: chance.random()}},
        "pin": {"ref": number, "pinned": chance.random() < 0.5},
        "delete-version": {"number": number, "force": chance.random() < 0.5},
        "archive": {"ref": number},
        "set-retention": {"retention": chance.choice([None, {"last": 3}])},
        "prune": {"retention": {"last": 4}},
        "update-model": {"user_data": {word: word}},
        "create-model": {"tags": {"made": word}, "exist_ok": True},
        "delete-model": {"force": True},
    }
    kind = chance.choices(list(versions), [4, 4, 4, 4, 3, 2, 2, 1, 1, 2, 1, 0.5])[0]
    return kind, {"model_id": chance.choice(MODELS)} | versions[kind]


Known = dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]


def known(peer: BarePeer, unless: set[tuple[str, int]]) -> Known:
    """The models, and the archived versions of each but those of `unless`. What follows from transient versions is left out."""
    found: Known = {}
    for model in peer.ask("list-models").fields["models"]:
        versions = peer.ask("list-versions", model_id=model["model_id"]).fields["versions"]
        told = {name: value for name, value in model.items() if name not in ("newest", "versions", "creation_timestamp")}
        archived = [version for version in versions if version.get("archived")]
        found[model["model_id"]] = told, [one for one in archived if (model["model_id"], one["number"]) not in unless]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_next_life_knows_what_was_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    disk, before, doubtful = Disk(chance, monkeypatch), Known(), set[tuple[str, int]]()
    for life in range(3):
        with serving(tmp_path) as (made, peer):
            assert known(peer, doubtful) == before, f"seed {seed}, life {life}"
            inbox, numbers = Inbox(peer), list[int]()
            for _ in range(20):
                disk.part = chance.choice([0.0, 0.0, 0.3])
                changes = [change(chance, numbers) for _ in range(chance.randint(1, 5))]
                asked = {inbox.send(kind, **fields): fields for kind, fields in changes}
                model = chance.choice(MODELS)
                said = peer.publish(model, chance.randbytes(9), archived=chance.random() < 0.5)
                if said.kind == "done":
                    numbers = [*numbers[-5:], said.fields["version"]["number"]]
                elif "number" in said.fields["facts"]:
                    doubtful.add((model, said.fields["facts"]["number"]))  # Perhaps it was archived all the same.
                for request_id, fields in asked.items():
                    if inbox.answer(request_id).fields.get("code") == "store-unavailable" and "ref" in fields:
                        doubtful.add((fields["model_id"], fields["ref"]))
            disk.part = 0.0
            for model in MODELS:  # Of one whose first write was refused nothing is known yet.
                peer.publish(model, b"last", archived=True)
            wait_until(lambda: not rooms(made).writer.pending and not rooms(made).readers.pending, "all is written")
            before = known(peer, doubtful)
