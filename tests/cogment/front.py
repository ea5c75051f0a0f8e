"""A broadcaster with its Cogment front, and the bare gRPC calls of that interface."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from broadcaster.cogment.schema import RPCS, SERVICE, Schema
from tests.broadcaster_process import BroadcasterProcess

PATIENCE = 20.0
"""Seconds that a call may take."""
SCHEMA = Schema()


class Front(BroadcasterProcess):
    """As BroadcasterProcess, with gRPC."""

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(directory, options=["--grpc-port", "0"], **options)

    @property
    def address(self) -> str:
        """host:port of gRPC."""
        return str(self.ready["grpc"])


def data_hash(data: bytes) -> str:
    """As the interface tells it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class Registry:
    """The calls of `cogmentAPI.ModelRegistrySP`, by name, over one channel with default options, as the SDK's is."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self._calls = {}
        for rpc in RPCS:
            make = getattr(self.channel, f"{'stream' if rpc.takes else 'unary'}_{'stream' if rpc.gives else 'unary'}")
            self._calls[rpc.name] = make(
                f"/{SERVICE}/{rpc.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=SCHEMA[rpc.reply].FromString,
            )

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- models ----------------------------------------------------------------------------------------------------

    def make(self, model_id: str, **user_data: str) -> None:
        info = SCHEMA["ModelInfo"](model_id=model_id, user_data=user_data)
        self.call("CreateOrUpdateModel", SCHEMA["CreateOrUpdateModelRequest"](model_info=info))

    def delete(self, model_id: str) -> None:
        self.call("DeleteModel", SCHEMA["DeleteModelRequest"](model_id=model_id))

    def models(self, *model_ids: str, count: int = 0, handle: str = "") -> tuple[list[tuple[str, dict[str, str]]], str]:
        """Names with user data, and the handle of the next page."""
        request = SCHEMA["RetrieveModelsRequest"](model_ids=model_ids, models_count=count, model_handle=handle)
        reply = self.call("RetrieveModels", request)
        return [(info.model_id, dict(info.user_data)) for info in reply.model_infos], reply.next_model_handle

    # --- versions --------------------------------------------------------------------------------------------------

    def create(self, model_id: str, *chunks: bytes, archived: bool = False, size: int | None = None, **known: Any) -> Any:
        """The info of the version that was made of these chunks. `size` is what is declared, if not what is sent."""
        return self.upload(
            [header(model_id, sum(map(len, chunks)) if size is None else size, archived, **known), *map(body, chunks)]
        )

    def upload(self, messages: Iterable[Any]) -> Any:
        """What comes of the messages of a CreateVersion."""
        return self.call("CreateVersion", iter(messages)).version_info

    def infos(self, model_id: str, *numbers: int, count: int = 0, handle: str = "") -> tuple[list[Any], str]:
        """Infos, and the handle of the next page."""
        request = SCHEMA["RetrieveVersionInfosRequest"](
            model_id=model_id, version_numbers=numbers, versions_count=count, version_handle=handle
        )
        reply = self.call("RetrieveVersionInfos", request)
        return list(reply.version_infos), reply.next_version_handle

    def numbers(self, model_id: str) -> list[int]:
        """Those of all versions that can be had."""
        return [info.version_number for info in self.infos(model_id)[0]]

    def chunks(self, model_id: str, number: int = -1) -> list[bytes]:
        request = SCHEMA["RetrieveVersionDataRequest"](model_id=model_id, version_number=number)
        return [reply.data_chunk for reply in self.call("RetrieveVersionData", request)]

    def data(self, model_id: str, number: int = -1) -> bytes:
        return b"".join(self.chunks(model_id, number))

    def updates(self, model_id: str, **options: Any) -> Any:
        """The stream of updates: iterated, it gives replies; `cancel` ends it."""
        return self.call("VersionUpdate", SCHEMA["VersionUpdateRequest"](model_id=model_id), **options)

    def call(self, name: str, request: Any, *, timeout: float = PATIENCE, **options: Any) -> Any:
        """The reply, or an iterator of replies. Raises grpc.RpcError."""
        return self._calls[name](request, timeout=timeout, **options)

    def start(self, name: str, request: Any, *, timeout: float = PATIENCE) -> Any:
        """As `call` of what has one reply, without waiting: the future, which `cancel` ends."""
        return self._calls[name].future(request, timeout=timeout)


def header(model_id: str, size: int, archived: bool = False, **known: Any) -> Any:
    """The first message of an upload; `known` are further fields of the version."""
    info = SCHEMA["ModelVersionInfo"](model_id=model_id, data_size=size, archived=archived, **known)
    made = SCHEMA["CreateVersionRequestChunk.Header"](version_info=info)
    return SCHEMA["CreateVersionRequestChunk"](header=made)


def body(data: bytes) -> Any:
    """A further message of an upload."""
    return SCHEMA["CreateVersionRequestChunk"](body=SCHEMA["CreateVersionRequestChunk.Body"](data_chunk=data))


@contextlib.contextmanager
def refused(code: str, words: str | None = None) -> Iterator[None]:
    """What is called inside ends in this status, and says these words."""
    with pytest.raises(grpc.RpcError, match=words) as caught:
        yield
    found: Any = caught.value
    assert found.code().name == code, found.details()
