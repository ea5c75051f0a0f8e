"""The help of every command, and the manual that must not fall behind it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

import click
import pytest

from broadcaster.cli import main
from broadcaster.cli.exits import MEANINGS
from broadcaster.config import FILE_VARIABLE, PREFIX, Settings
from tests.broadcaster_process import ROOT
from tests.integration.commands import command, refused

COMMANDS: Mapping[str, click.Command] = main.commands


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda given: " ".join(given) or "itself")
def test_help_loads_no_library_that_only_work_needs(arguments: list[str]) -> None:
    line = "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    line += "; from broadcaster.entry import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", line, *arguments, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0 and done.stdout.startswith("Usage: broadcaster")
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert (
        loaded & {"rich", "zmq", "numpy", "pydantic", "pydantic_settings", "clients", "sqlalchemy", "msgpack", "xxhash"} == set()
    )


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda given: " ".join(given) or "itself")
def test_help_ends_with_the_exit_codes(arguments: list[str]) -> None:
    said = command(*arguments, "--help").stdout
    assert re.search(r"\n    3  no broadcaster can be reached\n", said), said


def test_the_manual_names_every_command_and_each_of_its_options() -> None:
    sections = dict(
        re.findall(r"^## `broadcaster ([a-z-]+)[^\n]*\n(.*?)(?=^## |\Z)", (ROOT / "docs/cli.md").read_text(), re.M | re.S)
    )
    assert sorted(sections) == sorted(COMMANDS)
    for name, found in COMMANDS.items():
        names = {option for param in found.params if isinstance(param, click.Option) for option in param.opts}
        told = set(re.findall(r"`(--[a-z-]+)", sections[name]))
        assert names == told, name


def test_the_manual_names_every_setting_with_its_variable_its_key_and_its_default() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `--([a-z-]+)` \| `([A-Z_]+)` \| `([a-z_]+)` \| (.*?) \|", text, re.M)}
    assert sorted(rows) == sorted(name.replace("_", "-") for name in Settings.model_fields)
    for name, field in Settings.model_fields.items():
        variable, key, default = rows[name.replace("_", "-")]
        assert (variable, key) == (PREFIX + name.upper(), name)
        shown = {
            1 << 30: "1GiB",
            64 << 30: "64GiB",
            16 << 20: "16MiB",
            2 << 20: "2MiB",
            86400.0: "86400",
            None: "none",
            False: "false",
            3600.0: "3600",
        }.get(field.default, str(field.default))
        assert default == f"`{shown}`", name
    assert FILE_VARIABLE in text


def test_every_setting_is_a_flag_of_serve() -> None:
    flags = {param.name for param in COMMANDS["serve"].params}
    assert flags == {*Settings.model_fields, "config"}


def test_the_manual_has_the_table_of_exit_codes() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert [code for code, meaning in MEANINGS.items() if f"| {code.value} | {meaning}" not in text] == []


def test_no_command_at_all_shows_the_help_and_fails() -> None:
    done = command()
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("Usage: broadcaster")


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["serve", "--bogus"], ["fetch", "m", "--bogus"], ["fetch", "m", "-x"], ["fetch"], ["watch", "m", "--count", "0"]],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_that_names_it(arguments: list[str]) -> None:
    assert "--help)" in refused(command(*arguments), 2)
