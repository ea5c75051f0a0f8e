"""JSON lines as tables for people, between two markers of the README."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- results: rewritten by python -m benchmarks.run -->", "<!-- end of results -->"

Row = dict[str, Any]


def write(readme: Path, text: str) -> None:
    """Puts `text` between the markers. Raises ValueError when they are not there."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has no place for the results: it needs the lines {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def render(
    machine: Mapping[str, str], questions: Mapping[str, list[Row]], failures: Mapping[str, str], pictures: str = ""
) -> str:
    """Everything: the machine, what had a target, pictures, then a part for each question by name, with what failed in it."""
    parts = [_grid(("", ""), [(name, value) for name, value in machine.items()]), *_targets(questions), pictures]
    for name, rows in questions.items():
        parts += [f"### {name}", _asked(name)]
        if name in failures:
            parts.append(f"**Failed:** {failures[name]}")
        if _has_many_peers(rows):
            parts += _pivot(rows)
        else:
            parts += _own(rows) if any("question" in row for row in rows) else [_foreign(rows)]
    return "\n".join(f"{part}\n" for part in parts if part)


def _targets(questions: Mapping[str, list[Row]]) -> list[str]:
    """Every figure of which something was asked, in one table."""
    aimed = [row for rows in questions.values() for row in rows if "target" in row]
    if not aimed:
        return []
    lines = [
        (row["question"], row["case"], _figure(row), row.get("peer", ""), row["target"], _COLUMNS["met"](row)) for row in aimed
    ]
    met = sum(row.get("met") is True for row in aimed)
    heads = ("question", "case", "figure", "against", "target", "met")
    return [f"### Targets: {met} of {len(aimed)} are met", _grid(heads, lines)]


def _figure(row: Row) -> str:
    own = f"{_number(row['ours']['median'])} {row['unit']}".strip()
    if "ratio" not in row:
        return own
    return f"{_number(row['ratio'])} ({own} to {_number(row['theirs']['median'])})"


def _has_many_peers(rows: list[Row]) -> bool:
    cases = [row["case"] for row in rows if "theirs" in row]
    return any(cases.count(case) > 2 for case in cases)


def _pivot(rows: list[Row]) -> list[str]:
    """A line for each case, a column for each peer."""
    measured = [row for row in rows if "theirs" in row]
    peers = list(dict.fromkeys(row["peer"] for row in measured))
    cases: dict[str, dict[str, str]] = {}
    for row in measured:
        cells = cases.setdefault(row["case"], {"ours": _spread(row["ours"], row["unit"])})
        cells[row["peer"]] = _spread(row["theirs"], row["unit"])
    grid = _grid(
        ("case", "ours", *peers), [(case, *(cells.get(name, "") for name in ("ours", *peers))) for case, cells in cases.items()]
    )
    what = measured[0]["what"]
    return [f"{what[:1].upper()}{what[1:]}.", grid, *(f"{row['case']}: {row['what']}." for row in rows if "ours" not in row)]


def _asked(name: str) -> str:
    """What the file asks, as its first line says it."""
    docstring = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""
    return docstring.partition("\n\n")[0].replace("\n", " ")


def _own(rows: list[Row]) -> list[str]:
    """One table of results, and what else was measured beside them."""
    measured = [row for row in rows if "ours" in row]
    notes = [f"{row['case']}: {row['what']}." for row in rows if "ours" not in row]
    if not measured:
        return notes
    columns = {name: [column(row) for row in measured] for name, column in _COLUMNS.items()}
    told: list[str] = []
    shown: dict[str, list[str]] = {}
    for name, cells in columns.items():
        if name in ("what", "peer is") and len(set(cells)) == 1:
            told.append(cells[0])  # Said once, above.
        elif any(cells):
            shown[name] = cells
    words = ", against ".join(one for one in told if one)
    said = f"{words[:1].upper()}{words[1:]}." if words else ""
    return [said, _grid(tuple(shown), zip(*shown.values(), strict=True)), *notes, *_beside(rows)]


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda row: row["case"],
    "what": lambda row: row["what"],
    "ours": lambda row: _spread(row["ours"], row["unit"]),
    "peer": lambda row: _spread(row["theirs"], row["unit"]) if "theirs" in row else "",
    "peer is": lambda row: row.get("peer", ""),
    "ratio": lambda row: _number(row["ratio"]) if "ratio" in row else "",
    "target": lambda row: row.get("target", ""),
    "met": lambda row: {True: "yes", False: "**no**", None: ""}[row.get("met")],
    "what limits it": lambda row: row.get("limit", ""),
}


def _beside(rows: list[Row]) -> list[str]:
    """Details: rows with the same names in one table, a row of its own as a line."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.get("details"):
            groups.setdefault(tuple(row["details"]), []).append(row)
    parts = []
    for names, alike in groups.items():
        if len(alike) == 1:
            facts = ", ".join(f"{_words(name)} {_value(value)}" for name, value in alike[0]["details"].items())
            parts.append(f"{alike[0]['case']}: {facts}.")
        else:
            values = [(row["case"], *(_value(row["details"][name]) for name in names)) for row in alike]
            parts.append(_grid(("case", *map(_words, names)), values))
    return parts


def _foreign(rows: list[Row]) -> str:
    """Lines of another shape: one column for each name."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _grid(tuple(map(_words, names)), [tuple(_value(row.get(name, "")) for name in names) for row in rows])


def _words(name: str) -> str:
    return name.replace("_per_", "/").replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        if set(value) == {"user", "system"}:
            return f"{value['user']:.2f}+{value['system']:.2f}"
        if set(value) == {"total"}:
            return f"{value['total']:.2f}"
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return _number(value) if isinstance(value, float) else str(value)


def _spread(spread: Mapping[str, float], unit: str) -> str:
    median = _number(spread["median"])
    if spread["p10"] == spread["p90"]:
        return f"{median} {unit}"
    return f"{median} ({_number(spread['p10'])} to {_number(spread['p90'])}) {unit}, {spread['rounds']} ×"


def _number(value: float) -> str:
    if not value or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _grid(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
