"""The layer rule: who may import whom, read from the source with `ast`. A room that is not in a table gets a row here first."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PURE_ROOMS = {"acks", "beacons", "catalog", "cogment_variables", "eventlog", "numbers", "retention", "search"}
ROOMS = PURE_ROOMS | {"store", "security", "slots", "stats"}
CLIENTS = {"clients", "protocol"}
ANYTHING = ROOMS | CLIENTS | {"config", "broker", "server", "web", "cogment", "demo", "supervisor", "cli", "entry"}
OURS: dict[str, set[str]] = {  # room: what of ours it may import, beside itself
    "": set(),  # broadcaster/__init__.py, which everybody imports
    "protocol": set(),
    "clients": {"protocol"},
    "config": {"protocol", "cogment_variables"},
    **{room: {"protocol"} for room in PURE_ROOMS},
    **{room: {"protocol", "config"} for room in ROOMS - PURE_ROOMS},
    "broker": ROOMS | {"protocol", "config"},
    "registry": ROOMS | {"protocol", "config", "broker"},
    "server": ROOMS | {"protocol", "config", "broker", "registry"},
    **{front: CLIENTS for front in ("web", "cogment", "demo")},
    **{composition: ANYTHING for composition in ("supervisor", "cli", "entry", "__main__")},
}

CLI, SERVER, DRIVER = "broadcaster/cli[_./]*", "broadcaster/server[_./]*", "clients/_driver[_./]*"
DEMO, WEB, COGMENT = "broadcaster/demo/*", "broadcaster/web/*", "broadcaster/cogment/*"
SQL = ["broadcaster/store/metadata.py", "broadcaster/store/migrations/*"]
ONLY_IN: dict[str, list[str]] = {  # library: the files that are named after its job
    "torch": ["clients/codec/torch.py"],
    "jax": ["clients/codec/jax.py"],
    "ml_dtypes": ["clients/codec/*"],
    **{library: SQL for library in ("sqlalchemy", "alembic")},
    **{library: [COGMENT] for library in ("grpc", "grpc_health", "grpc_reflection", "google")},
    **{library: [WEB] for library in ("starlette", "uvicorn", "prometheus_client")},
    **{library: [DEMO] for library in ("gymnasium", "matplotlib")},
    "rich": [CLI, DEMO],
    "click": [CLI],
    **{library: ["broadcaster/config.py"] for library in ("pydantic", "pydantic_settings")},
    "zmq": [SERVER, DRIVER, "broadcaster/security/*", DEMO, "broadcaster/cli/checks/look.py"],
    "logging": [SERVER, CLI, "broadcaster/supervisor.py", WEB, COGMENT, DRIVER],
    **{library: [] for library in ("pickle", "marshal", "shelve", "dill", "cloudpickle")},
}

PURE = ["broadcaster/protocol/*", *(f"broadcaster/{room}[./]*" for room in sorted(PURE_ROOMS))]
PURE_MAY = (sys.stdlib_module_names | {"msgpack", "xxhash"}) - set(
    "asyncio socket threading time random os logging secrets uuid mmap fcntl pathlib subprocess multiprocessing "
    "concurrent select selectors signal ssl tempfile shutil glob sqlite3 datetime urllib http".split()
)
OF_CLIENTS = ("BROADCASTER_URL", "BROADCASTER_KEY")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def imported(node: ast.AST, package: list[str]) -> list[str]:
    """The dotted names that this statement imports, absolute; `from a import b` is a.b, for b may be a module."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            base = package[: len(package) - node.level + 1] if node.level else []
            return [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        case ast.Call(
            func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]
        ):
            return [name]
    return []


def unloaded(tree: ast.Module) -> set[ast.AST]:
    """What stands under `if TYPE_CHECKING:` and loads no library. (To know another room by its types is still to know it.)"""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {node for block in blocks for statement in block.body for node in ast.walk(statement)}


def room_of(parts: list[str]) -> str:
    """The room of a dotted name: server, server_upload and server.upload are one; so are the values of broadcaster itself."""
    if parts[0] != "broadcaster":
        return parts[0]
    second = parts[1] if len(parts) > 1 else "__init__"
    for room in ("server", "cli"):
        if second.startswith(room + "_"):
            return room
    return "" if second in ("__init__", "__version__") else second


def violations(root: Path) -> Iterator[str]:
    """Every breach of the layer rule under `root`, as a sentence that names file and line."""
    readers = []
    for path in sorted([*root.glob("broadcaster/**/*.py"), *root.glob("clients/**/*.py")]):
        file = path.relative_to(root).as_posix()
        parts = list(path.relative_to(root).with_suffix("").parts)
        room, pure = room_of(parts), any(fnmatchcase(file, pattern) for pattern in PURE)
        if room not in OURS:
            yield f"{file}: the room {room!r} has no row in OURS"
            continue
        tree = ast.parse(path.read_text(), file)
        for_types = unloaded(tree)
        for node in ast.walk(tree):
            where = f"{file}:{getattr(node, 'lineno', 0)}"
            for name in imported(node, parts[:-1]):
                library = name.partition(".")[0]
                target = room_of(name.split("."))
                if library in ("broadcaster", "clients"):
                    if target not in {"", room} | OURS[room]:
                        yield f"{where}: {room or library} imports {target}"
                elif pure and library not in PURE_MAY:
                    yield f"{where}: pure code imports {library}"
                if node not in for_types and not any(fnmatchcase(file, pattern) for pattern in ONLY_IN.get(library, ["*"])):
                    yield f"{where}: {library} is imported outside the files of its job"
                if name.startswith("os.") and name[3:] in ENVIRONMENT:
                    readers.append((file, where, ""))
            match node:
                case ast.Call(func=ast.Name(id="open" | "print" | "input" as call)) if pure:
                    yield f"{where}: pure code calls {call}"
                case ast.Attribute(value=ast.Name(id="os"), attr=attribute) if attribute in ENVIRONMENT:
                    readers.append((file, where, path.read_text().splitlines()[node.lineno - 1]))
    yield from environment_violations(readers)


