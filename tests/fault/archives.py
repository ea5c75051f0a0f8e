"""A life of an archive that can be cut short anywhere, and what must be true of the directory afterwards."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from broadcaster.protocol.version import ModelInfo, VersionInfo
from broadcaster.store import Archive, ArchivedVersion, Loaded, failpoints, rebuild_index, verify

NOW = 1_000


def payload(size: int, seed: int) -> memoryview:
    """`size` bytes that another seed does not give."""
    return memoryview(random.Random(seed).randbytes(size))


def describe(model_id: str, number: int, data: memoryview, **more: object) -> VersionInfo:
    """What the broker would say of this payload."""
    facts = {"creation_timestamp": 7, "user_data": {"step": str(number)}, "metrics": {"return": 1.5}} | more
    return VersionInfo(
        namespace="default",
        model_id=model_id,
        number=number,
        size=len(data),
        digest=xxhash.xxh3_128_hexdigest(data),
        **facts,  # type: ignore[arg-type]
    )


def keep(archive: Archive, model_id: str, number: int, data: memoryview, **more: object) -> ArchivedVersion:
    """Archive `data` under this number."""
    return archive.keep(None, data, describe(model_id, number, data, **more), bytes([number % 256]) * 16)


def read_all(archive: Archive, version: ArchivedVersion) -> bytes:
    """The whole payload, in reads of 1 MiB."""
    return b"".join(archive.read(version, at, 1 << 20) for at in range(0, version.info.size, 1 << 20))


def blob_of(archive: Archive, version: ArchivedVersion) -> Path:
    """Where its payload is."""
    return archive.directory / "blobs" / version.sha256[:2] / version.sha256[2:]


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def fail(number: int) -> None:
    """What a disk would raise."""
    raise OSError(number, os.strerror(number))


def reopen(archive: Archive) -> Archive:
    archive.close()
    return Archive.open(archive.directory, now_ms=NOW, spare=0)


State = frozenset[tuple[object, ...]]


def state_of(loaded: Loaded) -> State:
    """What an archive holds, without what changes from start to start."""
    models = {("model", model.model_id, tuple(sorted(model.aliases.items()))) for model in loaded.models}
    versions = {
        ("version", version.info.model_id, version.info.number, version.info.digest, tuple(sorted(version.info.tags.items())))
        for version in loaded.versions
    }
    return frozenset(models | versions)


FIRST, SECOND, THIRD = payload((1 << 20) + 5, 1), payload(70_000, 2), payload(70_001, 3)
ACTIONS: list[tuple[str, Callable[[Archive], object]]] = [
    ("make alpha", lambda archive: archive.set_model(ModelInfo(namespace="default", model_id="alpha"))),
    ("numbers", lambda archive: archive.reserve_numbers([("default", "alpha", 100)])),
    ("alpha 1", lambda archive: keep(archive, "alpha", 1, FIRST)),
    ("alpha 2, the same bytes", lambda archive: keep(archive, "alpha", 2, FIRST)),
    ("tags", lambda archive: archive.set_tags("default", "alpha", 1, {"good": "yes"})),
    ("alias", lambda archive: archive.set_aliases("default", "alpha", {"champion": 2})),
    ("delete alpha 1", lambda archive: archive.delete_version("default", "alpha", 1)),
    ("make beta", lambda archive: archive.set_model(ModelInfo(namespace="default", model_id="beta"))),
    ("beta 9", lambda archive: keep(archive, "beta", 9, SECOND)),
    ("delete beta", lambda archive: archive.delete_model("default", "beta")),
    ("alpha 3", lambda archive: keep(archive, "alpha", 3, THIRD)),
    ("delete alpha 3", lambda archive: archive.delete_version("default", "alpha", 3)),
]


def states(directory: Path) -> list[State]:
    """The state after 0, 1, 2, ... actions, from a life that nothing cut short."""
    with Archive.open(directory, now_ms=NOW) as archive:
        found = [state_of(archive.load())]
        for _, action in ACTIONS:
            action(archive)
            found.append(state_of(archive.load()))
    return found


def live(directory: Path, ack: Callable[[], None]) -> None:
    """One whole life; `ack` is called after each action."""
    with Archive.open(directory, now_ms=NOW, spare=0) as archive:
        for _, action in ACTIONS:
            action(archive)
            ack()


@dataclass
class Child:
    """A forked process that lives a life; `acked` counts the actions that were done, `status` is how it ended."""

    pid: int
    pipe: int
    acked: int = 0
    status: int | None = None
    heard: bytes = field(default=b"")

    def listen(self) -> bytes:
        """The next byte that the child says, or nothing at its end."""
        said = os.read(self.pipe, 1)
        self.heard += said
        self.acked += said == b"a"
        return said

    def finish(self) -> Child:
        """Hear it to the end."""
        while self.listen():
            pass
        self.end()
        return self

    def kill(self) -> None:
        """kill -9; what it had said by then is heard."""
        os.kill(self.pid, signal.SIGKILL)
        self.finish()

    def end(self) -> None:
        if self.status is None:
            os.close(self.pipe)
            self.status = os.waitpid(self.pid, 0)[1]

    @property
    def killed(self) -> bool:
        assert self.status is not None
        if not os.WIFSIGNALED(self.status):
            assert os.waitstatus_to_exitcode(self.status) == 0, "the child failed by itself: see its traceback"
        return os.WIFSIGNALED(self.status)


@contextmanager
def forked(job: Callable[[Callable[[bytes], None]], None]) -> Iterator[Child]:
    """`job(say)` in a forked process, which is dead when the block ends."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            job(lambda text: os.write(write, text) and None)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    child = Child(pid, read)
    try:
        yield child
    finally:
        if child.status is None:
            child.kill()


