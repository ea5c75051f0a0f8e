"""The messages of `cogmentAPI.ModelRegistrySP`, made at run time from the table below: no code is generated, no compiler needed.

model_registry.proto says the same for people and for other languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "cogmentAPI"
SERVICE = f"{PACKAGE}.ModelRegistrySP"
FILE = "cogment/api/model_registry.proto"

Message = Any
"""A message class, or one of its objects: protobuf makes them as the program runs, so there is no type to name."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "ModelInfo": ("string model_id = 1", "map<string, string> user_data = 2"),
    "ModelVersionInfo": (
        "string model_id = 1",
        "uint32 version_number = 2",
        "fixed64 creation_timestamp = 3",
        "bool archived = 4",
        "string data_hash = 5",
        "fixed64 data_size = 6",
        "map<string, string> user_data = 7",
    ),
    "CreateOrUpdateModelRequest": ("ModelInfo model_info = 1",),
    "CreateOrUpdateModelReply": (),
    "DeleteModelRequest": ("string model_id = 1",),
    "DeleteModelReply": (),
    "RetrieveModelsRequest": ("repeated string model_ids = 1", "uint32 models_count = 3", "string model_handle = 4"),
    "RetrieveModelsReply": ("repeated ModelInfo model_infos = 1", "string next_model_handle = 2"),
    "CreateVersionRequestChunk": ("oneof msg: Header header = 1", "oneof msg: Body body = 2"),
    "CreateVersionRequestChunk.Header": ("ModelVersionInfo version_info = 1",),
    "CreateVersionRequestChunk.Body": ("bytes data_chunk = 1",),
    "CreateVersionReply": ("ModelVersionInfo version_info = 1",),
    "RetrieveVersionInfosRequest": (
        "string model_id = 1",
        "repeated int32 version_numbers = 2",
        "uint32 versions_count = 3",
        "string version_handle = 4",
    ),
    "RetrieveVersionInfosReply": ("repeated ModelVersionInfo version_infos = 1", "string next_version_handle = 2"),
    "RetrieveVersionDataRequest": ("string model_id = 1", "int32 version_number = 2"),
    "RetrieveVersionDataReplyChunk": ("bytes data_chunk = 1",),
    "VersionUpdateRequest": ("string model_id = 1",),
    "VersionUpdateReply": ("ModelVersionInfo version_info = 1",),
    "VersionRequest": (),
    "VersionInfo": ("repeated VersionInfo.Version versions = 1",),
    "VersionInfo.Version": ("string name = 1", "string version = 2"),
    "StatusRequest": ("repeated string names = 1",),
    "StatusReply": ("map<string, string> statuses = 1",),
}
"""The fields of every message, as the .proto has them; `oneof NAME:` stands before those of one."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """One call of the service; `takes` and `gives` say which sides are streams."""

    name: str
    request: str
    reply: str
    takes: bool = False
    gives: bool = False


RPCS = (
    Rpc("CreateOrUpdateModel", "CreateOrUpdateModelRequest", "CreateOrUpdateModelReply"),
    Rpc("DeleteModel", "DeleteModelRequest", "DeleteModelReply"),
    Rpc("RetrieveModels", "RetrieveModelsRequest", "RetrieveModelsReply"),
    Rpc("CreateVersion", "CreateVersionRequestChunk", "CreateVersionReply", takes=True),
    Rpc("RetrieveVersionInfos", "RetrieveVersionInfosRequest", "RetrieveVersionInfosReply"),
    Rpc("RetrieveVersionData", "RetrieveVersionDataRequest", "RetrieveVersionDataReplyChunk", gives=True),
    Rpc("VersionUpdate", "VersionUpdateRequest", "VersionUpdateReply", gives=True),
    Rpc("Version", "VersionRequest", "VersionInfo"),
    Rpc("Status", "StatusRequest", "StatusReply"),
)

_F = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _F.TYPE_STRING,
    "bytes": _F.TYPE_BYTES,
    "bool": _F.TYPE_BOOL,
    "int32": _F.TYPE_INT32,
    "uint32": _F.TYPE_UINT32,
    "fixed64": _F.TYPE_FIXED64,
}


class Schema:
    """The message classes by name, in a pool of their own: nothing else in this process that has such names is disturbed."""

    def __init__(self) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        self.pool.AddSerializedFile(make_file().SerializeToString())
        self._classes = {
            name: message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in FIELDS
        }

    def __getitem__(self, name: str) -> Message:
        return self._classes[name]


def make_file() -> descriptor_pb2.FileDescriptorProto:
    """The descriptor of the whole interface."""
    file = descriptor_pb2.FileDescriptorProto(name=FILE, package=PACKAGE, syntax="proto3")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in FIELDS.items():
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add() if outer else file.message_type.add()
        message.name = inner
        made[name] = message
        for field in fields:
            _add_field(name, message, field)
    service = file.service.add(name=SERVICE.rpartition(".")[2])
    for rpc in RPCS:
        service.method.add(
            name=rpc.name,
            input_type=f".{PACKAGE}.{rpc.request}",
            output_type=f".{PACKAGE}.{rpc.reply}",
            client_streaming=rpc.takes,
            server_streaming=rpc.gives,
        )
    return file


def _add_field(owner: str, message: descriptor_pb2.DescriptorProto, text: str) -> None:
    oneof, colon, rest = text.rpartition(": ")
    declared, _, number = rest.rpartition(" = ")
    kind, _, name = declared.rpartition(" ")
    field = message.field.add(name=name, number=int(number), label=_F.LABEL_OPTIONAL)
    if colon:
        if not message.oneof_decl:
            message.oneof_decl.add(name=oneof.removeprefix("oneof "))
        field.oneof_index = 0
    if kind.startswith("repeated "):
        field.label, kind = _F.LABEL_REPEATED, kind.removeprefix("repeated ")
    if kind == "map<string, string>":
        _make_map(owner, message, field)
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        nested = f"{owner}.{kind}"
        field.type, field.type_name = _F.TYPE_MESSAGE, f".{PACKAGE}.{nested if nested in FIELDS else kind}"


def _make_map(owner: str, message: descriptor_pb2.DescriptorProto, field: descriptor_pb2.FieldDescriptorProto) -> None:
    """A map is a repeated message of its own: an entry with a key and a value."""
    entry = message.nested_type.add(name=field.name.title().replace("_", "") + "Entry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, label=_F.LABEL_OPTIONAL, type=_F.TYPE_STRING)
    field.label, field.type = _F.LABEL_REPEATED, _F.TYPE_MESSAGE
    field.type_name = f".{PACKAGE}.{owner}.{entry.name}"