def environment_violations(readers: list[tuple[str, str, str]]) -> Iterator[str]:
    """`readers` are (file, where, line) of every look at the environment: config may; clients may once for each of theirs."""
    looks = {name: sum(name in line for file, _, line in readers if file.startswith("clients/")) for name in OF_CLIENTS}
    for file, where, line in readers:
        if file.startswith("clients/") and not any(name in line and looks[name] == 1 for name in OF_CLIENTS):
            yield f"{where}: clients read only {' and '.join(OF_CLIENTS)}, and each in one place"
        elif file.startswith("broadcaster/") and file != "broadcaster/config.py":
            yield f"{where}: only config reads the environment"


def test_every_file_keeps_to_its_layer() -> None:
    assert list(violations(ROOT)) == []
    assert len(list(ROOT.glob("broadcaster/protocol/*.py"))) >= 3, "the rule looked at nothing"


def plant(root: Path, file: str, source: str) -> list[str]:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(source)
    return list(violations(root))


BREACHES = {
    "pure code imports zmq": ("broadcaster/protocol/frames.py", "import zmq"),
    "pure code imports numpy": ("broadcaster/protocol/layout.py", "import numpy as np"),
    "pure code imports time": ("broadcaster/catalog.py", "def f():\n    from time import monotonic"),
    "pure code imports os": ("broadcaster/protocol/a.py", "import os.path"),
    "pure code calls open": ("broadcaster/protocol/a.py", "open('x')"),
    "protocol imports config": ("broadcaster/protocol/a.py", "from ..config import Settings"),
    "store imports slots": ("broadcaster/store/memory.py", "from broadcaster import slots"),
    "catalog imports broker": ("broadcaster/catalog.py", "import broadcaster.broker"),
    "broker imports server": ("broadcaster/broker/broker.py", "from broadcaster.server.loop import Loop"),
    "broker imports clients": ("broadcaster/broker/broker.py", "from clients import connect"),
    "web imports store": ("broadcaster/web/app.py", "from broadcaster.store.memory import Memory"),
    "store imports stats": ("broadcaster/store/a.py", "if TYPE_CHECKING:\n    from broadcaster.stats import Stats"),
    "demo imports server": ("broadcaster/demo/run.py", "import importlib\nimportlib.import_module('broadcaster.server')"),
    "clients imports broker": ("clients/publisher.py", "from broadcaster.broker import Broker"),
    "'utils' has no row in OURS": ("broadcaster/utils.py", ""),
    "'servers' has no row in OURS": ("broadcaster/servers.py", "import zmq"),
    "torch is imported outside": ("clients/codec/numpy.py", "def f():\n    import torch"),
    "sqlalchemy is imported outside": ("broadcaster/store/blobs.py", "from sqlalchemy import select"),
    "pickle is imported outside": ("clients/codec/opaque.py", "import pickle"),
    "logging is imported outside": ("broadcaster/broker/broker.py", "import logging"),
    "zmq is imported outside": ("broadcaster/slots.py", "import zmq"),
    "click is imported outside": ("broadcaster/config.py", "import click"),
    "only config reads": ("broadcaster/supervisor.py", "import os\nos.environ['HOME']"),
    "only config reads the": ("broadcaster/slots.py", "from os import getenv"),
    "clients read only": ("clients/connect.py", "import os\nos.environ.get('HOME')"),
    "each in one place": ("clients/connect.py", "import os\nos.getenv('BROADCASTER_URL')\nos.getenv('BROADCASTER_URL')"),
}


@pytest.mark.parametrize("said", BREACHES)
def test_a_planted_breach_is_found(said: str, tmp_path: Path) -> None:
    file, source = BREACHES[said]
    found = plant(tmp_path, file, source)
    assert any(said in sentence for sentence in found), found


FAIR = {
    "broadcaster/protocol/frames.py": "import struct, msgpack\nfrom broadcaster.protocol import errors\nfrom . import names",
    "broadcaster/broker/memory.py": "from broadcaster import __version__, catalog\nfrom broadcaster.store.memory import Memory",
    "broadcaster/server_upload.py": "import logging, zmq\nfrom broadcaster.broker import Broker",
    "broadcaster/server/loop.py": "import zmq\nfrom broadcaster.server.upload import Upload",
    "broadcaster/cli/serve.py": "import click, rich.table\nfrom broadcaster.supervisor import Supervisor",
    "broadcaster/demo/actor.py": "import gymnasium, zmq\nfrom clients import connect",
    "broadcaster/config.py": "import os\nos.environ",
    "broadcaster/store/migrations/versions/0001.py": "import sqlalchemy as sa\nfrom alembic import op",
    "clients/connect.py": "import os\nos.environ.get('BROADCASTER_URL')\nfrom broadcaster.protocol import names",
    "clients/_driver.py": "import logging, os, zmq\nos.getpid()",
    "clients/codec/torch.py": "import numpy as np, torch",
    "clients/codec/tensors.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
}


@pytest.mark.parametrize("file", FAIR)
def test_what_the_rule_allows_is_not_a_breach(file: str, tmp_path: Path) -> None:
    assert plant(tmp_path, file, FAIR[file]) == []
