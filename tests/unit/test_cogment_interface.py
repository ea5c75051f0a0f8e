"""The pure parts of the Cogment front: the interface itself, handles and pages, chunks, tokens, the table of errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broadcaster.protocol.errors import CODES, BroadcasterError, InvalidRequest, UnknownVersion, VersionEvicted

grpc = pytest.importorskip("grpc")

from broadcaster.cogment.access import ROLES, bearer  # noqa: E402
from broadcaster.cogment.downloads import written  # noqa: E402
from broadcaster.cogment.paging import next_number, page_of, parse_handle  # noqa: E402
from broadcaster.cogment.schema import FIELDS, RPCS, SERVICE, Schema  # noqa: E402
from broadcaster.cogment.service import ANSWERS  # noqa: E402
from broadcaster.cogment.status import status_of  # noqa: E402

PROTO = (Path(__file__).parents[2] / "broadcaster/cogment/model_registry.proto").read_text()


def messages_of(proto: str) -> dict[str, tuple[str, ...]]:
    """The messages of a .proto in the words of the table."""
    found: dict[str, list[str]] = {}
    scopes: list[tuple[str, str]] = []
    for line in re.sub(r"//.*", "", proto).splitlines():
        line = line.strip()
        if opened := re.match(r"(message|oneof|service) (\w+) \{", line):
            scopes.append((opened[1], opened[2]))
            if opened[1] == "message":
                found[".".join(name for kind, name in scopes if kind == "message")] = []
        elif re.fullmatch(r"[\w<>, .]+ = \d+;", line) and not line.startswith(("syntax", "package")):
            owner = ".".join(name for kind, name in scopes if kind == "message")
            oneof = "".join(f"oneof {name}: " for kind, name in scopes if kind == "oneof")
            kind, _, rest = line.rstrip(";").rpartition(" = ")
            declared, _, name = kind.rpartition(" ")
            found[owner].append(f"{oneof}{declared} {name} = {rest}")
        if line == "}" or (opened and line.endswith("{}")):
            scopes.pop()
    return {name: tuple(fields) for name, fields in found.items()}


def test_the_proto_says_what_the_table_says() -> None:
    table = {
        name: tuple(field.replace("VersionInfo.Version ", "Version ") for field in fields) for name, fields in FIELDS.items()
    }
    assert messages_of(PROTO) == table
    calls = re.findall(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\)", PROTO)
    assert calls == [(rpc.name, "stream " * rpc.takes, rpc.request, "stream " * rpc.gives, rpc.reply) for rpc in RPCS]


def test_the_interface_is_the_original_one_on_the_wire() -> None:
    schema = Schema()
    info = schema["ModelVersionInfo"](
        model_id="m", version_number=3, creation_timestamp=1, archived=True, data_hash="h", data_size=2, user_data={"k": "v"}
    )
    fixed = (1).to_bytes(8, "little"), (2).to_bytes(8, "little")
    raw = b"\n\x01m\x10\x03\x19" + fixed[0] + b" \x01*\x01h1" + fixed[1] + b":\x06\n\x01k\x12\x01v"
    assert info.SerializeToString() == raw
    assert schema["CreateVersionRequestChunk"](body={"data_chunk": b"xyz"}).SerializeToString() == b"\x12\x05\n\x03xyz"
    assert schema["RetrieveVersionDataRequest"](model_id="m", version_number=-1).SerializeToString()[3:] == (
        b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    )
    assert SERVICE == "cogmentAPI.ModelRegistrySP"


def test_every_call_has_an_answer_and_a_role() -> None:
    assert {rpc.name for rpc in RPCS} == set(ANSWERS) == set(ROLES)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2 << 20, 3 << 20])
def test_a_chunk_is_written_as_protobuf_writes_it(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    reply = Schema()["RetrieveVersionDataReplyChunk"](data_chunk=data[:size])
    assert written([memoryview(data)[: size // 3], memoryview(data)[size // 3 : size]]) == reply.SerializeToString()


@pytest.mark.parametrize(("handle", "start"), [("", 0), ("0", 0), ("7", 7), ("007", 7)])
def test_a_handle_is_a_decimal_number(handle: str, start: int) -> None:
    assert parse_handle("handle", handle) == start


@pytest.mark.parametrize("handle", ["-1", "+1", "x", " 1", "1 ", "1.0", "1e3", "٣", "9" * 19])
def test_another_handle_is_refused(handle: str) -> None:
    with pytest.raises(InvalidRequest, match="is no handle"):
        parse_handle("handle", handle)


@pytest.mark.parametrize(
    ("start", "count", "page", "following"),
    [(0, 0, "abcde", "5"), (0, 2, "ab", "2"), (2, 2, "cd", "4"), (4, 2, "e", "5"), (5, 2, "", "5"), (0, 5, "abcde", "5")],
)
def test_pages_of_an_explicit_list_go_by_index(start: int, count: int, page: str, following: str) -> None:
    assert page_of("abcde", "model", start, count) == (page, following)


@pytest.mark.parametrize(("start", "count"), [(6, 0), (6, 1), (0, 6), (999_999_999, 0), (0, 2**32 - 1)])
def test_a_handle_or_a_count_beyond_an_explicit_list_is_refused(start: int, count: int) -> None:
    with pytest.raises(InvalidRequest):
        page_of("abcde", "version", start, count)


def test_the_next_number_is_behind_the_last_and_stays_at_the_end() -> None:
    assert (next_number(0, 5), next_number(11, None), next_number(0, None)) == ("6", "11", "0")


@pytest.mark.parametrize(
    ("metadata", "token"),
    [((), None), ((("authorization", "Bearer abc"),), "abc"), ((("Authorization", "bearer  abc "),), "abc"),
     ((("authorization", "Basic abc"),), None), ((("authorization-bin", b"Bearer abc"),), None), ((("x", "Bearer abc"),), None)],
)  # fmt: skip
def test_a_token_comes_as_a_bearer(metadata: tuple[tuple[str, str | bytes], ...], token: str | None) -> None:
    assert bearer(metadata) == token


def test_every_error_has_a_status_and_no_fair_one_is_internal() -> None:
    said = {code: status_of(kind()) for code, kind in CODES.items()}
    assert grpc.StatusCode.OK not in said.values() and grpc.StatusCode.UNKNOWN not in said.values()
    assert said["unknown-model"] is said["version-evicted"] is said["version-deleted"] is grpc.StatusCode.NOT_FOUND
    assert said["store-corrupt"] is grpc.StatusCode.DATA_LOSS
    assert said["budget-exceeded"] is said["payload-too-large"] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(VersionEvicted(), UnknownVersion) and isinstance(VersionEvicted(), BroadcasterError)
    internal = {code for code, status in said.items() if status is grpc.StatusCode.INTERNAL}
    assert internal <= {"error", "protocol-error", "local-protocol-error", "remote-protocol-error", "unsupported-protocol",
                        "store-error", "config", "port-in-use", "directory-unusable"}  # fmt: skip