def at_point(wanted: int, act: Callable[[], None]) -> None:
    """Do `act` when this process comes to its fail point number `wanted`."""
    count = 0

    def hook(_name: str) -> None:
        nonlocal count
        count += 1
        if count == wanted:
            act()

    failpoints.arm(hook)


def check_without(lost: Sequence[str], directory: Path, copy: Path, acked: int, expected: list[State]) -> None:
    """`check` on a copy of the directory from which these files are missing."""
    shutil.copytree(directory, copy)
    for name in lost:
        (copy / name).unlink(missing_ok=True)
    check(copy, acked, expected)
    shutil.rmtree(copy)


def check(directory: Path, acked: int, expected: list[State]) -> None:
    """After a life that ended after `acked` acknowledged actions: nothing acknowledged is lost, nothing is half there."""
    with Archive.open(directory, now_ms=NOW) as archive:
        loaded = archive.load()
        found = state_of(loaded)
        allowed = expected[acked : acked + 2]
        assert found in allowed, f"after {acked} actions ({ACTIONS[acked - 1][0]}): {sorted(found, key=str)}, {loaded.notes}"
        contents = {"alpha": {1: FIRST, 2: FIRST, 3: THIRD}, "beta": {9: SECOND}}
        for version in loaded.versions:
            assert read_all(archive, version) == contents[version.info.model_id][version.info.number]
        floors = loaded.floors
        if acked >= 2:
            assert floors["default", "alpha"] >= 100
        if acked >= 9:
            assert floors["default", "beta"] >= 9
        assert not loaded.notes
    assert verify(directory).problems == []
    blobs = {path.parent.name + path.name for path in (directory / "blobs").glob("*/*")}
    assert blobs == {version.sha256 for version in loaded.versions}
    assert not [*(directory / "staging").iterdir(), *(directory / "trash").iterdir(), *(directory / "quarantine").iterdir()]
    rebuild_index(directory)
    with Archive.open(directory, now_ms=NOW) as archive:
        again = archive.load()
        assert state_of(again) == found
        assert again.floors == floors and again.epoch > loaded.epoch
