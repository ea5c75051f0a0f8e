"""The door of a broadcaster with keys: answers ZeroMQ's questions, watches the file of keys, tries itself before it serves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import zmq
from zmq.utils.monitor import recv_monitor_message

from broadcaster.protocol.errors import ConfigError
from broadcaster.security import Book, Guard, KeyDirectory, admit

log = logging.getLogger("broadcaster.server")

LOOK = 1.0
"""Seconds between two looks at the file of keys."""
_TRIAL = 10.0
"""Seconds that strangers have to be turned away before this broadcaster serves."""
_SAY_AGAIN = 1.0
_ENDS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


class Door:
    """Open before the first socket is bound: libzmq lets nobody in whom this does not admit. On the loop's thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyDirectory) -> None:
        self.keys = keys
        self.server_key = keys.server_key()
        self.guard = Guard(keys.book())
        self.refused = 0
        """Connections that were turned away."""
        self._context = context
        self._said = -_SAY_AGAIN
        self.socket = context.socket(zmq.REP)
        self.socket.bind("inproc://zeromq.zap.01")

    def close(self) -> None:
        self.socket.close(linger=0)

    def answer(self) -> None:
        """Answers all questions that are there."""
        while int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            question = self.socket.recv_multipart()
            answer, admitted = admit(question, self.guard.book)
            if not admitted:
                self._turned_away(question)
            self.socket.send_multipart(answer)

    def _turned_away(self, question: list[bytes]) -> None:
        self.refused += 1
        now = time.monotonic()
        if now >= self._said + _SAY_AGAIN:
            self._said = now
            address = question[3].decode("ascii", "replace") if len(question) > 3 else "?"
            log.warning(
                "a connection was refused: its key is not in the file of keys address=%s refused=%d", address, self.refused
            )

    def try_strangers(self, endpoints: Mapping[str, str]) -> None:
        """Connects to every channel as somebody with an unknown key, and without any, and sees that nobody gets in. Raises
        ConfigError when somebody does, or when that cannot be found out."""
        level, log.disabled = log.disabled, True  # These strangers are ours.
        try:
            for name, endpoint in endpoints.items():
                for keyed in (True, False):
                    if not self._turns_away(endpoint, zmq.SUB if name == "push" else zmq.DEALER, keyed=keyed):
                        raise ConfigError(
                            key="keys-dir", reason=f"keys do not work here: a stranger was not turned away from the {name} port"
                        )
        finally:
            log.disabled = level
            self.refused = 0

    def _turns_away(self, endpoint: str, kind: int, *, keyed: bool) -> bool:
        with self._context.socket(kind) as stranger:
            stranger.setsockopt(zmq.LINGER, 0)
            if keyed:
                stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
                stranger.curve_serverkey = self.server_key.public.encode()
            monitor = stranger.get_monitor_socket(_ENDS)
            try:
                stranger.connect(endpoint)
                deadline = time.monotonic() + _TRIAL
                while time.monotonic() < deadline:
                    self.answer()
                    if monitor.poll(5):
                        return bool(recv_monitor_message(monitor)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED)
                return False
            finally:
                stranger.disable_monitor()


class KeyWatch:
    """Looks at the file of keys on a thread of its own, so that no disk is waited for on the loop's; `changed(book)` is called
    there. A file that says nothing that makes sense changes nothing, and is complained about."""

    def __init__(self, keys: KeyDirectory, book: Book, changed: Callable[[Book], None]) -> None:
        self._keys = keys
        self._book = book
        self._changed = changed
        self._trouble = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether somebody looks: without that, no key could be taken back."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._over.wait(LOOK):
            try:
                book = self._keys.book()
            except ConfigError as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    log.error("KEYS NOT READ: those that were read last stay valid until the file is mended reason=%s", error)
                continue
            if self._trouble:
                self._trouble = ""
                log.info("the file of keys can be read again")
            if book != self._book:
                self._book = book
                self._changed(book)
