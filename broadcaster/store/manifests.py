"""One small self-checked file per archived version and per model: the truth from which the index can be rebuilt.

| "MBMF" | format u16 | kind u16 | msgpack map ... | xxh3-128 of all before (16) |

Fields may be added to the map: older programs step over them, and what older programs wrote lacks them.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from typing import Any, TypeVar

import msgpack
import xxhash

from broadcaster.protocol.errors import Fact, InvalidName, StoreCorrupt
from broadcaster.protocol.names import check_name
from broadcaster.protocol.ranges import Ranges, pack, unpack
from broadcaster.protocol.version import ModelInfo, VersionInfo
from broadcaster.store.folders import Folder
from broadcaster.store.values import CHUNK_DIGEST, ArchivedModel, ArchivedVersion, chunk_count

MAGIC = b"MBMF"
FORMAT = 1
VERSION, MODEL = 1, 2
_HEAD = struct.Struct(">4sHH")
_CHECK = 16
MAX_MANIFEST = 64 << 20
"""Bytes; a manifest is 16 bytes per MiB of payload and at most 64 KiB beside that."""
MODEL_FILE = "model.manifest"
_VERSION_FILE = re.compile(r"([1-9][0-9]{0,18})\.manifest")
_KEY = re.compile(r"[0-9a-f]{64}")
_HEX = {"digest": re.compile(r"[0-9a-f]{32}"), "sha256": re.compile(r"[0-9a-f]{64}")}

T = TypeVar("T")


def key_of(namespace: str, model_id: str) -> str:
    """The directory of a model's manifests: never its name, which is not ours."""
    return hashlib.sha256(f"{namespace}\0{model_id}".encode()).hexdigest()


def version_file(number: int) -> str:
    """The name of a version's manifest in its model's directory."""
    return f"{number}.manifest"


def number_of(name: str) -> int | None:
    """The number of the version whose manifest has this name, or None when it is no version's."""
    found = _VERSION_FILE.fullmatch(name)
    return int(found[1]) if found else None


def is_key(name: str) -> bool:
    """Whether a directory name is that of a model."""
    return _KEY.fullmatch(name) is not None


def encode_version(version: ArchivedVersion) -> bytes:
    """The manifest of one version."""
    info = version.info
    return _seal(
        VERSION,
        {
            "namespace": info.namespace,
            "model_id": info.model_id,
            "number": info.number,
            "size": info.size,
            "digest": info.digest,
            "sha256": version.sha256,
            "creation_timestamp": info.creation_timestamp,
            "content_type": info.content_type,
            "user_data": dict(info.user_data),
            "metrics": dict(info.metrics),
            "tags": dict(info.tags),
            "description": info.description,
            "pinned": info.pinned,
            "upload_id": version.upload_id,
            "epoch": version.epoch,
            "chunk_size": version.chunk_size,
            "chunk_digests": version.chunk_digests,
        },
    )


def encode_model(archived: ArchivedModel) -> bytes:
    """The manifest of one model; `newest` and `versions` are not in it: they follow from the others."""
    model = archived.info
    return _seal(
        MODEL,
        {
            "namespace": model.namespace,
            "model_id": model.model_id,
            "user_data": dict(model.user_data),
            "tags": dict(model.tags),
            "aliases": dict(model.aliases),
            "creation_timestamp": model.creation_timestamp,
            "description": model.description,
            "retention": dict(model.retention),
            "tombstones": pack(archived.tombstones),
        },
    )


def decode_version(data: bytes, where: str) -> ArchivedVersion:
    """The version that a manifest describes. StoreCorrupt for anything that `encode_version` did not make."""
    fields = _Fields(_unseal(data, VERSION, where), where)
    info = VersionInfo(
        namespace=fields.name("namespace"),
        model_id=fields.name("model_id"),
        number=fields.integer("number", least=1),
        size=fields.integer("size"),
        digest=fields.hex("digest"),
        sha256=fields.hex("sha256"),
        archived=True,
        creation_timestamp=fields.integer("creation_timestamp"),
        content_type=fields.take("content_type", str),
        user_data=fields.mapping("user_data", str),
        metrics=fields.mapping("metrics", float),
        tags=fields.mapping("tags", str),
        description=fields.take("description", str, ""),
        pinned=fields.take("pinned", bool, False),
    )
    version = ArchivedVersion(
        info=info,
        upload_id=fields.take("upload_id", bytes),
        epoch=fields.integer("epoch"),
        chunk_size=fields.integer("chunk_size", least=1),
        chunk_digests=fields.take("chunk_digests", bytes),
    )
    if len(version.chunk_digests) != CHUNK_DIGEST * chunk_count(info.size, version.chunk_size):
        raise _bad(where, "it has the wrong number of chunk digests")
    return version


def decode_model(data: bytes, where: str) -> ArchivedModel:
    """The model that a manifest describes. StoreCorrupt for anything that `encode_model` did not make."""
    fields = _Fields(_unseal(data, MODEL, where), where)
    info = ModelInfo(
        namespace=fields.name("namespace"),
        model_id=fields.name("model_id"),
        user_data=fields.mapping("user_data", str),
        tags=fields.mapping("tags", str),
        aliases=fields.mapping("aliases", int),
        creation_timestamp=fields.integer("creation_timestamp"),
        description=fields.take("description", str, ""),
        retention=fields.facts("retention"),
    )
    return ArchivedModel(info=info, tombstones=fields.ranges("tombstones"))


