"""Text from elsewhere, made fit for one line of a terminal."""

from __future__ import annotations


def one_line(text: str) -> str:
    """`text` on one line, with nothing in it that steers a terminal: other characters are written as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
