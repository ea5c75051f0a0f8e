"""What is never taken, whatever the state of things; and how a failure of the archive is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from broadcaster.broker.rooms import Key
from broadcaster.protocol.errors import AlreadyExists, BroadcasterError, InvalidRequest, PayloadTooLarge, StoreUnavailable
from broadcaster.protocol.frames import encoded_size
from broadcaster.protocol.limits import ANNOTATIONS, DESCRIPTION
from broadcaster.protocol.messages import DIGEST_KINDS, LAST_WORDS, Begin, Commit, Publish
from broadcaster.protocol.names import check_name


def check_begin(begin: Begin, max_payload: int) -> None:
    """Raises InvalidName, InvalidRequest or PayloadTooLarge for a payload that will never be taken."""
    check_name("namespace", begin.namespace)
    check_name("model", begin.model_id)
    if begin.digest_kind not in DIGEST_KINDS:
        raise InvalidRequest(field="digest_kind", reason=f"must be one of {', '.join(DIGEST_KINDS)}")
    if begin.size > max_payload:
        raise PayloadTooLarge(model_id=begin.model_id, size=begin.size, limit=max_payload, what="the largest payload")
    if len(begin.content_type) > 128:
        raise InvalidRequest(field="content_type", reason="must have at most 128 characters")
    check_annotations(user_data=begin.user_data, metrics=begin.metrics)


def check_annotations(*, description: str = "", **maps: Mapping[str, Any]) -> None:
    """Raises InvalidRequest when what is said of a version or a model takes more than its limit together, or its description
    alone."""
    length = len(description.encode()) if description else 0
    if length > DESCRIPTION:
        raise InvalidRequest(field="description", reason=f"{length} bytes are over {DESCRIPTION}")
    size = length + sum(encoded_size(one) for one in maps.values())
    if size > ANNOTATIONS:
        raise InvalidRequest(field="user_data, metrics, tags and description", reason=f"{size} bytes are over {ANNOTATIONS}")


def with_last_words(begin: Begin, later: Commit | Begin) -> Begin:
    """`begin` with what is said of the version later. Raises InvalidRequest."""
    said = {name: getattr(later, name) for name in LAST_WORDS}
    given = {name: value for name, value in said.items() if value is not None}
    if not given:
        return begin
    changed = replace(begin, **given)
    check_annotations(user_data=changed.user_data, metrics=changed.metrics)
    return changed


def require_same(begin: Begin, key: Key, size: int, digests: Collection[str | None]) -> None:
    """An upload id is one payload's: answering for another one would lose it without a word. Raises AlreadyExists.

    `digests` are those of the payload that had the id, as far as they are known; only a `publish` says its own at once.
    """
    other = isinstance(begin, Publish) and digests and begin.digest not in digests
    if other or (begin.namespace, begin.model_id, begin.size) != (*key, size):
        what = f"an upload with this id, of {size} bytes for {'/'.join(key)},"
        raise AlreadyExists(model_id=begin.model_id, what=what)


def store_error(error: BaseException, operation: str) -> BroadcasterError:
    """What a caller is told when a job failed: its own typed error, or StoreUnavailable."""
    if isinstance(error, BroadcasterError):
        return error
    told = StoreUnavailable(operation=operation, where="the archive", reason=repr(error)[:200], hint="See the broadcaster's log")
    told.__cause__ = error
    return told
