"""The image, built and run: a broadcaster, a learner and two actors as containers, as compose.yaml has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bare_peer import wait_until
from tests.broadcaster_process import ROOT
from tests.fault.containers import Containers, container_tool

KILL = "import os; [os.kill(int(pid), 9) for pid in open('/proc/1/task/1/children').read().split()]"
LOOK = "import glob; print([open(path).read().rpartition(')')[2].split()[0] for path in glob.glob('/proc/[0-9]*/stat')])"
"""Programs for inside: kill all parts; print the state of every process."""

pytestmark = [pytest.mark.fault_long, pytest.mark.deadline(600)]


@pytest.fixture(scope="module")
def tool() -> list[str]:
    """The container tool, with the image built."""
    found, why = container_tool()
    if not found:
        pytest.skip(why)
    if why := Containers(found).build():
        pytest.skip(why)
    return found


@pytest.fixture
def containers(tool: list[str]) -> Iterator[Containers]:
    with Containers(tool) as running:
        yield running


def sidecar(containers: Containers, slots: str) -> str:
    options = ["--env", "BROADCASTER_SLOT_DIR=/slots", "--env", "BROADCASTER_URL=ipc:///slots/data.sock"]
    name = containers.run("broadcaster", options=[*options, "--tmpfs", "/data:mode=1777", "--volume", f"{slots}:/slots"])
    containers.ready(name)
    return name


def beside(containers: Containers, slots: str, name: str, *program: str) -> str:
    """A learner's or an actor's container."""
    mounts = ["--volume", f"{slots}:/slots", "--volume", f"{ROOT / 'examples'}:/examples:ro"]
    options = [*mounts, "--env", "BROADCASTER_URL=ipc:///slots/data.sock", "--entrypoint", "python"]
    return containers.run(name, *program, options=options)


def test_weights_pass_between_containers_through_shared_memory(containers: Containers) -> None:
    slots = containers.memory()
    broadcaster = sidecar(containers, slots)
    actors = [beside(containers, slots, f"actor-{n}", "/examples/actor.py", "--until", "12") for n in (1, 2)]
    beside(containers, slots, "learner", "/examples/learner.py", "--megabytes", "8", "--every", "0.2")
    for actor in actors:
        assert containers.exit_code(actor) == 0
        acted = re.findall(r"acting with (\d+) .* delivery=(.*)", containers.logs(actor))
        assert int(acted[-1][0]) >= 12
        assert {how for _, how in acted[1:]} == {"shared"}, acted
    stats = containers.exec(broadcaster, "broadcaster", "stats", "--json").stdout
    assert re.search(r'"chunks_pushed": 0[.,]', stats), stats


def test_a_learner_of_another_user_shares_by_group(containers: Containers) -> None:
    """In a volume that is root's, as Kubernetes makes it: the broadcaster has a directory below, and lets its group in."""
    slots = containers.memory("uid=0,gid=10001,mode=2777")
    url = ["--env", "BROADCASTER_URL=ipc:///slots/broadcaster/data.sock", "--volume", f"{slots}:/slots"]
    options = [*url, "--env", "BROADCASTER_SLOT_DIR=/slots/broadcaster", "--env", "BROADCASTER_SLOT_GROUP=10001"]
    name = containers.run("broadcaster", options=[*options, "--tmpfs", "/data:mode=1777"])
    containers.ready(name)
    other = [*url, "--user", "20002:10001", "--volume", f"{ROOT / 'examples'}:/examples:ro", "--entrypoint", "python"]
    containers.run("learner", "/examples/learner.py", "--megabytes", "1", "--every", "0.1", options=other)
    actor = containers.run("actor", "/examples/actor.py", "--until", "5", options=other)
    assert containers.exit_code(actor) == 0
    assert containers.logs(actor).splitlines()[-1].endswith("delivery=shared")


