"""What can be asked of and done to models and versions apart from their payloads: look-up, pages, aliases, tags, deletion.

A change is applied at once and answered when it is durable; if the disk refuses, it is taken back, and who follows the events
hears of that too. A deletion is the other way round: durable first, so that what is acknowledged as gone never comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from broadcaster.broker import Broker, Caller, Front, Key, Searching, check_annotations, read_policy, store_error, submit
from broadcaster.catalog import Kept
from broadcaster.protocol.errors import (
    AlreadyExists,
    BroadcasterError,
    Fact,
    InvalidRequest,
    UnknownModel,
    UnknownVersion,
)
from broadcaster.protocol.frames import encoded_size
from broadcaster.protocol.limits import CONTROL, PAGE
from broadcaster.protocol.messages import (
    AddMetrics,
    Archive,
    CreateModel,
    Deleted,
    DeleteModel,
    DeleteVersion,
    Describe,
    Events,
    Follow,
    GetModel,
    GetVersion,
    ListModels,
    ListVersions,
    Model,
    Models,
    Pin,
    Replay,
    Request,
    SetAlias,
    SetRetention,
    SetTags,
    State,
    UpdateModel,
    Version,
    Versions,
    write_value,
)
from broadcaster.protocol.names import LATEST, check_name
from broadcaster.protocol.version import ModelInfo, VersionInfo

Info = TypeVar("Info", ModelInfo, VersionInfo)

_PAGE_BYTES = CONTROL * 3 // 4


class Registry:
    """Answers one request each. Every method raises the typed error that the caller is to be told."""

    def __init__(self, broker: Broker, front: Front, wall: Callable[[], int]) -> None:
        self._broker = broker
        self._rooms = broker.rooms
        self._front = front
        self._wall = wall
        self.searching = Searching(broker.rooms, front, broker.waiting)

    # --- asking ----------------------------------------------------------------------------------------------------

    def models(self, request: ListModels) -> Models:
        limit = _limit(request.limit)
        page, more = _page(self._rooms.catalog.models(request.namespace, request.after), limit)
        return Models(request_id=request.request_id, models=page, next=page[-1].model_id if more else None)

    def versions(self, request: ListVersions) -> Versions:
        limit = _limit(request.limit)
        page, more = _page(self._rooms.catalog.versions(_key(request, request.model_id), request.after or 0), limit)
        return Versions(request_id=request.request_id, versions=page, next=page[-1].number if more else None)

    def model(self, request: GetModel) -> Model:
        info = self._rooms.catalog.model(_key(request, request.model_id))
        return Model(request_id=request.request_id, model=info)

    def version(self, request: GetVersion) -> Version:
        kept = self._rooms.catalog.find(_key(request, request.model_id), request.ref)
        return Version(request_id=request.request_id, version=kept.info)

    def follow(self, request: Follow) -> tuple[State, memoryview | None]:
        """The state of a model that need not exist yet, and the newest payload where it is small."""
        key = _key(request, request.model_id)
        check_name("namespace", request.namespace)
        check_name("model", request.model_id)
        log, newest = self._rooms.log, self._rooms.catalog.newest(key)
        slot, generation = (newest and self._broker.memory.slot_of(key, newest)) or (None, None)
        state = State(
            request_id=request.request_id,
            epoch=log.epoch,
            offset=log.offset,
            model_offset=log.model_offset(key),
            newest=None if newest is None else newest.info,
            slot=slot,
            generation=generation,
        )
        return state, None if newest is None else self._broker.memory.inline_payload(key, newest)

    def replay(self, request: Replay) -> Events:
        log = self._rooms.log
        found, following = log.replay(request.epoch, request.after, request.namespace, request.model_id, _limit(request.limit))
        size, fitting = 0, 0
        for event in found:
            size += encoded_size(event.write())
            if size > _PAGE_BYTES and fitting:
                found, following = found[:fitting], found[fitting - 1].offset
                break
            fitting += 1
        return Events(request_id=request.request_id, epoch=log.epoch, offset=log.offset, events=tuple(found), next=following)

    # --- changing models -------------------------------------------------------------------------------------------

    def create(self, request: CreateModel, caller: Caller, now: float) -> None:
        key = _key(request, request.model_id)
        check_name("namespace", request.namespace)
        check_name("model", request.model_id)
        data, tags, description = request.user_data, request.tags, request.description or ""
        check_annotations(user_data=data, tags=tags, description=description)
        try:
            info = self._rooms.catalog.create(key, self._wall(), user_data=data, tags=tags, description=description)
        except AlreadyExists:
            if not request.exist_ok:
                raise
            caller.reply(Model(request_id=request.request_id, model=self._rooms.catalog.model(key)))
            return

        def undo() -> None:
            if not self._rooms.catalog.model(key).versions:
                self._rooms.catalog.delete(key, 0)
                self._announce(key, "deleted", now)

        self._announce(key, "created", now)
        archive = self._rooms.archive
        self._durable(caller, key, (), lambda: archive.set_model(info), lambda: self._model_reply(request, key), undo)

    def update(self, request: UpdateModel, caller: Caller, now: float) -> None:
        key = _key(request, request.model_id)
        before = self._rooms.catalog.model(key)
        description = before.description if request.description is None else request.description
        check_annotations(user_data=request.user_data, tags=before.tags, description=description)
        self._replace_model(request, key, caller, now, user_data=request.user_data, description=description)

    def describe(self, request: Describe, caller: Caller, now: float) -> None:
        key, description = _key(request, request.model_id), request.description
        if request.number is None:
            before = self._rooms.catalog.model(key)
            check_annotations(user_data=before.user_data, tags=before.tags, description=description)
            self._replace_model(request, key, caller, now, description=description)
            return
        kept = self._rooms.catalog.find_staying(key, request.number)
        archive, number = self._rooms.archive, request.number
        info = replace(kept.info, description=description)
        self._annotate(request, kept, info, caller, now, lambda: archive.set_description(*key, number, description))

    def set_retention(self, request: SetRetention, caller: Caller, now: float) -> None:
        key = _key(request, request.model_id)
        retention = {} if request.retention is None else read_policy(request.retention).write()
        self._rooms.catalog.model(key)
        settled = self._broker.pruning.settling(key)
        self._replace_model(request, key, caller, now, retention=retention, settled=settled)

    def _replace_model(
        self,
        request: Request,
        key: Key,
        caller: Caller,
        now: float,
        *,
        user_data: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str | None = None,
        retention: Mapping[str, Fact] | None = None,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`settled` is called when the change is durable, or taken back."""
        before = self._rooms.catalog.model(key)
        said = {"user_data": user_data, "tags": tags, "description": description, "retention": retention}
        info = self._rooms.catalog.update(key, **said)  # type: ignore[arg-type]
        self._announce(key, "updated", now)
        archive = self._rooms.archive

        def reply() -> Model:
            settled()
            return self._model_reply(request, key)

        def undo() -> None:
            settled()
            self._rooms.catalog.update(key, **{name: getattr(before, name) for name in said})
            self._announce(key, "updated", now)

        self._durable(caller, key, (), lambda: archive.set_model(info), reply, undo)

    def delete_model(self, request: DeleteModel, caller: Caller, now: float) -> None:
        key = _key(request, request.model_id)
        self._rooms.catalog.require_deletable(key, force=request.force)
        upto, archive = self._rooms.numbers.last(key), self._rooms.archive
        leaving = self._rooms.catalog.all(key)
        _mark(leaving, leaving=True)
        self._broker.archiving.model_is_leaving(key)

        def job() -> None:
            try:
                archive.delete_model(*key, upto)
            except UnknownModel:
                pass  # Its first write failed: there is nothing of it on disk.

        def undo() -> None:
            _mark(leaving, leaving=False)
            self._broker.archiving.model_left(key)

        def gone() -> Deleted:
            self._broker.archiving.model_left(key)
            self._broker.forget(key, self._rooms.catalog.delete(key, upto))
            self._announce(key, "deleted", now)
            return Deleted(request_id=request.request_id)

        self._durable(caller, key, [kept.info.number for kept in leaving], job, gone, undo)

    # --- changing versions -----------------------------------------------------------------------------------------

    def delete_version(self, request: DeleteVersion, caller: Caller, now: float) -> None:
        key = _key(request, request.model_id)
        if self._rooms.catalog.is_lost(key, request.number):
            self._delete_lost(request, key, caller, now)
            return
        kept = self._rooms.catalog.require_version_deletable(key, request.number, force=request.force)
        before = self._rooms.catalog.model(key)
        model = replace(before, aliases={name: at for name, at in before.aliases.items() if at != request.number})
        archive = self._rooms.archive
        _mark([kept], leaving=True)

        def job() -> None:
            try:
                archive.delete_version(*key, request.number)
            except UnknownVersion:  # A transient version: its learner would announce it again after a restart.
                archive.note_deleted(*key, request.number, kept.upload_id)
            if model.aliases != before.aliases:
                with suppress(BroadcasterError):  # It is deleted: aliases of what is gone are dropped by a start, too.
                    archive.set_model(model)

        def gone() -> Deleted:
            if self._rooms.catalog.holds(kept):
                self._rooms.catalog.delete_version(key, kept)
                self._broker.forget(key, [kept])
                self._announce(key, "version-deleted", now, number=request.number)
            return Deleted(request_id=request.request_id)

        self._durable(caller, key, [request.number], job, gone, lambda: _mark([kept], leaving=False))

    def _delete_lost(self, request: DeleteVersion, key: Key, caller: Caller, now: float) -> None:
        """One of which only a manifest is left that cannot be read."""
        archive, number = self._rooms.archive, request.number

        def gone() -> Deleted:
            self._rooms.catalog.delete_lost(key, number)
            self._announce(key, "version-deleted", now, number=number)
            return Deleted(request_id=request.request_id)

        self._durable(caller, key, (), lambda: archive.note_deleted(*key, number, b""), gone, lambda: None)

    def archive(self, request: Archive, caller: Caller) -> None:
        def done(result: VersionInfo | BroadcasterError) -> None:
            if isinstance(result, BroadcasterError):
                caller.refuse(result)
            else:
                caller.reply(Version(request_id=request.request_id, version=result))

        self._broker.archiving.archive(_key(request, request.model_id), request.ref, done, caller)

    def set_alias(self, request: SetAlias, caller: Caller, now: float) -> None:
        key = _key(request, request.model_id)
        check_name("alias", request.alias)
        if request.alias.isdigit() and request.number is not None:
            raise InvalidRequest(field="alias", reason=f"{request.alias} would be taken for a version's number")
        if request.alias == LATEST and request.number is not None:
            raise InvalidRequest(field="alias", reason=f"{LATEST} means the newest version: choose another name")
        before = dict(self._rooms.catalog.model(key).aliases)
        self._rooms.catalog.set_alias(key, request.alias, request.number, request.expect)
        model = self._rooms.catalog.model(key)
        self._announce(key, "aliased", now, alias=request.alias, number=request.number)
        archive = self._rooms.archive

        def undo() -> None:
            """This alias alone goes back, unless it has moved again."""
            aliases = dict(self._rooms.catalog.model(key).aliases)
            if aliases.pop(request.alias, None) == request.number:
                again = {request.alias: before[request.alias]} if request.alias in before else {}
                self._rooms.catalog.load_aliases(key, aliases | again)
                number = self._rooms.catalog.model(key).aliases.get(request.alias)
                self._announce(key, "aliased", now, alias=request.alias, number=number)

        self._durable(caller, key, (), lambda: archive.set_model(model), lambda: self._model_reply(request, key), undo)

    def pin(self, request: Pin, caller: Caller, now: float) -> None:
        """A transient version is held in memory; an archived one is held on disk, and stays pinned over restarts."""
        key = _key(request, request.model_id)
        kept = self._rooms.catalog.find_staying(key, request.ref)
        if kept.info.pinned == request.pinned:
            caller.reply(Version(request_id=request.request_id, version=kept.info))
            return
        coming = kept.pins > kept.held  # It is being archived, as it was before this.
        info = self._rooms.catalog.set_pinned(kept, pinned=request.pinned)
        self._announce(key, "updated", now, number=info.number, version=info)
        archive = self._rooms.archive

        def undo() -> None:
            if self._rooms.catalog.holds(kept):
                again = self._rooms.catalog.set_pinned(kept, pinned=not request.pinned)
                self._announce(key, "updated", now, number=again.number, version=again)

        def job() -> None:
            try:
                archive.set_pinned(*key, info.number, pinned=request.pinned)
            except UnknownVersion:
                if info.archived:
                    raise

        if info.archived or coming:
            self._durable(caller, key, [info.number], job, lambda: _version_reply(request, kept), undo)
        else:
            caller.reply(Version(request_id=request.request_id, version=info))

    def set_tags(self, request: SetTags, caller: Caller, now: float) -> None:
        key = _key(request, request.model_id)
        for name in request.tags:
            check_name("tag", name)
        if request.number is None:
            tags = _merged(self._rooms.catalog.model(key).tags, request.tags)
            before = self._rooms.catalog.model(key)
            check_annotations(user_data=before.user_data, tags=tags, description=before.description)
            self._replace_model(request, key, caller, now, tags=tags)
            return
        kept = self._rooms.catalog.find_staying(key, request.number)
        tags = _merged(kept.info.tags, request.tags)
        archive, number = self._rooms.archive, request.number
        self._annotate(request, kept, replace(kept.info, tags=tags), caller, now, lambda: archive.set_tags(*key, number, tags))

    def add_metrics(self, request: AddMetrics, caller: Caller, now: float) -> None:
        key = _key(request, request.model_id)
        kept = self._rooms.catalog.find_staying(key, request.number)
        info = replace(kept.info, metrics={**kept.info.metrics, **request.metrics})
        archive = self._rooms.archive
        self._annotate(request, kept, info, caller, now, lambda: archive.add_metrics(*key, request.number, request.metrics))

    def _annotate(
        self, request: Request, kept: Kept, info: VersionInfo, caller: Caller, now: float, job: Callable[[], object]
    ) -> None:
        """Gives a version other annotations; on disk too where it is archived."""
        check_annotations(user_data=info.user_data, metrics=info.metrics, tags=info.tags, description=info.description)
        before, kept.info = kept.info, info
        key = (info.namespace, info.model_id)
        self._announce(key, "updated", now, number=info.number, version=info)

        def undo() -> None:
            if self._rooms.catalog.holds(kept):
                kept.info = replace(before, pinned=kept.info.pinned)
                self._announce(key, "updated", now, number=info.number, version=kept.info)

        if info.archived:
            self._durable(caller, key, [info.number], job, lambda: _version_reply(request, kept), undo)
        else:
            caller.reply(Version(request_id=request.request_id, version=info))

    # --- inside ----------------------------------------------------------------------------------------------------

    def _announce(self, key: Key, event: str, now: float, **facts: object) -> None:
        self._front.push_event(self._rooms.emit(key, event, now, **facts), None)

    def _model_reply(self, request: Request, key: Key) -> Model:
        return Model(request_id=request.request_id, model=self._rooms.catalog.model(key))

    def _durable(
        self,
        caller: Caller,
        key: Key,
        numbers: Iterable[int],
        job: Callable[[], object],
        reply: Callable[[], Model | Version | Deleted],
        undo: Callable[[], object],
    ) -> None:
        """Runs `job`, about a model and these versions of it, on the archive thread; then answers, or takes the change back and
        says why."""

        def finished(result: object) -> None:
            try:
                if isinstance(result, BaseException):
                    undo()
                    self._broker.archiving.doubt(key, numbers, result)
                    raise store_error(result, "a change")
                caller.reply(reply())
            except BroadcasterError as error:
                caller.refuse(error)

        try:
            submit(self._rooms.writer, self._front, self._broker.waiting.in_time(caller, job), finished)
        except BroadcasterError as error:
            finished(error)


def _mark(versions: Iterable[Kept], *, leaving: bool) -> None:
    for kept in versions:
        kept.leaving = leaving


def _version_reply(request: Request, kept: Kept) -> Version:
    return Version(request_id=request.request_id, version=kept.info)


def _key(request: Request, model_id: str) -> Key:
    return request.namespace, model_id


def _limit(limit: int | None) -> int:
    if limit == 0:
        raise InvalidRequest(field="limit", reason="must be at least 1")
    return min(limit or PAGE, PAGE)


def _page(infos: Iterable[Info], limit: int) -> tuple[tuple[Info, ...], bool]:
    """As many as `limit` and a control map allow, and whether there are more."""
    page: list[Info] = []
    size = 0
    for info in infos:
        size += encoded_size(write_value(info))
        if len(page) == limit or (size > _PAGE_BYTES and page):
            return tuple(page), True
        page.append(info)
    return tuple(page), False


def _merged(before: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**before, **changes}
    return {name: value for name, value in merged.items() if value is not None}
