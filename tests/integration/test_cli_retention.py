"""The commands for retention, pruning and pins, as processes against a real broadcaster."""

from __future__ import annotations

import json
import os

import pytest

from clients import connect
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import command, refused


@pytest.fixture
def filled(shared: BroadcasterProcess, model: str) -> str:
    """A model with six archived versions."""
    with connect(shared.url) as client:
        for at in range(6):
            client.publisher(model).publish(os.urandom(1000), archived=True, metrics={"loss": float(at)})
    return model


def test_a_model_is_pruned_after_a_look(shared: BroadcasterProcess, filled: str) -> None:
    rules = ("--keep-last", 2, "--keep-best", "loss:min:2")
    would = json.loads(command("prune", filled, *rules, "--dry-run", "--json", url=shared.url).stdout)
    assert would == {"numbers": [3, 4], "kept": 4, "bytes": 2000, "dry_run": True}
    assert command("prune", filled, *rules, "--dry-run", url=shared.url).stdout.startswith("3 4\n")
    assert command("pin", filled, 3, url=shared.url).stdout == f"{filled} 3: pinned\n"
    said = command("prune", filled, *rules, url=shared.url).stdout
    assert said == f"{filled}: 1 version(s) of 1000 B deleted, 5 kept\n"
    assert "archived, pinned" in command("versions", filled, url=shared.url).stdout
    assert "pinned" in refused(command("delete", filled, 3, url=shared.url), 1)
    assert not json.loads(command("unpin", filled, 3, "--json", url=shared.url).stdout).get("pinned")
    assert "was deleted" in refused(command("fetch", filled, 4, url=shared.url), 4)


def test_a_models_own_rules_are_set_shown_and_ended(shared: BroadcasterProcess, filled: str) -> None:
    assert "all archived versions stay" in command("retention", filled, url=shared.url).stdout
    given = ("--keep-last", 50, "--keep-every", 10, "--keep-best", "loss", "--keep-age", "12h")
    found = json.loads(command("retention", filled, *given, "--json", url=shared.url).stdout)
    assert found["retention"] == {"last": 50, "every": 10, "best": "loss", "mode": "max", "count": 1, "age": 43200.0}
    assert "last=50" in command("retention", filled, url=shared.url).stdout
    assert json.loads(command("retention", filled, "--none", "--json", url=shared.url).stdout)["retention"] == {}


@pytest.mark.parametrize(
    "wrong",
    [("--keep-last", 0), ("--keep-best", ":min"), ("--keep-best", "a:most"), ("--keep-best", "a:min:x"), ("--keep-age", "soon")],
)
def test_rules_that_make_no_sense_are_wrong_usage(wrong: tuple[object, ...], shared: BroadcasterProcess) -> None:
    assert "keep-" in refused(command("prune", "policy", *wrong, url=shared.url), 2)
