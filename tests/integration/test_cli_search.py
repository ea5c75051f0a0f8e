"""`broadcaster search` and `describe` as processes of their own against a real broadcaster."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import clients
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import command, refused


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a broadcaster with a model of four versions, and another one of one."""
    with BroadcasterProcess(tmp_path_factory.mktemp("broadcaster")) as started:
        with clients.connect(started.url) as client:
            for number, value in enumerate((200.0, 100.0, 300.0, float("nan")), 1):
                client.publisher("policy").publish(b"x" * number, metrics={"return": value})
            client.registry.set_tags("policy", {"stage": "candidate"}, ref=3)
            client.publisher("critic").publish(b"y", metrics={"return": 250.0})
        yield started.url


def numbers(*arguments: str, url: str) -> list[int]:
    done = command("search", *arguments, "--json", url=url)
    assert done.returncode == 0, done.stderr
    return [found["number"] for found in json.loads(done.stdout)]


def test_versions_are_found_in_order(url: str) -> None:
    assert numbers("policy", url=url) == [4, 3, 2, 1]
    assert numbers("policy", "metrics.return >= 200", "--order", "-metrics.return", "--limit", "20", url=url) == [3, 1]
    assert numbers("policy", "tags.stage = 'candidate'", url=url) == [3]
    listed = command("search", "policy", "metrics.return >= 200", url=url).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["NUMBER", "3", "1"] and listed[0].endswith("DESCRIPTION")


def test_all_models_are_searched_at_once(url: str) -> None:
    listed = command("search", "*", "metrics.return > 150", "--order", "metrics.return", url=url).stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [["MODEL", "NUMBER"], ["policy", "1"], ["critic", "1"], ["policy", "3"]]


def test_a_mistake_in_a_filter_is_told_with_its_place(url: str) -> None:
    done = command("search", "policy", "metrics.return >> 5", "--json", url=url)
    assert "expected a number, a 'text' in quotes, true or false at position 17, found '>'" in refused(done, 2)
    assert json.loads(done.stdout)["error"]["facts"]["position"] == 17
    refused(command("search", "nobody", url=url), 4)
    refused(command("search", "policy", "--limit", "0", url=url), 2)


def test_descriptions_are_set_shown_and_removed(url: str) -> None:
    assert command("describe", "policy", "plays\nwell\x1b[2J", url=url).stdout == "policy: plays\\nwell\\x1b[2J\n"
    assert command("describe", "policy", "the best", "--version", "-2", url=url).stdout == "policy 3: the best\n"
    assert "  plays\n" in command("models", url=url).stdout
    assert [line.rsplit("  ", 1)[1] for line in command("versions", "policy", url=url).stdout.splitlines()[3:]] == [
        "the best",
        "-",
    ]
    assert numbers("policy", "description = 'the best'", url=url) == [3]
    assert json.loads(command("describe", "policy", "", "--json", url=url).stdout)["description"] == ""
    assert "description: 4097 bytes are over" in refused(command("describe", "policy", "x" * 4097, url=url), 2)
