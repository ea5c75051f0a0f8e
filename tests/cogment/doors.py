"""What both interfaces can be asked of models and versions, in one set of words: by gRPC, and by ZeroMQ."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import grpc

from broadcaster.protocol.version import VersionInfo
from clients import Client
from tests.cogment.front import Registry, data_hash


class Known(NamedTuple):
    """Of a version."""

    number: int
    archived: bool
    size: int


class Door(Protocol):
    """What is not there is a LookupError, which names it."""

    def make(self, model: str, **user_data: str) -> None: ...
    def models(self) -> dict[str, dict[str, str]]: ...
    def has(self, model: str) -> bool: ...
    def delete(self, model: str) -> None: ...
    def publish(self, model: str, data: bytes, *, archived: bool) -> Known: ...
    def info(self, model: str, ref: int) -> Known: ...
    def data(self, model: str, ref: int) -> bytes: ...
    def numbers(self, model: str, start: int, count: int) -> list[int]: ...


class OverGrpc:
    """Every info is compared with the data's own hash."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def make(self, model: str, **user_data: str) -> None:
        self._registry.make(model, **user_data)

    def models(self) -> dict[str, dict[str, str]]:
        return dict(self._registry.models()[0])

    def has(self, model: str) -> bool:
        try:
            return bool(self._registry.models(model))
        except grpc.RpcError as error:
            return not _lookup(error)

    def delete(self, model: str) -> None:
        try:
            self._registry.delete(model)
        except grpc.RpcError as error:
            raise _lookup(error) from None

    def publish(self, model: str, data: bytes, *, archived: bool) -> Known:
        info = self._registry.create(model, data, archived=archived)
        assert info.data_hash == data_hash(data)
        return Known(info.version_number, info.archived, info.data_size)

    def info(self, model: str, ref: int) -> Known:
        try:
            [info], _ = self._registry.infos(model, ref)
        except grpc.RpcError as error:
            raise _lookup(error) from None
        assert info.data_hash == data_hash(self.data(model, ref))
        return Known(info.version_number, info.archived, info.data_size)

    def data(self, model: str, ref: int) -> bytes:
        try:
            return self._registry.data(model, ref)
        except grpc.RpcError as error:
            raise _lookup(error) from None

    def numbers(self, model: str, start: int, count: int) -> list[int]:
        infos, _ = self._registry.infos(model, count=count, handle=str(start) if start else "")
        return [info.version_number for info in infos]


class OverZeroMq:
    def __init__(self, client: Client) -> None:
        self._client = client

    def make(self, model: str, **user_data: str) -> None:
        self._client.registry.create(model, user_data=user_data)

    def models(self) -> dict[str, dict[str, str]]:
        return {model.model_id: dict(model.user_data) for model in self._client.registry.models()}

    def has(self, model: str) -> bool:
        try:
            return bool(self._client.registry.model(model))
        except LookupError:
            return False

    def delete(self, model: str) -> None:
        self._client.registry.delete_model(model)

    def publish(self, model: str, data: bytes, *, archived: bool) -> Known:
        return _known(self._client.publisher(model).publish(data, archived=archived))

    def info(self, model: str, ref: int) -> Known:
        return _known(self._client.registry.get(model, ref).info)

    def data(self, model: str, ref: int) -> bytes:
        return bytes(self._client.registry.get(model, ref).read())

    def numbers(self, model: str, start: int, count: int) -> list[int]:
        found = [version.number for version in self._client.registry.versions(model) if version.number >= start]
        return found[:count] if count else found


def _known(info: VersionInfo) -> Known:
    return Known(info.number, info.archived, info.size)


def _lookup(error: grpc.RpcError) -> LookupError:
    """Raises it again when it is about something else."""
    if error.code() is not grpc.StatusCode.NOT_FOUND:
        raise error
    return LookupError(error.details())
