"""A whole client in one file, written from docs/protocol.md alone: pyzmq, msgpack and two hash functions.

    bare_protocol.py publish FILE MODEL [archived] [sha256]    publish a file as the model's next version
    bare_protocol.py subscribe MODEL                           print versions as they come, repaired and verified
    bare_protocol.py fetch MODEL NUMBER [FILE]                 read one version; -1 is the newest

They print number, size and digest; `subscribe` also how many chunks came pushed. BROADCASTER_URL is the data address.
"""

import hashlib
import os
import struct
import sys
from operator import itemgetter
from pathlib import Path

import msgpack
import xxhash
import zmq

CHUNK = 1 << 20
SILENCE_MS = 1000  # Then the same is asked again.
HEADER = struct.Struct("<2sBBIQQQ16s16s")  # magic, version, flags, attempt, size, offset, length, transfer, digest


class Refused(Exception):
    """The broadcaster said no; the arguments are its stable code and a sentence for people."""


def connect(kind, url):
    socket = zmq.Context.instance().socket(kind)
    socket.linger = 0
    socket.connect(url)
    return socket


class Asker:
    """Requests over a plain REQ socket, which adds and removes the empty frame in front by itself."""

    def __init__(self, url):
        self.url, self.socket = url, connect(zmq.REQ, url)

    def ask(self, kind, **fields):
        """The reply as (map, payload). When nothing is heard, the same is asked with the same id on a new socket."""
        fields |= {"protocol": 1, "request_id": os.urandom(16)}
        for _ in range(30):
            self.socket.send_multipart([kind.encode(), msgpack.packb(fields)])
            if self.socket.poll(SILENCE_MS):
                kind, reply, *payload = self.socket.recv_multipart()
                reply = msgpack.unpackb(reply) if kind else {}  # Without a kind it is a chunk: empty frame, header, bytes.
                if kind == b"error":
                    raise Refused(reply["code"], reply["message"])
                return reply, payload[0] if payload else None
            self.socket.close()
            self.socket = connect(zmq.REQ, self.url)
        raise TimeoutError(f"no answer to {kind} from {self.url}")

    def endpoint(self, channel):
        """The address of another channel: its port is in `welcome`, its host is the one in use."""
        welcome, _ = self.ask("hello", client_name="bare_protocol")
        host = welcome.get("host") or self.url.removeprefix("tcp://").rpartition(":")[0]
        return f"tcp://{host}:{welcome['endpoints'][channel]}"

    def read(self, version, payload, here):
        """Fills `payload`, but for the chunks at the offsets `here`, which are in it already. Checks the whole."""
        for offset in set(range(0, version["size"], CHUNK)) - here:
            _, data = self.ask("read", model_id=version["model_id"], number=version["number"], offset=offset, length=CHUNK)
            payload[offset : offset + len(data)] = data
        if xxhash.xxh3_128_hexdigest(payload) != version["digest"]:
            raise ValueError(f"version {version['number']}: the bytes do not have the digest {version['digest']}")


