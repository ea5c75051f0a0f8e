"""The life of the gRPC server: on a thread with an event loop of its own, beside whatever else the process does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from broadcaster.cogment.access import Access
from broadcaster.cogment.hashes import Hashes
from broadcaster.cogment.house import House
from broadcaster.cogment.limits import (
    CALLS,
    GRACE,
    HEALTH,
    KEEPALIVE,
    KEEPALIVE_TIMEOUT,
    LARGEST_CHUNK,
    RECEIVED,
    THREADS,
)
from broadcaster.cogment.link import Link, answer
from broadcaster.cogment.options import CogmentOptions
from broadcaster.cogment.places import Places
from broadcaster.cogment.schema import SERVICE, Schema
from broadcaster.cogment.service import make_service
from broadcaster.protocol.errors import BroadcasterError, ConfigError, PortInUse

log = logging.getLogger("broadcaster.cogment")

START = 30.0
"""Seconds that it may take until it serves."""


class Server:
    """Serves from `start` to `stop`."""

    def __init__(self, options: CogmentOptions) -> None:
        self._options = options
        self._started: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="cogment", daemon=True)

    def start(self) -> int:
        """Returns the port once calls are answered. Raises PortInUse, ConfigError, NoBroadcaster."""
        self._thread.start()
        return self._started.result(START)

    def stop(self) -> None:
        """Ends it: streams of updates at once, other calls when they are done or GRACE is over. May be called twice."""
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None:
            with contextlib.suppress(RuntimeError):  # It has ended by itself.
                loop.call_soon_threadsafe(stopping.set)
        self._thread.join(10 * GRACE)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
                return
            log.exception("the gRPC server ended")
            os._exit(1)  # Who supervises this process starts it again.

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        link = Link(self._options.core)
        await link.open()
        with ThreadPoolExecutor(THREADS, "cogment") as threads:
            house = _make_house(self._options, link, threads, self._stopping)
            server, checks = _make_server(self._options, house)
            port = _bind(server, self._options)
            await server.start()
            self._started.set_result(port)
            others = await _until(self._stopping, house.places.follow(), house.hashes.follow(), _check(house, checks))
            await checks.enter_graceful_shutdown()
            for task in others:
                task.cancel()
            await server.stop(GRACE)
            house.places.close()
            await link.close()


def _make_house(options: CogmentOptions, link: Link, threads: ThreadPoolExecutor, stopping: asyncio.Event) -> House:
    places = Places(link)
    hashes = Hashes(link, places, threads)
    places.published = hashes.note
    chunk_size = min(options.chunk_size, LARGEST_CHUNK)
    return House(link, Schema(), places, hashes, threads, chunk_size, options.version, stopping=stopping)


async def _until(stopping: asyncio.Event, *endless: Coroutine[Any, Any, None]) -> set[asyncio.Task[Any]]:
    """Runs what never ends until it is to stop; those that still run. What ends before does so with a bug, which is raised."""
    tasks = [asyncio.create_task(one) for one in (*endless, _wait(stopping))]
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        task.result()
    return others


async def _wait(stopping: asyncio.Event) -> None:
    await stopping.wait()


def _make_server(options: CogmentOptions, house: House) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    server = grpc.aio.server(
        maximum_concurrent_rpcs=CALLS,
        options=[
            ("grpc.so_reuseport", 0),  # Else two servers could have the same port, and each some of the clients.
            ("grpc.max_receive_message_length", RECEIVED),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", int(KEEPALIVE * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    server.add_generic_rpc_handlers((make_service(house, Access(options.tokens)),))
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    if options.reflection:
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=_with_others(house.schema.pool))
    return server, checks


def _with_others(pool: descriptor_pool.DescriptorPool) -> descriptor_pool.DescriptorPool:
    """The pool, with the services that are not ours."""
    for other in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(other.DESCRIPTOR.serialized_pb)
    return pool


# --- where it listens ------------------------------------------------------------------------------------------------


def _bind(server: grpc.aio.Server, options: CogmentOptions) -> int:
    """The port that it listens on. Raises PortInUse, ConfigError."""
    address = f"[{options.host}]:{options.port}" if ":" in options.host else f"{options.host}:{options.port}"
    credentials = _credentials(options)
    _try_port(options, address)
    try:
        port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if not port:
        raise PortInUse(key="grpc-port", address=address)
    return int(port)


def _try_port(options: CogmentOptions, address: str) -> None:
    """gRPC does not say why it cannot listen. Raises PortInUse, ConfigError."""
    with socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((options.host, options.port))
        except OSError as wrong:
            if wrong.errno == errno.EADDRINUSE:
                raise PortInUse(key="grpc-port", address=address) from wrong
            raise ConfigError(key="grpc-host", reason=f"cannot bind {address}: {wrong.strerror}") from wrong


def _credentials(options: CogmentOptions) -> grpc.ServerCredentials | None:
    """TLS, where there is a certificate. Raises ConfigError."""
    if options.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.certificate, options.key, password="")  # Encrypted: an error, and no question.
        certificate = options.certificate.read_bytes()
        key = (options.key or options.certificate).read_bytes()
    except (OSError, ssl.SSLError) as wrong:
        raise ConfigError(key="http-cert", reason=f"{options.certificate} and its key cannot be used: {wrong}") from None
    return grpc.ssl_server_credentials([(key, certificate)])


# --- whether it is well ----------------------------------------------------------------------------------------------


async def _check(house: House, checks: health.aio.HealthServicer) -> None:
    """Has the health service tell whether the core answers, as of a moment ago."""
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    while True:
        try:
            await answer(house.link.calls(HEALTH).ping(), HEALTH)
            state = serving
        except BroadcasterError:
            state = not_serving
        for name in ("", SERVICE):
            await checks.set(name, state)
        await asyncio.sleep(HEALTH)
