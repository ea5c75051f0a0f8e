"""What a backup and a restore share: manifests that were read and found right, and blobs that are compared on their way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from broadcaster.protocol.errors import SizeMismatch, StoreCorrupt, StoreUnavailable
from broadcaster.store.blobs import Blobs
from broadcaster.store.folders import Folder
from broadcaster.store.manifests import MAX_MANIFEST, MODEL_FILE, decode_model, decode_version, is_key, key_of, number_of
from broadcaster.store.scrub import from_disk
from broadcaster.store.values import ArchivedVersion

Place = tuple[str, str]
"""(key, name) of a manifest."""


class Manifest(NamedTuple):
    """A manifest as it stands in its file: in the directory `key`, under `name`. `version` is None for a model's."""

    key: str
    name: str
    data: bytes
    version: ArchivedVersion | None

    @property
    def place(self) -> Place:
        return self.key, self.name


@dataclass(slots=True)
class CopyReport:
    """What is in the copy, and what was wrong: a sentence each.

    `copied` and `copied_bytes` count payloads that were not in the copy before; `dropped` versions that were deleted meanwhile.
    """

    models: int = 0
    versions: int = 0
    blobs: int = 0
    bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    dropped: int = 0
    problems: list[str] = field(default_factory=list)


def read_manifests(manifests: Folder, report: CopyReport) -> Iterator[Manifest]:
    """Every manifest that can be read, each model's own before those of its versions; the others are problems.

    So an alias never names a version that came too late to be read. What is deleted meanwhile may be missing.
    """
    for key in sorted(name for name, _ in manifests.scan() if is_key(name)):
        try:
            with manifests.folder(key, create=False) as model:
                names = [name for name, _ in model.scan() if number_of(name) is not None]
                for name in (MODEL_FILE, *sorted(names, key=lambda one: number_of(one) or 0)):
                    yield from _read(model, key, name, report)
                names_since = {name for name, _ in model.scan() if number_of(name) is not None} - set(names)
                for name in sorted(names_since, key=lambda one: number_of(one) or 0):
                    yield from _read(model, key, name, report)
        except FileNotFoundError:
            continue


def _read(model: Folder, key: str, name: str, report: CopyReport) -> Iterator[Manifest]:
    try:
        data = model.read(name, MAX_MANIFEST)
    except FileNotFoundError:
        return
    except StoreCorrupt as error:
        report.problems.append(str(error))
        return
    except OSError as error:
        report.problems.append(str(unreadable("reading a manifest", model.path(name), error)))
        return
    try:
        version = None if name == MODEL_FILE else decode_version(data, model.path(name))
        info = version.info if version is not None else decode_model(data, model.path(name)).info
        if key_of(info.namespace, info.model_id) != key or (version is not None and version.info.number != number_of(name)):
            raise _misplaced(model.path(name))
    except StoreCorrupt as error:
        report.problems.append(str(error))
    else:
        yield Manifest(key, name, data, version)


def copy_blob(source: Folder, sha256: str, size: int, to: Blobs) -> None:
    """Copy one blob, hashed on its way; durable when this returns. FileNotFoundError without one, StoreCorrupt if it is wrong,
    StoreUnavailable when its disk does not give it."""
    where = f"{source.where}/{sha256[:2]}/{sha256[2:]}"
    try:
        with source.folder(sha256[:2], create=False) as shelf:
            fd = shelf.open_file(sha256[2:])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable("copying a payload", where, error) from error
    try:
        staged = to.stage(size)
        try:
            for piece in _given(fd, where):
                staged.write(piece)
            if staged.sha256 != sha256:
                raise _damaged(where, "it does not hash to its name")
            staged.commit()
        except SizeMismatch as error:
            raise _damaged(where, f"it does not have {size} bytes") from error
        finally:
            staged.discard()
    finally:
        os.close(fd)


def _given(fd: int, where: str) -> Iterator[memoryview]:
    try:
        yield from from_disk(fd)
    except OSError as error:
        raise unreadable("copying a payload", where, error) from error


def unreadable(operation: str, where: str, error: OSError) -> StoreUnavailable:
    """What is said of a file that its disk does not give: it is not known to be damaged."""
    return StoreUnavailable(operation=operation, where=where, reason=error.strerror or str(error), hint="Check the disk.")


def name_of(version: ArchivedVersion) -> str:
    """For people."""
    return f"{version.info.namespace}/{version.info.model_id} version {version.info.number}"


def _misplaced(where: str) -> StoreCorrupt:
    return StoreCorrupt(operation="reading a manifest", where=where, reason="it belongs somewhere else", hint="Move it there.")


def _damaged(where: str, reason: str) -> StoreCorrupt:
    return StoreCorrupt(operation="copying a payload", where=where, reason=reason, hint="Publish the same payload again.")