def test_a_restarted_broadcaster_is_found_again_by_containers_that_go_on(containers: Containers) -> None:
    slots = containers.memory()
    broadcaster = sidecar(containers, slots)
    beside(containers, slots, "learner", "/examples/learner.py", "--megabytes", "1", "--every", "0.1")
    actor = beside(containers, slots, "actor", "/examples/actor.py")
    wait_until(lambda: "acting with 3" in containers.logs(actor), "the actor acts")
    assert containers.stop(broadcaster) == 0
    before = len(containers.logs(actor).splitlines())
    containers.start(broadcaster)
    wait_until(lambda: len(containers.logs(actor).splitlines()) > before + 5, "the actor goes on", seconds=40)
    assert containers.logs(actor).splitlines()[-1].endswith("delivery=shared")


def test_the_one_line_serves_any_user_and_its_archive_stays(containers: Containers, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir(mode=0o777)
    archive.chmod(0o777)
    options = ["--user", "12345:54321", "--shm-size", "256m", "--volume", f"{archive}:/data"]
    name = containers.run("one", options=options)
    containers.ready(name)
    containers.exec(name, "broadcaster", "publish", "/opt/broadcaster/pyvenv.cfg", "--model", "m", "--archived")
    assert containers.stop(name) == 0
    containers.start(name)
    containers.ready(name)
    assert '"number": 1' in containers.exec(name, "broadcaster", "versions", "m", "--json").stdout


def test_the_first_start_makes_a_key_and_a_token_and_tells_where_not_what(containers: Containers, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    name = containers.run("one", options=["--user", "12345:54321", "--shm-size", "256m", "--volume", f"{tmp_path}:/data"])
    containers.ready(name)
    secrets = {file: (tmp_path / "keys" / file).read_text() for file in ("admin.key", "server.key", "admin.token")}
    assert containers.stop(name) == 0
    containers.start(name)
    containers.ready(name)
    assert {file: (tmp_path / "keys" / file).read_text() for file in secrets} == secrets
    said = containers.logs(name)
    assert "/data/keys/admin.key" in said and "/data/keys/admin.token" in said and "BROADCASTER_URL=" in said
    assert "INSECURE" not in said
    assert [
        word for text in secrets.values() for word in text.replace('"', " ").split() if len(word) >= 40 and word in said
    ] == []
    assert '"level": "problem"' not in containers.exec(name, "broadcaster", "doctor", "--json").stdout


def test_insecure_opens_it_and_says_so(containers: Containers) -> None:
    options = ["--env", "BROADCASTER_INSECURE=1", "--shm-size", "256m", "--tmpfs", "/data:mode=1777"]
    name = containers.run("one", options=options)
    containers.ready(name)
    assert "INSECURE" in containers.logs(name)
    assert containers.exec(name, "env", "BROADCASTER_URL=tcp://127.0.0.1:5552", "broadcaster", "models").returncode == 0
    assert containers.exec(name, "ls", "/data").stdout.split().count("keys") == 0


def test_process_1_starts_what_was_killed_again_and_buries_it(containers: Containers) -> None:
    name = containers.run("one", options=["--shm-size", "256m", "--tmpfs", "/data:mode=1777"])
    containers.ready(name)
    containers.exec(name, "python", "-c", KILL)
    containers.exec(name, "sh", "-c", "(sleep 0.2 &) ; exit 0")  # Process 1 inherits orphans of others, too.
    wait_until(lambda: "serves again" in containers.logs(name), "the parts are started again")
    containers.ready(name)
    wait_until(lambda: "'Z'" not in containers.exec(name, "python", "-c", LOOK).stdout, "the dead are buried")
    assert containers.stop(name) == 0


def test_little_shared_memory_is_said_and_served_with(containers: Containers) -> None:
    name = containers.run("one", options=["--shm-size", "64m", "--tmpfs", "/data:mode=1777"])
    containers.ready(name)
    assert "memory budget reduced" in containers.logs(name)


def test_no_compiler_and_no_root_is_in_the_image(containers: Containers) -> None:
    name = containers.run("one", options=["--shm-size", "256m", "--tmpfs", "/data:mode=1777"])
    found = containers.exec(
        name, "sh", "-c", "id -u; command -v cc gcc g++ clang make ld; touch /x || echo read-only", check=False
    )
    assert found.stdout.split() == ["10001", "read-only"], found.stdout
