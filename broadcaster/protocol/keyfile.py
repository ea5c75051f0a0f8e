"""A client's key as text: one small TOML file has all that a connection needs, the broadcaster's public key too."""

from __future__ import annotations

from dataclasses import dataclass, field

from broadcaster.protocol.errors import ConfigError
from broadcaster.protocol.names import check_name

LENGTH = 40
"""Characters of a key: 32 bytes in Z85."""
LARGEST = 1 << 16
"""Bytes of a client's file."""

_Z85 = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")


@dataclass(frozen=True, slots=True)
class Key:
    """Who a client is. `server` is the public key of the broadcaster that it is for. Its repr tells no secret."""

    name: str
    public: str
    secret: str = field(repr=False)
    server: str


def is_key(text: object) -> bool:
    """Whether this is a key, public or secret."""
    return isinstance(text, str) and len(text) == LENGTH and _Z85.issuperset(text)


def parse_key(text: str, where: str) -> Key:
    """The key in a client's file. Raises ConfigError, which tells no value that stands in it."""
    import tomllib  # Here, for most clients have no key.

    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise ConfigError(key="key", reason=f"{where} is no key file: make one with `broadcaster keygen`") from None
    for name in ("public", "secret", "server"):
        if not is_key(given.get(name)):
            raise ConfigError(key="key", reason=f"{where}: {name} is not a key: make the file anew with `broadcaster keygen`")
    return Key(check_name("key", given.get("name")), given["public"], given["secret"], given["server"])


def write_key(key: Key) -> str:
    """The text of a client's file."""
    return (
        f'# The key of {key.name}: whoever has this file may do what it may. Give it to nobody else.\nname = "{key.name}"\n'
        f"public = '{key.public}'\nsecret = '{key.secret}'\n# The broadcaster's public key:\nserver = '{key.server}'\n"
    )
