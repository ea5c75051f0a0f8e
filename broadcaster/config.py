"""The settings of `broadcaster serve`: flag > BROADCASTER_* environment > TOML file > default. All mistakes are told at once.

The only reader of the environment and of a configuration file.
"""

from __future__ import annotations

import grp
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from broadcaster.cogment_variables import PORT, Found, read_variables
from broadcaster.protocol.errors import ConfigError
from broadcaster.protocol.limits import MAX_PAYLOAD
from broadcaster.protocol.names import PATTERN

PREFIX = "BROADCASTER_"
FILE_VARIABLE = PREFIX + "CONFIG"
"""The environment variable that names a TOML file when no flag does."""

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse_size(value: Any) -> Any:
    """Bytes of `512MiB`, `1g`, `1048576`."""
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if found is None or found[2].lower() not in _UNITS:
            raise ValueError("must be a number of bytes, or a number with KiB, MiB or GiB")
        unit = _UNITS[found[2].lower()]
        return int(float(found[1]) * unit) if "." in found[1] else int(found[1]) * unit
    return value


Size = Annotated[int, BeforeValidator(parse_size)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """What `broadcaster serve` can be told. Ports: 0 picks a free one. Sizes in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    # A validator sees the fields above its own only: `insecure` stands before `host`, the ports stand together.
    insecure: bool = Field(False, description="allow a host that can be reached over the network, without keys")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    upload_port: Port = Field(5550, description="port for uploads; 0 picks a free one")
    push_port: Port = Field(5551, description="port for announcements; 0 picks a free one")
    data_port: Port = Field(5552, description="port for clients to connect to, and for reads; 0 picks a free one")
    http_port: Port | None = Field(5553, description="port of health, metrics and pages; 0 picks a free one, off has none")
    http_host: str = Field("127.0.0.1", min_length=1, description="address that HTTP listens on")
    http_allowed_host: str | None = Field(None, description="names that HTTP may be asked under, with commas, beside localhost")
    http_tokens: Path | None = Field(None, description="file of tokens for HTTP; none: keys/http-tokens.toml in the archive's")
    http_cert: Path | None = Field(None, description="certificate for TLS on HTTP, in PEM")
    http_key: Path | None = Field(None, description="its private key; none: it is in the same file")
    grpc_port: Port | None = Field(None, description="port of the Cogment front; 0 picks a free one, off has none")
    grpc_host: str | None = Field(None, min_length=1, description="address that gRPC listens on; none: that of --host")
    grpc_open: bool = Field(False, description="nobody needs a token on the gRPC port")
    grpc_reflection: bool = Field(False, description="tell gRPC clients what can be called")
    grpc_chunk_size: Annotated[Size, Field(ge=1)] = Field(2 << 20, description="bytes of a chunk sent over gRPC; 3 MiB at most")
    keys_dir: Path | None = Field(None, description="directory of keys; none: keys in the archive's")
    advertise: str | None = Field(None, min_length=1, description="host name that clients are told to connect to")
    archive_dir: Path = Field(Path("broadcaster-data"), description="directory of archived versions")
    slot_dir: Path | None = Field(None, description="shared-memory directory for payloads; none: one of its own in /dev/shm")
    slot_group: str | None = Field(
        None, min_length=1, description="group that may use the slot directory, too, by name or number"
    )
    memory_budget: Annotated[Size, Field(ge=1 << 20)] = Field(1 << 30, description="bytes of memory for all payloads together")
    max_payload: Annotated[Size, Field(ge=1, le=MAX_PAYLOAD)] = Field(MAX_PAYLOAD, description="bytes of the largest payload")
    keep: Annotated[int, Field(ge=1)] = Field(1000, description="newest transient versions kept per model")
    keep_large: Annotated[int, Field(ge=1)] = Field(8, description="of those, versions over 64 KiB")
    expiry: Annotated[float, Field(gt=0)] = Field(3600.0, description="seconds after which a transient version may go")
    scrub_rate: Size = Field(16 << 20, description="bytes of the archive that are read and checked a second; 0: none")
    scrub_period: Annotated[float, Field(gt=0)] = Field(86400.0, description="seconds from the end of one such pass to the next")
    max_connections: Annotated[int, Field(ge=16)] = Field(16_384, description="connections over TCP, of all clients together")
    node_name: str | None = Field(None, pattern=f"^{PATTERN}$", description="name in replies; none: the host's, without domain")
    debug: bool = Field(False, description="tell clients tracebacks and paths of errors")
    ready_file: Path | None = Field(None, description="file that names the addresses once all of them serve")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level of what is logged")

    @property
    def key_directory(self) -> Path:
        """Where the keys are, if there are any."""
        return self.keys_dir or self.archive_dir / "keys"

    @field_validator("host")
    @classmethod
    def _any_address(cls, host: str) -> str:
        return "0.0.0.0" if host == "*" else host  # ZeroMQ's own word for it is no address that anybody can connect to.

    @field_validator("http_port", "grpc_port", mode="before")
    @classmethod
    def _off(cls, port: Any) -> Any:
        return None if isinstance(port, str) and port.lower() == "off" else port

    @field_validator("http_host", "grpc_host")
    @classmethod
    def _all_addresses(cls, host: str | None) -> str | None:
        return "0.0.0.0" if host == "*" else host

    @property
    def grpc_address(self) -> str:
        """The address that gRPC listens on."""
        return self.grpc_host or self.host

    @property
    def grpc_on(self) -> int | None:
        """The port of gRPC; None: it is off. To open it turns it on, unless it was turned off by name."""
        return PORT if self.grpc_open and "grpc_port" not in self.model_fields_set else self.grpc_port

    @field_validator("slot_group", mode="before")
    @classmethod
    def _number_as_text(cls, group: Any) -> Any:
        return str(group) if isinstance(group, int) else group

    @field_validator("slot_group")
    @classmethod
    def _known_group(cls, group: str | None) -> str | None:
        if group is not None and not group.isdecimal():
            try:
                grp.getgrnam(group)
            except KeyError:
                raise ValueError(f"there is no group {group}: give its number") from None
        return group

    @property
    def slot_group_number(self) -> int | None:
        """The group that may use the slot directory, as a number."""
        if self.slot_group is None:
            return None
        return int(self.slot_group) if self.slot_group.isdecimal() else grp.getgrnam(self.slot_group).gr_gid

    @property
    def token_file(self) -> Path:
        """Where the tokens of HTTP are, if there are any."""
        return self.http_tokens or self.archive_dir / "keys" / "http-tokens.toml"

    @field_validator("push_port", "data_port", "http_port", "grpc_port")
    @classmethod
    def _one_port_each(cls, port: int | None, info: ValidationInfo) -> int | None:
        for other in ("upload_port", "push_port", "data_port", "http_port"):
            if other == info.field_name:
                break
            if port and info.data.get(other) == port:
                raise ValueError(f"{port} is the {_name(other)} already: choose another, or 0 to pick a free one")
        return port

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, level: Any) -> Any:
        return level.lower() if isinstance(level, str) else level

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given, implied = (InitSettingsSource(settings_cls, dict(said)) for said in (cls._cogment.given, cls._cogment.implied))
        return init_settings, given, env_settings, InitSettingsSource(settings_cls, cls._from_file), implied

    _from_file: ClassVar[dict[str, Any]] = {}
    _cogment: ClassVar[Found] = Found()


def load_settings(flags: dict[str, Any], file: Path | None = None) -> Settings:
    """The settings from flags (those that are not None), environment, file and defaults. The variables of the Cogment Model
    Registry are part of the environment, and win over ours.

    `file` is a TOML file; None means the one that BROADCASTER_CONFIG names, if any. Raises ConfigError that names every wrong
    key and what would be right.
    """
    named = file or os.environ.get(FILE_VARIABLE)
    given = _read(Path(named)) if named else {}
    cogment = read_variables(os.environ)
    made = {"_from_file": given, "_cogment": cogment, "__module__": __name__, "__annotations__": {}}
    source, sentences = type("Settings", (Settings,), made), list(cogment.mistakes)
    try:
        settings: Settings = source(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as wrong:
        sentences += [_sentence(error) for error in wrong.errors()]
    if sentences:
        key, _, reason = "; ".join(sentences).partition(": ")
        raise ConfigError(key=key, reason=reason)
    return settings


def _read(file: Path) -> dict[str, Any]:
    """The keys of a TOML file; `archive-dir` is `archive_dir`."""
    try:
        with file.open("rb") as opened:
            found = tomllib.load(opened)
    except FileNotFoundError:
        raise ConfigError(key="config", reason=f"there is no file {file}") from None
    except OSError as wrong:
        raise ConfigError(key="config", reason=f"{file} cannot be read: {wrong.strerror}") from None
    except ValueError as wrong:  # TOMLDecodeError, or bytes that are no UTF-8
        raise ConfigError(key="config", reason=f"{file}: {wrong}") from None
    return {key.replace("-", "_"): value for key, value in found.items()}


def _sentence(error: ErrorDetails) -> str:
    name = _name(".".join(str(part) for part in error["loc"]))
    match error["type"]:
        case "extra_forbidden":
            return f"{name}: there is no such setting"
        case "value_error":
            return f"{name}: {error['msg'].removeprefix('Value error, ')}"
    message = error["msg"].removeprefix("Input ")
    return f"{name}: {message}, not {str(error['input'])[:100]!r}"


def _name(field: str) -> str:
    return field.replace("_", "-")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
