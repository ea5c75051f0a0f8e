"""A broadcaster with its Cogment front, and the bare gRPC calls of that interface as the tests here want them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.broadcaster_process import BroadcasterProcess
from tests.cogment_calls import Calls, body, header


class Front(BroadcasterProcess):
    """As BroadcasterProcess, with gRPC."""

    def __init__(self, directory: Path, *options: str, **more: Any) -> None:
        super().__init__(directory, options=["--grpc-port", "0", *options], **more)

    @property
    def address(self) -> str:
        """host:port of gRPC."""
        return str(self.ready["grpc"])


def data_hash(data: bytes) -> str:
    """As the interface tells it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class Registry(Calls):
    """The calls, with the limits that a client has by default, as the SDK has them."""

    def delete(self, model_id: str) -> None:
        self("DeleteModel", model_id=model_id)

    def models(self, *ids: str, count: int = 0, handle: str = "") -> tuple[list[tuple[str, dict[str, str]]], str]:  # type: ignore[override]
        """Names with user data, and the handle of the next page."""
        reply = self("RetrieveModels", model_ids=ids, models_count=count, model_handle=handle)
        return [(info.model_id, dict(info.user_data)) for info in reply.model_infos], reply.next_model_handle

    def create(self, model_id: str, *chunks: bytes, archived: bool = False, size: int | None = None, **known: Any) -> Any:
        """The info of the version that was made of these chunks. `size` is what is declared, if not what is sent."""
        declared = sum(map(len, chunks)) if size is None else size
        return self.send([header(model_id, declared, archived=archived, **known), *map(body, chunks)])

    def start(self, messages: Iterator[Any]) -> Any:
        """As `send`, without waiting: the future, which `cancel` ends."""
        return self._calls["CreateVersion"].future(messages, timeout=self._timeout)

    def numbers(self, model_id: str) -> list[int]:
        """Those of all versions that can be had."""
        return [info.version_number for info in self.infos(model_id)[0]]


@contextlib.contextmanager
def refused(code: str, words: str | None = None) -> Iterator[None]:
    """What is called inside ends in this status, and says these words."""
    with pytest.raises(grpc.RpcError, match=words) as caught:
        yield
    found: Any = caught.value
    assert found.code().name == code, found.details()
