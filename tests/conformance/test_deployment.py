"""What stands in the files that run the broadcaster, and in the table of limits, is what the program knows."""

from __future__ import annotations

import importlib
import re

import pytest

from broadcaster.cogment_variables import PORT
from broadcaster.config import Settings
from tests.broadcaster_process import ROOT

FILES = ("Dockerfile", "compose.yaml", "deploy/kubernetes.yaml")
UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
ROWS = re.findall(
    r"^\| [^|]+ \| ([\d,.]+) ?(s|KiB|MiB|GiB|) \| (.+?) \| [^|]+ \|$",
    (ROOT / "docs/operations.md").read_text().partition("## Limits")[2].partition("\n## ")[0],
    re.M,
)


@pytest.mark.parametrize("file", FILES)
def test_every_variable_is_a_setting(file: str) -> None:
    named = set(re.findall(r"\bBROADCASTER_[A-Z_]+", (ROOT / file).read_text()))
    known = {f"BROADCASTER_{name.upper()}" for name in Settings.model_fields} | {"BROADCASTER_URL"}
    allowed = {"BROADCASTER_DATA_PORT"}  # in a comment, as what must not be set
    assert named <= known | allowed
    assert "BROADCASTER_SLOT_DIR" in named


def test_the_image_opens_the_ports_of_the_settings() -> None:
    ports = {field.default or PORT for name, field in Settings.model_fields.items() if name.endswith("_port")}
    exposed = re.search(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert exposed is not None and {int(port) for port in exposed[1].split()} == ports


def test_there_is_a_table_of_limits() -> None:
    assert len(ROWS) > 25


@pytest.mark.parametrize(("figure", "unit", "where"), ROWS, ids=[row[2] for row in ROWS])
def test_a_limit_is_as_large_as_the_table_says(figure: str, unit: str, where: str) -> None:
    told = float(figure.replace(",", "")) * UNITS[unit]
    values = [getattr(importlib.import_module(module), name) for module, name in re.findall(r"`([a-z_.]+)\.([A-Z_]+)`", where)]
    flags = [Settings.model_fields[flag.replace("-", "_")].default for flag in re.findall(r"`--([a-z-]+)`", where)]
    assert values + flags, where
    assert [value for value in values + flags if value != told] == []