class Manifests:
    """The manifests of an archive."""

    def __init__(self, folder: Folder, staging: Folder) -> None:
        self.folder = folder
        self._staging = staging

    def put_version(self, version: ArchivedVersion) -> str:
        """Write a version's manifest durably; returns the file's stamp."""
        data = encode_version(version)
        with self.folder.folder(key_of(version.info.namespace, version.info.model_id)) as model:
            return model.put(version_file(version.info.number), data, self._staging)

    def put_model(self, archived: ArchivedModel) -> str:
        """Write a model's manifest durably; returns the file's stamp."""
        with self.folder.folder(key_of(archived.info.namespace, archived.info.model_id)) as model:
            return model.put(MODEL_FILE, encode_model(archived), self._staging)

    def has_version(self, key: str, number: int) -> bool:
        """Whether there is a manifest of this version, readable or not."""
        try:
            with self.folder.folder(key, create=False) as model:
                return model.has(version_file(number))
        except FileNotFoundError:
            return False

    def keys(self) -> list[str]:
        """The directories of all models."""
        return [name for name, _ in self.folder.scan() if is_key(name)]


def read_version(model: Folder, number: int) -> ArchivedVersion:
    """The version `number` from the open directory of its model; StoreCorrupt when the file is damaged or another's."""
    name = version_file(number)
    found = decode_version(model.read(name, MAX_MANIFEST), model.path(name))
    if found.info.number != number:
        raise _bad(model.path(name), f"it is the manifest of version {found.info.number}")
    return found


def read_model(model: Folder) -> ArchivedModel:
    """The model whose directory this is."""
    return decode_model(model.read(MODEL_FILE, MAX_MANIFEST), model.path(MODEL_FILE))


class _Fields:
    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields = fields
        self._where = where

    def take(self, name: str, kind: type[T], default: T | None = None) -> T:
        value = self._fields.get(name, default)
        if type(value) is not kind:
            raise _bad(self._where, f"{name} is not of type {kind.__name__}")
        return value

    def integer(self, name: str, least: int = 0) -> int:
        value = self.take(name, int)
        if not least <= value < 1 << 63:
            raise _bad(self._where, f"{name} is {value}")
        return value

    def name(self, name: str) -> str:
        try:
            return check_name(name, self.take(name, str))
        except InvalidName as error:
            raise _bad(self._where, str(error)) from error

    def hex(self, name: str) -> str:
        value = self.take(name, str)
        if not _HEX[name].fullmatch(value):
            raise _bad(self._where, f"{name} is not a digest")
        return value

    def mapping(self, name: str, kind: type[T]) -> dict[str, T]:
        found = self.take(name, dict)
        if any(type(value) is not kind for value in found.values()):
            raise _bad(self._where, f"a value in {name} is not of type {kind.__name__}")
        return found

    def facts(self, name: str) -> dict[str, Fact]:
        found = self.take(name, dict, {})
        if any(value is not None and type(value) not in (str, int, float, bool) for value in found.values()):
            raise _bad(self._where, f"a value in {name} is no plain value")
        return found

    def ranges(self, name: str) -> Ranges:
        try:
            return unpack(self.take(name, list, []))
        except ValueError as error:
            raise _bad(self._where, f"{name}: {error}") from error


def _seal(kind: int, fields: dict[str, Any]) -> bytes:
    body = _HEAD.pack(MAGIC, FORMAT, kind) + msgpack.packb(fields, use_bin_type=True)
    sealed: bytes = body + xxhash.xxh3_128_digest(body)
    return sealed


def _unseal(data: bytes, kind: int, where: str) -> dict[str, Any]:
    if len(data) < _HEAD.size + _CHECK or data[: len(MAGIC)] != MAGIC:
        raise _bad(where, "it is not a manifest, or only a piece of one")
    body = data[:-_CHECK]
    if xxhash.xxh3_128_digest(body) != data[-_CHECK:]:
        raise _bad(where, "its checksum is wrong")
    _, format_, found = _HEAD.unpack_from(body)
    if format_ > FORMAT:
        raise StoreCorrupt(
            operation="open",
            where=where,
            reason=f"its format {format_} is newer than {FORMAT}",
            hint="Upgrade the program.",
            newer=True,
        )
    if found != kind:
        raise _bad(where, f"it is a manifest of kind {found}, not {kind}")
    try:
        fields = msgpack.unpackb(body[_HEAD.size :], raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises many kinds; behind a right checksum they all mean the same
        raise _bad(where, f"its content cannot be read: {error}") from error
    if not isinstance(fields, dict) or any(not isinstance(name, str) for name in fields):
        raise _bad(where, "its content is not a map")
    return fields


def _bad(where: str, reason: str) -> StoreCorrupt:
    return StoreCorrupt(operation="reading a manifest", where=where, reason=reason, hint="Run `broadcaster verify`.")
