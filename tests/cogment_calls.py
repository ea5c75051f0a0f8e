"""A bare gRPC client of the Cogment front: every call, and whatever bytes a test wants to send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grpc

from broadcaster.cogment.schema import RPCS, SERVICE, Schema

SCHEMA = Schema()
STEP = 2 << 20
"""Bytes of the chunks that are sent, unless told otherwise."""


def written(message: Any) -> bytes:
    """Messages as protobuf writes them, and bytes as they are."""
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def header(model: str, size: int, *, archived: bool = False, sha256: str = "", **more: Any) -> Any:
    """The first message of an upload."""
    info = {"model_id": model, "data_size": size, "archived": archived, "data_hash": sha256, **more}
    return SCHEMA["CreateVersionRequestChunk"](header={"version_info": info})


def body(data: bytes) -> Any:
    return SCHEMA["CreateVersionRequestChunk"](body={"data_chunk": data})


def upload(model: str, data: bytes, *, step: int = STEP, **more: Any) -> Iterator[Any]:
    """The messages of an upload."""
    yield header(model, len(data), **more)
    for start in range(0, len(data), step):
        yield body(data[start : start + step])


class Calls:
    """The service at `address`; a context manager. A call that takes longer than `timeout` seconds fails."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        timeout: float = 20.0,
        credentials: Any = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        # Else channels to one address share a connection, and with it how much may be under way.
        options = [("grpc.use_local_subchannel_pool", 1), *options]
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        self._timeout = timeout
        self._metadata = [("authorization", f"Bearer {token}")] if token else None
        makers = {
            (False, False): self.channel.unary_unary,
            (True, False): self.channel.stream_unary,
            (False, True): self.channel.unary_stream,
        }
        self._calls = {
            rpc.name: makers[rpc.takes, rpc.gives](
                f"/{SERVICE}/{rpc.name}", request_serializer=written, response_deserializer=SCHEMA[rpc.reply].FromString
            )
            for rpc in RPCS
        }
        self._requests = {rpc.name: SCHEMA[rpc.request] for rpc in RPCS}

    def raw(self, rpc: str, request: Any, timeout: float | None = None) -> Any:
        """Calls with a message, its bytes or, where a stream is taken, an iterable of either."""
        return self._calls[rpc](request, timeout=timeout or self._timeout, metadata=self._metadata)

    def __call__(self, rpc: str, **fields: Any) -> Any:
        return self.raw(rpc, self._requests[rpc](**fields))

    # --- in a word -------------------------------------------------------------------------------------------------

    def make(self, model: str, **user_data: str) -> None:
        self("CreateOrUpdateModel", model_info={"model_id": model, "user_data": user_data})

    def publish(self, model: str, data: bytes, **more: Any) -> Any:
        """What is told of the version."""
        return self.raw("CreateVersion", upload(model, data, **more)).version_info

    def send(self, messages: Iterable[Any], timeout: float | None = None) -> Any:
        return self.raw("CreateVersion", iter(messages), timeout).version_info

    def infos(self, model: str, *numbers: int, count: int = 0, handle: str = "") -> tuple[list[Any], str]:
        reply = self("RetrieveVersionInfos", model_id=model, version_numbers=numbers, versions_count=count, version_handle=handle)
        return list(reply.version_infos), reply.next_version_handle

    def models(self, *ids: str, count: int = 0, handle: str = "") -> tuple[list[str], str]:
        reply = self("RetrieveModels", model_ids=ids, models_count=count, model_handle=handle)
        return [info.model_id for info in reply.model_infos], reply.next_model_handle

    def chunks(self, model: str, number: int = -1) -> list[bytes]:
        return [reply.data_chunk for reply in self("RetrieveVersionData", model_id=model, version_number=number)]

    def data(self, model: str, number: int = -1) -> bytes:
        return b"".join(self.chunks(model, number))

    def updates(self, model: str, timeout: float | None = None) -> Any:
        return self.raw("VersionUpdate", self._requests["VersionUpdate"](model_id=model), timeout)

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status with which a call ends, and its sentence. Fails when it is answered."""
    try:
        found = call()
        for _ in found if hasattr(found, "__next__") else ():
            pass
    except grpc.RpcError as error:
        return error.code(), error.details()  # type: ignore[attr-defined]
    raise AssertionError(f"this was answered: {found}")
