"""The settings of `broadcaster serve`: flag > BROADCASTER_* environment > TOML file > default. All mistakes are told at once.

The only reader of the environment and of a configuration file.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from broadcaster.protocol.errors import ConfigError

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}


def parse_size(value: Any) -> Any:
    """Bytes of `512MiB`, `1g`, `1048576`."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
        if found is None or found[2].lower() not in _UNITS:
            raise ValueError("must be a number of bytes, or one with KiB, MiB or GiB")
        return int(float(found[1]) * _UNITS[found[2].lower()])
    return value


Size = Annotated[int, BeforeValidator(parse_size)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """What `broadcaster serve` can be told. Ports: 0 picks a free one. Sizes in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="BROADCASTER_", extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    upload_port: Port = 5550
    push_port: Port = 5551
    data_port: Port = 5552
    insecure: bool = False
    advertise: str | None = None
    archive_dir: Path = Path("broadcaster-data")
    slot_dir: Path | None = None
    memory_budget: Annotated[Size, Field(ge=1 << 20)] = 1 << 30
    max_payload: Annotated[Size, Field(ge=1)] = 64 << 30
    keep: Annotated[int, Field(ge=1)] = 1000
    keep_large: Annotated[int, Field(ge=1)] = 8
    expiry: Annotated[float, Field(gt=0)] = 3600.0
    ready_file: Path | None = None

    @model_validator(mode="after")
    def _loopback_unless_insecure(self) -> Settings:
        if not self.insecure and not _is_loopback(self.host):
            raise ValueError(
                f"host: {self.host} can be reached over the network, and everyone who reaches it may read and write: "
                "say --insecure to allow that, or bind 127.0.0.1"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, cls._file)

    _file: Path | None = None


def load_settings(flags: dict[str, Any], file: Path | None = None) -> Settings:
    """The settings from flags (those that were given), environment, file and defaults.

    Raises ConfigError that names every wrong key and what would be right.
    """
    source = type("Settings", (Settings,), {"_file": file, "__module__": __name__})
    if file is not None and not file.is_file():
        raise ConfigError(key="config", reason=f"there is no file {file}")
    try:
        settings: Settings = source(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as wrong:
        raise ConfigError(
            key="settings", reason="; ".join(_sentence(error["loc"], error["msg"]) for error in wrong.errors())
        ) from None
    except ValueError as wrong:  # a TOML file that is not one
        raise ConfigError(key="config", reason=f"{file}: {wrong}") from None
    return settings


def _sentence(where: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in where).replace("_", "-")
    message = message.removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
