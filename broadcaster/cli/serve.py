"""`broadcaster serve`: supervises the parts of a broadcaster, and runs each in its process, until a signal ends them."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from broadcaster import __version__
from broadcaster.cli.command import Command
from broadcaster.cli.exits import Exit
from broadcaster.cli.ready import ReadyFile

if TYPE_CHECKING:
    from broadcaster.config import Settings
    from broadcaster.server.core import Core
    from broadcaster.supervisor import Facts, Tell

log = logging.getLogger("broadcaster.serve")

_DESCRIPTORS = 1 << 20


# Values are taken as they come: Settings checks all of them together, so that all mistakes are told at once.
@click.command(cls=Command)
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--upload-port", metavar="PORT", help="Port for uploads; 0 picks a free one.  [default: 5550]")
@click.option("--push-port", metavar="PORT", help="Port for announcements; 0 picks a free one.  [default: 5551]")
@click.option("--data-port", metavar="PORT", help="Port that clients connect to; 0 picks a free one.  [default: 5552]")
@click.option("--http-port", metavar="PORT", help="Port of health, metrics and pages; 0 picks one; or off.  [default: 5553]")
@click.option("--http-host", metavar="ADDRESS", help="Address that HTTP listens on.  [default: 127.0.0.1]")
@click.option("--http-allowed-host", metavar="NAMES", help="Names that HTTP may be asked under.  [default: localhost]")
@click.option("--http-tokens", metavar="FILE", help="Tokens of HTTP.  [default: keys/http-tokens.toml, in the archive]")
@click.option("--http-cert", metavar="FILE", help="Certificate for TLS on HTTP, in PEM.")
@click.option("--http-key", metavar="FILE", help="Its private key.  [default: in the certificate's file]")
@click.option("--grpc-port", metavar="PORT", help="Port of the Cogment front; 0 picks one; or off.  [default: off]")
@click.option("--grpc-host", metavar="ADDRESS", help="Address that gRPC listens on.  [default: that of --host]")
@click.option("--grpc-open", is_flag=True, default=None, help="Nobody needs a token on the gRPC port, which this turns on: 9000.")
@click.option("--grpc-reflection", is_flag=True, default=None, help="Tell gRPC clients what can be called.")
@click.option("--grpc-chunk-size", metavar="SIZE", help="Size of a chunk sent over gRPC.  [default: 2MiB, 3MiB at most]")
@click.option("--archive-dir", metavar="DIR", help="Directory of archived versions.  [default: broadcaster-data]")
@click.option("--slot-dir", metavar="DIR", help="Shared-memory directory for payloads.  [default: one of its own in /dev/shm]")
@click.option("--slot-group", metavar="GROUP", help="Group that may use the slot directory, too.  [default: its user alone]")
@click.option("--memory-budget", metavar="SIZE", help="Memory for all payloads together, such as 512MiB.  [default: 1GiB]")
@click.option("--max-payload", metavar="SIZE", help="Size of the largest payload.  [default: 64GiB, at most the memory budget]")
@click.option("--keep", metavar="N", help="Newest transient versions kept per model.  [default: 1000]")
@click.option("--keep-large", metavar="N", help="Of those, versions over 64 KiB.  [default: 8]")
@click.option("--expiry", metavar="SECONDS", help="Age at which a transient version may go.  [default: 3600]")
@click.option("--scrub-rate", metavar="SIZE", help="Bytes of the archive checked a second; 0: none.  [default: 16MiB]")
@click.option("--scrub-period", metavar="SECONDS", help="Time from the end of one such check to the next.  [default: 86400]")
@click.option("--max-connections", metavar="N", help="Connections over TCP, of all clients together.  [default: 16384]")
@click.option("--node-name", metavar="NAME", help="Name in replies.  [default: the host's, without its domain]")
@click.option("--debug", is_flag=True, default=None, help="Tell clients tracebacks and paths of errors.")
@click.option("--insecure", is_flag=True, default=None, help="Allow a host that can be reached over the network.")
@click.option("--keys-dir", metavar="DIR", help="Directory of keys.  [default: keys, in the archive]")
@click.option("--advertise", metavar="HOST", help="Host name that clients are told to connect to.")
@click.option("--config", metavar="FILE", help="TOML file with settings; flags and environment win over it.")
@click.option("--ready-file", metavar="FILE", help="File that gets the addresses, as JSON, once all of them serve.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [default: info]")
def serve(config: str | None, **flags: Any) -> None:
    """Run a broadcaster until SIGTERM or Ctrl-C.

    Each setting can also be given as BROADCASTER_NAME in the environment, or in a TOML file.
    """
    _fill_standard_descriptors()
    _allow_descriptors()
    stop = Stop()
    try:
        stop.listen()
        code = _serve(flags, Path(config) if config else None, stop)
    except BaseException:
        if stop.signal is None:
            raise
        # It was to stop before it served: what that broke, an import even, says nothing. The kernel closes what is half open.
        os._exit(Exit.OK)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """All is closed by now: taking the interpreter apart, which tells nobody anything, takes longer than the whole end."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # Gone, closed, or never there.
            stream.flush()
    os._exit(code)