def publish(asker, model, payload, *, sha256, archived):
    """The version-info, when the version is as durable as asked. One upload id makes one version, however often it is sent."""
    upload, url, total = os.urandom(16), asker.endpoint("upload"), -(-len(payload) // CHUNK)
    kind, hashed = ("sha256", hashlib.sha256(payload)) if sha256 else ("xxh3-128", xxhash.xxh3_128(payload))
    commit = {"protocol": 1, "request_id": os.urandom(16), "upload_id": upload, "digest": hashed.hexdigest()}
    begin = commit | {"model_id": model, "size": len(payload), "digest_kind": kind, "archived": archived}
    opening = [b"publish", msgpack.packb(begin), payload] if len(payload) <= 64 << 10 else [b"begin", msgpack.packb(begin)]
    socket = connect(zmq.DEALER, url)
    socket.send_multipart(opening)
    while True:
        if not socket.poll(SILENCE_MS):
            socket.close()
            socket = connect(zmq.DEALER, url)
            socket.send_multipart(opening)
            continue
        kind, answer = socket.recv_multipart()
        answer = msgpack.unpackb(answer)
        if kind == b"done":
            return answer["version"]
        if kind == b"error":
            if answer.get("facts", {}).get("field") != "upload_id":
                raise Refused(answer["code"], answer["message"])
            socket.send_multipart(opening)  # Restarted between the chunks and our commit, it does not know this upload.
            continue
        if answer["received"] == 0 or answer.get("rewind"):
            sent = answer["received"]
        for index in range(sent, min(answer["until"], total)):
            data = payload[index * CHUNK : (index + 1) * CHUNK]
            header = HEADER.pack(b"\xc4\x4b", 1, 0, 0, len(payload), index * CHUNK, len(data), upload, bytes(16))
            socket.send_multipart([b"", header, data])
        if answer["until"] >= total > sent or sent == answer["received"] == total:
            socket.send_multipart([b"commit", msgpack.packb(commit)])
        sent = max(sent, min(answer["until"], total))


class Subscription:
    """The versions of one model as they come: chunks while they arrive, then the event that gives them a name."""

    def __init__(self, asker, model):
        self.asker, self.model, self.transfers = asker, model, {}  # (transfer, attempt): (payload, offsets of the chunks in it)
        self.epoch = self.known = self.held = 0  # `known` is the offset of the model's last event, `held` its last version.
        self.socket = connect(zmq.SUB, asker.endpoint("push"))
        for letter in "ce":  # In this order: no event without its chunks.
            self.socket.subscribe(f"default/{model}\0{letter}".encode())

    def versions(self):
        """Yields (version-info, payload, number of chunks that came pushed), beginning with the newest that is there."""
        yield from self.follow()
        patience = SILENCE_MS
        while True:
            if not self.socket.poll(patience):
                yield from self.follow()
                continue
            topic, kind, fields, *payload = self.socket.recv_multipart()
            if kind == b"event":
                yield from self.on_event(msgpack.unpackb(fields), payload[0] if payload else None)
            elif kind == b"beacon":
                beacon = msgpack.unpackb(fields)
                patience = 2 * beacon["interval_ms"]
                if beacon["epoch"] != self.epoch or beacon["model_offset"] > self.known:
                    yield from self.follow()
            elif kind == b"abandon":
                self.transfers.pop(itemgetter("transfer", "attempt")(msgpack.unpackb(fields)), None)
            elif topic.endswith(b"c"):
                self.on_chunk(fields, *HEADER.unpack(kind))

    def follow(self):
        """Asks what there is now: mends a late start, a missed event, a lost connection and a restart alike."""
        state, payload = self.asker.ask("follow", model_id=self.model)
        self.epoch, self.known = state["epoch"], state["model_offset"]
        if "newest" in state:
            yield from self.take(state["newest"], payload)

    def on_event(self, event, payload):
        if event["epoch"] != self.epoch or event["previous"] > self.known:
            yield from self.follow()
        if event["epoch"] == self.epoch and event["offset"] > self.known:  # Else it is part of the state that was asked for.
            self.known = event["offset"]
            if event["event"] == "published":
                yield from self.take(event["version"], payload, (event.get("transfer"), event.get("attempt", 0)))

    def on_chunk(self, data, _magic, _version, _flags, attempt, size, offset, length, transfer, _digest):
        if (transfer, attempt) not in self.transfers:
            latest = list(self.transfers.items())[-1:]  # Two may wait here for their event: older ones go.
            self.transfers = dict(latest) | {(transfer, attempt): (bytearray(size), set())}
        payload, here = self.transfers[transfer, attempt]
        payload[offset : offset + length] = data
        here.add(offset)

    def take(self, version, payload, transfer=None):
        pushed, here = self.transfers.pop(transfer, (bytearray(version["size"]), set()))
        if version["number"] <= self.held:
            return
        if payload is not None:
            pushed, here = payload, {0}
        try:
            self.asker.read(version, pushed, here)
        except Refused:
            return  # Evicted or deleted meanwhile: a newer one is on its way.
        self.held = version["number"]
        yield version, pushed, len(here)


def main(*arguments):
    show = itemgetter("number", "size", "digest")
    asker = Asker(os.environ.get("BROADCASTER_URL", "tcp://127.0.0.1:5552"))
    match arguments:
        case "publish", file, model, *options:
            payload = Path(file).read_bytes()
            print(*show(publish(asker, model, payload, sha256="sha256" in options, archived="archived" in options)))
        case "subscribe", model:
            for version, _, pushed in Subscription(asker, model).versions():
                print(*show(version), pushed, flush=True)
        case "fetch", model, number, *file:
            version = asker.ask("get-version", model_id=model, ref=int(number))[0]["version"]
            asker.read(version, payload := bytearray(version["size"]), set())
            Path(*file or [os.devnull]).write_bytes(payload)
            print(*show(version))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Refused, TimeoutError, ValueError) as error:
        sys.exit(": ".join(map(str, error.args)))
