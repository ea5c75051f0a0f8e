"""The service: which call is answered by whom, and how what goes wrong is told."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from broadcaster.cogment import downloads, infos, models, updates, uploads
from broadcaster.cogment.access import Access, Call
from broadcaster.cogment.house import House
from broadcaster.cogment.schema import RPCS, SERVICE, Message, Rpc
from broadcaster.cogment.status import Refusal, malformed, status_of, told
from broadcaster.protocol.errors import BroadcasterError

log = logging.getLogger("broadcaster.cogment")

Handler = Callable[[House, Call, Message], Awaitable[Message | None]]

LOAD = "overall_load"
"""The only value that the original tells of itself."""


async def _version(house: House, call: Call, request: Message) -> Message:
    """What answers here."""
    named = house.made("VersionInfo.Version", name="model-broadcaster", version=house.version)
    return house.made("VersionInfo", versions=[named])


async def _status(house: House, call: Call, request: Message) -> Message:
    """The values that are named; all of them for "*", none for no name."""
    wanted = LOAD in request.names or "*" in request.names
    return house.made("StatusReply", statuses={LOAD: "0"} if wanted else {})


async def _create_version(house: House, call: Call, request: Message) -> Message:
    return await uploads.create(house, call)


ANSWERS: dict[str, Handler] = {
    "CreateOrUpdateModel": models.create_or_update,
    "DeleteModel": models.delete,
    "RetrieveModels": models.retrieve,
    "CreateVersion": _create_version,
    "RetrieveVersionInfos": infos.retrieve,
    "RetrieveVersionData": downloads.send,
    "VersionUpdate": updates.follow,
    "Version": _version,
    "Status": _status,
}
"""Who answers each call. Those that stream write by themselves, and return nothing."""


def make_service(house: House, access: Access) -> grpc.GenericRpcHandler:
    """All calls, for a server."""
    return grpc.method_handlers_generic_handler(SERVICE, {rpc.name: _handler(house, access, rpc) for rpc in RPCS})


def _handler(house: House, access: Access, rpc: Rpc) -> grpc.RpcMethodHandler[Any, Any]:
    answers = ANSWERS[rpc.name]

    async def answer(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Message | None:
        try:
            call = access.enter(rpc.name, context)
            if request is None:
                raise malformed(f"this is no {rpc.request}")
            return await answers(house, call, request)
        except Refusal as refused:
            await context.abort(refused.status, refused.sentence)
        except BroadcasterError as error:
            await context.abort(status_of(error), told(error))
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("a call failed rpc=%s", rpc.name)
            await context.abort(grpc.StatusCode.INTERNAL, "something went wrong here: the log knows more")
        return None

    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
    }
    serializer = downloads.written if rpc.name == "RetrieveVersionData" else _write
    return makers[rpc.takes, rpc.gives](answer, _parser(house.schema[rpc.request]), serializer)


def _write(message: Message) -> bytes:
    written: bytes = message.SerializeToString()
    return written


def _parser(kind: Message) -> Callable[[bytes], Message | None]:
    """Parses a request; None for bytes that are none, which is answered like any other mistake."""

    def parse(data: bytes) -> Message | None:
        try:
            return kind.FromString(data)
        except DecodeError:
            return None

    return parse