class Stopped(BaseException):
    """A signal asked for the end before there was anything to stop."""


class Stop:
    """Ends a core at the first SIGTERM, SIGINT or SIGHUP, and this process at the second. Works as process 1 too."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._core: Core | None = None

    def listen(self) -> None:
        """From now on signals come here; SIGHUP does not when it is ignored, as nohup has it."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def stops(self, core: Core) -> None:
        """`core` is what the next signal ends."""
        self._core = core
        if self.signal is not None:
            core.loop.stop()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)  # The default action would not end process 1.
        self.signal = number
        if self._core is None:
            raise Stopped
        self._core.loop.stop()


def _serve(flags: dict[str, Any], file: Path | None, stop: Stop) -> int:
    """Runs until the end, in the supervisor's process and in that of each part."""
    from broadcaster.cli.cogment import require_grpc_access
    from broadcaster.cli.keys import key_directory
    from broadcaster.cli.logs import start_logging
    from broadcaster.cli.web import require_http_access
    from broadcaster.config import load_settings
    from broadcaster.server.core import slot_directory  # All of the core: loaded here once, its next life begins at once.
    from broadcaster.supervisor import Part, Supervisor

    settings = load_settings(flags, file)
    start_logging(settings.log_level)
    if settings.http_port is not None:
        require_http_access(settings)
    if settings.grpc_on is not None:
        require_grpc_access(settings)
    keys = key_directory(settings)
    ready = ReadyFile(settings.ready_file)
    ready.prepare()
    supervisor = os.getpid()
    slots, own = slot_directory(settings.slot_dir, settings.data_port)
    parts = [Part("core", lambda tell, told: _core(settings, slots, keys, stop, tell, told.get("core")))]
    if settings.http_port is not None or settings.grpc_on is not None:
        parts.append(Part("web", lambda tell, told: _web(settings, tell, told)))
    try:
        return Supervisor(parts, ready.tell).run()
    finally:
        ready.forget_ours()
        if own and os.getpid() == supervisor:
            shutil.rmtree(slots, ignore_errors=True)


def _core(settings: Settings, slots: Path, keys: Path | None, stop: Stop, tell: Tell, before: Facts | None) -> int:
    """The life of the core. `before` is what it told in its last one: where it was, it is again."""
    from broadcaster.server.core import Core
    from broadcaster.slots import share_slot_directory

    stop.listen()
    core = Core(_options(settings, slots, keys, before["ports"] if before else {}))
    try:
        if (group := settings.slot_group_number) is not None:
            share_slot_directory(core.slot_directory, group)
        stop.stops(core)
        core.prove_keys()
        tell({"endpoints": core.endpoints, "ports": core.ports, "inside": core.inside})
        if before is None:
            _announce(settings, core, keys)
        core.run()
        log.info("stopping signal=%s", signal.Signals(stop.signal or 0).name if stop.signal else "none")
    finally:
        core.close()
    return Exit.OK


