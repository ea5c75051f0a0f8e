"""What an import brings: the names that are promised, and nothing heavy."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "alembic click gymnasium grpc jax matplotlib ml_dtypes prometheus_client pydantic pydantic_settings rich sqlalchemy "
    "starlette torch uvicorn"
).split()
FRAMEWORKS = ("torch", "jax", "ml_dtypes")
"""What a codec's own file may import, and a machine may lack."""

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("broadcaster/protocol", "clients")
    for path in sorted((ROOT / folder).glob("**/*.py"))
]


def run_python(source: str) -> subprocess.CompletedProcess[str]:
    """`source` in a fresh interpreter, warnings being errors."""
    return subprocess.run([sys.executable, "-W", "error", "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=50)


def needs(file: str) -> None:
    if not (ROOT / file).exists():
        pytest.skip(f"{file} does not exist yet")


def exported(module: str) -> list[str] | None:
    """The `__all__` of this module as its source has it, or None."""
    path = ROOT / module.replace(".", "/")
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    for node in ast.parse(source).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=value)
            ):
                return list(ast.literal_eval(value))
    return None


@pytest.mark.parametrize("package", ["clients", "broadcaster", "broadcaster.protocol"])
def test_a_fresh_import_loads_nothing_heavy_and_starts_no_thread(package: str) -> None:
    needs(f"{package.replace('.', '/')}/__init__.py")
    report = "import json, sys, threading; print(json.dumps([sorted(sys.modules), threading.active_count()]))"
    done = run_python(f"import {package}; {report}")
    assert done.returncode == 0, done.stderr
    modules, threads = json.loads(done.stdout)
    assert {name.partition(".")[0] for name in modules} & set(HEAVY) == set()
    assert threads == 1


def test_the_names_of_clients_are_said() -> None:
    needs("clients/__init__.py")
    assert exported("clients"), "clients/__init__.py has no __all__"


@pytest.mark.parametrize("module", [module for module in MODULES if exported(module) is not None])
def test_every_exported_name_exists_once(module: str) -> None:
    names = exported(module)
    assert names is not None and len(names) == len(set(names))
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name not in FRAMEWORKS:
            raise
        pytest.skip(f"{missing.name} is not installed")
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_the_command_without_its_extra_says_which_one_brings_it() -> None:
    needs("broadcaster/cli.py" if not (ROOT / "broadcaster/cli").is_dir() else "broadcaster/cli/__init__.py")
    done = run_python("import sys; sys.modules['click'] = None; from broadcaster.entry import main; main()")
    assert done.returncode == 2
    assert done.stderr == "the command broadcaster needs click: pip install 'model-broadcaster[server]'\n"
