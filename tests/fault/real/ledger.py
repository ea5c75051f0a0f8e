"""What a broadcaster has acknowledged, and what nobody knows: each life of it is held to all lives before.

An upload or a deletion that was asked for and not answered may have happened or not; what is then seen, counts.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from broadcaster.store import verify
from tests.bare_peer import BarePeer, Said, digest, staged, wait_until

NOT_THERE = {"unknown-model", "unknown-version", "version-deleted", "version-evicted"}


class Refused(AssertionError):
    """The broadcaster said no; `code` says why."""

    def __init__(self, said: Said) -> None:
        super().__init__(str(said))
        self.code = said.code


def expect(said: Said, kind: str) -> Said:
    """What was said, if it is of this kind."""
    if said.kind != kind:
        raise Refused(said)
    return said


class Ledger:
    """The book of one archive directory, kept by one peer at a time."""

    def __init__(self, archive_dir: Path, seed: int) -> None:
        self._archive_dir = archive_dir
        self._chance = random.Random(seed)
        self.named: dict[tuple[str, int], str] = {}
        """(model, number) -> digest: of all versions ever seen, whatever became of them."""
        self.archived: set[tuple[str, int]] = set()
        self.gone: set[tuple[str, int]] = set()
        self.unsure: set[tuple[str, int]] = set()
        """Perhaps deleted."""
        self.pending: dict[bytes, tuple[str, bytes]] = {}
        """Upload id -> model and payload, of archived uploads that were not answered."""
        self.transient: set[tuple[str, int]] = set()
        self.promoting: set[tuple[str, int]] = set()
        """Perhaps archived."""

    # --- what is done ----------------------------------------------------------------------------------------------

    def payload(self, size: int) -> bytes:
        """Bytes that nobody published before."""
        return self._chance.randbytes(size)

    def upload(self, peer: BarePeer, model: str, payload: bytes, upload_id: bytes | None = None) -> int:
        """An archived version, and its number once it is acknowledged; else Refused, or AssertionError for no answer."""
        upload_id = upload_id or os.urandom(16)
        self.pending[upload_id] = model, payload
        said = expect(peer.publish(model, payload, archived=True, upload_id=upload_id), "done")
        del self.pending[upload_id]
        number = self._name(model, said.fields["version"]["number"], digest(payload))
        self.archived.add((model, number))
        return number

    def publish(self, peer: BarePeer, model: str, payload: bytes) -> int:
        """A transient version, and its number."""
        said = expect(peer.publish(model, payload), "done")
        number = self._name(model, said.fields["version"]["number"], digest(payload), new=True)
        self.transient.add((model, number))
        return number

    def archive(self, peer: BarePeer, model: str, number: int) -> None:
        """A transient version becomes an archived one."""
        self.promoting.add((model, number))
        said = expect(peer.ask("archive", model_id=model, ref=number), "version")
        assert said.fields["version"]["archived"], said
        self.promoting.discard((model, number))
        self.archived.add((model, number))

    def delete(self, peer: BarePeer, model: str, *numbers: int) -> None:
        """Versions one after the other; all of the model when none is named."""
        doomed = {(model, number) for number in numbers} or {one for one in self.archived | self.transient if one[0] == model}
        self.unsure |= doomed
        for number in numbers:
            expect(peer.ask("delete-version", model_id=model, number=number), "deleted")
        if not numbers:
            expect(peer.ask("delete-model", model_id=model), "deleted")
        self._is_gone(doomed)

    def prune(self, peer: BarePeer, model: str, last: int) -> None:
        """All but the last of the archived versions."""
        archived = sorted(one for one in self.archived if one[0] == model)
        doomed = set(archived[:-last])
        self.unsure |= doomed
        said = expect(peer.ask("prune", model_id=model, retention={"last": last}), "pruned")
        assert set(said.fields["numbers"]) == {number for _, number in doomed}, (said, doomed)
        self._is_gone(doomed)

    def forget_memory(self) -> None:
        """The broadcaster ended: what was not archived is not there any more, and may not come back under its number."""
        self.gone |= self.transient - self.archived - self.promoting
        self.transient.clear()

    # --- what must be true -----------------------------------------------------------------------------------------

    def check(self, peer: BarePeer, directory: Path) -> None:
        """What must hold of a broadcaster that has just started; a copy of its archive goes into `directory`."""
        models = [model["model_id"] for model in peer.ask("list-models").fields["models"]]
        found: set[tuple[str, int]] = set()
        blobs: set[str] = set()
        for model in models:
            for version in peer.ask("list-versions", model_id=model).fields["versions"]:
                assert version["archived"], f"{version} is not archived, and survived"
                found.add((model, self._name(model, version["number"], version["digest"])))
                blobs.add(version["sha256"])
                assert digest(peer.read(model, version["number"])) == version["digest"]
        self._accept(found)
        for model in sorted({model for model, _ in self.named}):
            self.publish(peer, model, self.payload(10))
        self._check_files(blobs)
        copy = directory / "copy"
        shutil.copytree(self._archive_dir, copy)
        assert verify(copy).problems == []
        shutil.rmtree(copy)

    def settle(self, peer: BarePeer) -> None:
        """What was not answered, or refused, is asked for again; an upload becomes, or is, exactly one version."""
        for upload_id, (model, payload) in list(self.pending.items()):
            number = self.upload(peer, model, payload, upload_id)
            named = [one for one, found in self.named.items() if found == digest(payload)]
            assert named == [(model, number)], f"one upload made {named}"
        for model, number in sorted(self.promoting):
            self.archive(peer, model, number)
        for model, number in sorted(self.unsure):
            said = peer.ask("delete-version", model_id=model, number=number)
            assert said.kind == "deleted" or said.code in NOT_THERE, said
            self._is_gone({(model, number)})

    def _accept(self, found: set[tuple[str, int]]) -> None:
        """The versions found are those acknowledged, perhaps with some of those that nobody knows of."""
        assert not (lost := self.archived - self.unsure - found), f"acknowledged and lost: {lost}"
        assert not (back := found & self.gone), f"deleted and back: {back}"
        started = {digest(payload) for _, payload in self.pending.values()} | {self.named[one] for one in self.promoting}
        for one in found - self.archived:
            assert self.named[one] in started, f"{one} was never asked to be archived"
        self.archived = set(found)
        self.gone |= (self.unsure | self.promoting) - found
        self.unsure.clear()
        self.promoting.clear()

    def _is_gone(self, doomed: set[tuple[str, int]]) -> None:
        self.gone |= doomed
        self.archived -= doomed
        self.transient -= doomed
        self.unsure -= doomed

    def _name(self, model: str, number: int, found: str, *, new: bool = False) -> int:
        """This number is these bytes, for ever."""
        if new:
            used = [other for owner, other in self.named if owner == model]
            assert number > max(used, default=0), f"{model} {number} was used before"
        assert self.named.setdefault((model, number), found) == found, f"{model} {number} names two payloads"
        return number

    def _check_files(self, blobs: set[str]) -> None:
        directory = self._archive_dir
        wait_until(lambda: not staged(directory), "staging is empty")
        for name in ("trash", "quarantine"):
            assert not list((directory / name).iterdir()), f"left in {name}"
        shelved = {path.parent.name + path.name for path in (directory / "blobs").glob("*/*")}
        assert shelved == blobs, f"blobs of nobody {shelved - blobs}, missing {blobs - shelved}"
