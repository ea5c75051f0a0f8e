"""Patterns of models, as keys and tokens have them: `policy-*` in the namespace `default`, or `lab/policy-*`."""

from __future__ import annotations

import re

from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.names import DEFAULT_NAMESPACE

FORM = "a name, or namespace/name, in which * and ? may stand"
_PART = re.compile(r"[A-Za-z0-9._*?-]{1,128}", re.ASCII)


def split_pattern(models: object, namespace: object = None) -> tuple[str, str]:
    """The patterns of the namespace and of the models. `namespace` may say the first, where `models` does not. Raises
    InvalidRequest."""
    before, slash, name = models.rpartition("/") if isinstance(models, str) else ("", "", "")
    if slash and namespace is not None:
        raise InvalidRequest(field="models", reason=f"{str(models)[:100]!r} names a namespace already")
    where = before if slash else DEFAULT_NAMESPACE if namespace is None else namespace
    if not isinstance(where, str) or not _PART.fullmatch(where):
        raise InvalidRequest(field="namespace", reason=f"{str(where)[:100]!r} must be a name, in which * and ? may stand")
    if not _PART.fullmatch(name):
        raise InvalidRequest(field="models", reason=f"{str(models)[:100]!r} must be {FORM}")
    return where, name
