"""The command that names versions, as a process against a real broadcaster."""

from __future__ import annotations

import json

from clients import connect
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import command, refused


def test_an_alias_is_made_moved_and_removed(shared: BroadcasterProcess, model: str) -> None:
    with connect(shared.url) as client:
        for _ in range(3):
            client.publisher(model).publish(b"weights")
    assert command("alias", model, "champion", 1, url=shared.url).stdout == f"{model} champion: 1\n"
    assert command("alias", model, "champion", -1, "--expect", 1, url=shared.url).stdout == f"{model} champion: 3\n"
    assert "expected 1, found 3" in refused(command("alias", model, "champion", 2, "--expect", 1, url=shared.url), 1)
    found = json.loads(command("alias", model, "best", "champion", "--json", url=shared.url).stdout)
    assert found["aliases"] == {"champion": 3, "best": 3}
    assert command("alias", model, "best", "--remove", url=shared.url).stdout == f"{model} best: removed\n"
    assert "no version 9" in refused(command("alias", model, "champion", 9, url=shared.url), 4)
    for wrong in (("champion",), ("champion", 1, "--remove")):
        assert "--remove" in refused(command("alias", model, *wrong, url=shared.url), 2)