def _web(settings: Settings, tell: Tell, told: Mapping[str, Facts]) -> int:
    """The life of the web process: HTTP, gRPC, or both."""
    from broadcaster.cli.web import run_fronts

    before = told.get("web")

    def serving(endpoints: Mapping[str, str], ports: Mapping[str, int]) -> None:
        tell({"endpoints": dict(endpoints), "ports": dict(ports)})
        if before is None:
            for name, endpoint in endpoints.items():
                log.info("pages url=%s" if name == "http" else "cogment address=%s", endpoint)

    return run_fronts(settings, told["core"]["inside"], before["ports"] if before else {}, serving)


def _options(settings: Settings, slots: Path, keys: Path | None, ports: Mapping[str, int]) -> Any:
    from broadcaster.catalog import Retention
    from broadcaster.server.core import CoreOptions

    return CoreOptions(
        host=settings.host,
        upload_port=ports.get("upload", settings.upload_port),
        push_port=ports.get("push", settings.push_port),
        data_port=ports.get("data", settings.data_port),
        advertise=settings.advertise,
        archive_dir=settings.archive_dir,
        slot_dir=slots,
        max_payload=settings.max_payload,
        retention=Retention(settings.memory_budget, settings.keep, settings.keep_large, settings.expiry),
        node_name=settings.node_name or "",
        debug=settings.debug,
        scrub_rate=settings.scrub_rate,
        scrub_period=settings.scrub_period,
        keys_dir=keys,
        max_connections=settings.max_connections,
    )


def _announce(settings: Settings, core: Core, keys: Path | None) -> None:
    """Where it serves: a few lines for a person, one event for a machine."""
    from broadcaster.cli.keys import hint
    from broadcaster.cli.logs import on_terminal

    url = core.endpoints["data"]
    if settings.advertise:
        url = f"tcp://{settings.advertise}:{core.ports['data']}"
    facts = core.endpoints | {
        "archive": str(settings.archive_dir.absolute()),
        "slots": str(core.slot_directory.absolute()),
        "budget": f"{core.budget / (1 << 20):g} MiB",
        **({} if keys is None else {"keys": str(keys)}),
    }
    if on_terminal():
        lines = [f"broadcaster {__version__}", *(f"  {name:8} {value}" for name, value in facts.items())]
        click.echo("\n".join([*lines, f"connect with: BROADCASTER_URL={url}{hint(keys)}"]), err=True)
    else:
        fields = "".join(f" {name}=%s" for name in ("version", *facts))
        log.info(f"connect with: {f'BROADCASTER_URL={url}{hint(keys)}'.replace('%', '%%')}{fields}", __version__, *facts.values())
    if settings.insecure:
        told = "INSECURE: nobody needs a key: everyone who can reach this host may read, write and delete all models host=%s"
        log.warning(told, settings.host)
    if settings.advertise:
        threading.Thread(target=_look_up, args=(settings.advertise,), daemon=True).start()


def _look_up(name: str) -> None:
    """Clients are told to connect to that name: if it means nothing here, it may mean nothing to them. A name server takes its
    time."""
    try:
        socket.getaddrinfo(name, None)
    except OSError as wrong:
        told = (
            "the advertised name cannot be resolved here: clients that cannot do so either publish nothing and are pushed nothing"
        )
        log.warning("%s advertise=%s reason=%s", told, name, wrong.strerror or wrong)


def _allow_descriptors() -> None:
    """As many as this user may have, within reason: every slot takes two, every connection one."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _DESCRIPTORS)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and means a number that it does not tell.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _fill_standard_descriptors() -> None:
    """A closed stdin, stdout or stderr becomes /dev/null: else the archive's files would get their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
