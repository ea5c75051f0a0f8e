"""The index of the archive: SQLAlchemy Core, on SQLite today. What is SQLite's alone stands in `sqlite.py`.

One connection, which writes, reads and checkpoints. The index is never the only place of anything: manifests and the floor
file hold it all, so a lost index is rebuilt, and a damaged one is put aside.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from broadcaster.protocol.errors import BroadcasterError, NoSpace, StoreUnavailable
from broadcaster.protocol.version import ModelInfo, VersionInfo
from broadcaster.store import sqlite
from broadcaster.store.failpoints import hit
from broadcaster.store.manifests import key_of
from broadcaster.store.values import ArchivedModel, ArchivedVersion, ModelKey

SCHEMAS = ("0001", "0002")
"""Every schema this program knows, oldest first; the last is the one it works with."""
_MIGRATIONS = Path(__file__).parent / "migrations"

_schema = sa.MetaData()
_meta = sa.Table("meta", _schema, sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.BigInteger))
_floors = sa.Table(
    "floors", _schema, *(sa.Column(name, sa.String) for name in ("namespace", "model_id")), sa.Column("ceiling", sa.BigInteger)
)
_models = sa.Table(
    "models",
    _schema,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("key", "namespace", "model_id", "stamp")),
    sa.Column("creation_timestamp", sa.BigInteger),
    sa.Column("description", sa.Text),
    *(sa.Column(name, sa.JSON) for name in ("user_data", "retention")),
)
_versions = sa.Table(
    "versions",
    _schema,
    sa.Column("model", sa.Integer),
    *(sa.Column(name, sa.BigInteger) for name in ("number", "size", "creation_timestamp", "epoch", "chunk_size")),
    *(sa.Column(name, sa.String) for name in ("digest", "sha256", "content_type", "description", "stamp")),
    sa.Column("pinned", sa.Boolean),
    *(sa.Column(name, sa.LargeBinary) for name in ("upload_id", "chunk_digests")),
    sa.Column("user_data", sa.JSON),
)
_owner = ("model", "number", "name")
_metrics = sa.Table("metrics", _schema, *(sa.Column(name) for name in _owner), sa.Column("value", sa.Double))
_tags = sa.Table("tags", _schema, *(sa.Column(name) for name in _owner), sa.Column("value", sa.String))
_aliases = sa.Table("aliases", _schema, *(sa.Column(name) for name in _owner))
_tombstones = sa.Table("tombstones", _schema, *(sa.Column(name, sa.BigInteger) for name in ("model", "first", "last")))


class Metadata:
    """The open index. Safe from several threads. Every method raises StoreUnavailable or NoSpace when the disk fails it."""

    def __init__(self, path: Path) -> None:
        """Open or make the index at `path`. DirectoryUnusable for a newer schema, IndexDamaged for damage."""
        self.path = path
        self.usable = True
        self._lock = threading.RLock()
        self._engine = _Engine(path)

    def close(self) -> None:
        """Checkpoint and close."""
        with self._lock:
            self._engine.close()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction, durable at the end of the outermost block. After an error the index is reopened and checked."""
        with self._transaction() as connection:
            hit("index")
            yield connection
        hit("index-committed")

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._lock:
            if self._engine.connection.in_transaction():
                yield self._engine.connection
                return
            if not self.usable:
                raise self._unavailable("the index failed its check")
            try:
                with self._engine.connection.begin():
                    yield self._engine.connection
            except sa.exc.DBAPIError as error:
                self.reopen()
                if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                    raise NoSpace(size=4096, where=str(self.path)) from error
                raise self._unavailable(str(error.orig)) from error

    def reopen(self) -> bool:
        """Close, open and check again; what was not committed is gone. `usable` tells how it went."""
        with self._lock:
            try:
                self._engine.close()
                self._engine = _Engine(self.path)
                self._engine.checkpoint()
                self.usable = True
            except (sqlite3.Error, sqlite.IndexDamaged, OSError, BroadcasterError):
                self.usable = False
            return self.usable

    # --- numbers ---------------------------------------------------------------------------------------------------

    def epoch(self) -> int:
        """The newest epoch recorded, or 0."""
        with self._transaction() as connection:
            return connection.scalar(sa.select(_meta.c.value).where(_meta.c.name == "epoch")) or 0

    def begin_epoch(self, epoch: int) -> None:
        with self.transaction() as connection:
            _put(connection, _meta, {"name": "epoch"}, {"value": epoch})

    def floors(self) -> dict[ModelKey, int]:
        """Ceilings of all models, deleted ones too."""
        with self._transaction() as connection:
            return {(row.namespace, row.model_id): row.ceiling for row in connection.execute(sa.select(_floors))}

    def set_floors(self, floors: Iterable[tuple[str, str, int]]) -> None:
        with self.transaction() as connection:
            for namespace, model_id, ceiling in floors:
                _put(connection, _floors, {"namespace": namespace, "model_id": model_id}, {"ceiling": ceiling})

    # --- models ----------------------------------------------------------------------------------------------------

    def put_model(self, archived: ArchivedModel, stamp: str) -> None:
        """Insert or update a model with its tags, aliases and tombstones."""
        model = archived.info
        with self.transaction() as connection:
            where = {"key": key_of(model.namespace, model.model_id)}
            values: dict[str, Any] = {name: getattr(model, name) for name in _MODEL_INFO}
            values |= {"user_data": dict(model.user_data), "retention": dict(model.retention), "stamp": stamp}
            _put(connection, _models, where, values)
            id_ = _id(connection, where["key"])
            _replace(connection, _tags, id_, 0, model.tags)
            connection.execute(sa.delete(_aliases).where(_aliases.c.model == id_))
            for name, number in model.aliases.items():
                connection.execute(sa.insert(_aliases).values(model=id_, name=name, number=number))
            connection.execute(sa.delete(_tombstones).where(_tombstones.c.model == id_))
            if archived.tombstones:
                rows = [{"model": id_, "first": first, "last": last} for first, last in archived.tombstones]
                connection.execute(sa.insert(_tombstones), rows)

    def models(self, key: str | None = None) -> list[ArchivedModel]:
        """All models, or the one of `key`."""
        with self._transaction() as connection:
            tags: dict[int, dict[str, str]] = defaultdict(dict)
            for row in connection.execute(_of(_tags, key).where(_tags.c.number == 0)):
                tags[row.model][row.name] = row.value
            aliases: dict[int, dict[str, int]] = defaultdict(dict)
            for row in connection.execute(_of(_aliases, key)):
                aliases[row.model][row.name] = row.number
            tombstones: dict[int, list[tuple[int, int]]] = defaultdict(list)
            for row in connection.execute(_of(_tombstones, key).order_by(_tombstones.c.first)):
                tombstones[row.model].append((row.first, row.last))
            count = sa.select(_versions.c.model, sa.func.count(), sa.func.max(_versions.c.number)).group_by(_versions.c.model)
            counts = {model: (total, newest) for model, total, newest in connection.execute(_narrowed(count, _versions, key))}
            query = sa.select(_models).order_by(_models.c.namespace, _models.c.model_id)
            rows = connection.execute(query if key is None else query.where(_models.c.key == key)).all()
        return [
            ArchivedModel(
                info=_model(row, tags[row.id], aliases[row.id], *counts.get(row.id, (0, None))),
                tombstones=tuple(tombstones[row.id]),
            )
            for row in rows
        ]

    def has_model(self, key: str) -> bool:
        """Whether there is a model of this key."""
        with self._transaction() as connection:
            return connection.scalar(sa.select(_models.c.id).where(_models.c.key == key)) is not None

    # --- versions --------------------------------------------------------------------------------------------------

    def put_version(self, version: ArchivedVersion, stamp: str) -> None:
        """Insert or replace a version of a model that is there."""
        self.put_versions(key_of(version.info.namespace, version.info.model_id), [(version, stamp)])

    def put_versions(self, key: str, versions: Sequence[tuple[ArchivedVersion, str]]) -> None:
        """Insert or replace versions, with their manifests' stamps, of one model that is there."""
        with self.transaction() as connection:
            id_ = _id(connection, key)
            for at in range(0, len(versions), _BATCH):
                _put_batch(connection, id_, versions[at : at + _BATCH])

    def versions(self, key: str | None = None, number: int | None = None) -> list[ArchivedVersion]:
        """All archived versions in order, or those of one model, or one of them."""
        with self._transaction() as connection:
            query = sa.select(_versions, _models.c.namespace, _models.c.model_id).join(_models, _models.c.id == _versions.c.model)
            query = _narrowed(query, _versions, key, number).order_by(_versions.c.model, _versions.c.number)
            if not (rows := connection.execute(query).all()):
                return []
            metrics: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
            for row in connection.execute(_of(_metrics, key, number)):
                metrics[row.model, row.number][row.name] = math.nan if row.value is None else row.value
            tags: dict[tuple[int, int], dict[str, str]] = defaultdict(dict)
            for row in connection.execute(_of(_tags, key, number)):
                tags[row.model, row.number][row.name] = row.value
        owners = [(row.model, row.number) for row in rows]
        return [_version(row, metrics.get(owner, {}), tags.get(owner, {})) for row, owner in zip(rows, owners, strict=True)]

    def stamps(self, key: str | None = None) -> dict[str, dict[int, str]]:
        """Per model key (all, or this one): number of version -> stamp of its manifest; number 0 is the model's own."""
        mine = sa.true() if key is None else _models.c.key == key
        with self._transaction() as connection:
            models = sa.select(_models.c.key, _models.c.stamp).where(mine)
            found = {of: {0: stamp} for of, stamp in connection.execute(models)}
            query = sa.select(_models.c.key, _versions.c.number, _versions.c.stamp).where(mine)
            for of, number, stamp in connection.execute(query.join(_models, _models.c.id == _versions.c.model)):
                found[of][number] = stamp
            return found

    def was_deleted(self, key: str, number: int) -> bool:
        """Whether a tombstone of the model covers this number."""
        mine = (_tombstones.c.first <= number) & (_tombstones.c.last >= number) & (_models.c.key == key)
        with self._transaction() as connection:
            query = sa.select(_models.c.id).join(_tombstones, _models.c.id == _tombstones.c.model).where(mine)
            return connection.scalar(query) is not None

    def sha256s(self) -> set[str]:
        """The names of all blobs that a version refers to."""
        with self._transaction() as connection:
            return set(connection.scalars(sa.select(_versions.c.sha256).distinct()))

    def is_used(self, sha256: str) -> bool:
        """Whether any version refers to this blob."""
        with self._transaction() as connection:
            return connection.scalar(sa.select(_versions.c.number).where(_versions.c.sha256 == sha256).limit(1)) is not None

    def remove(self, key: str, numbers: Iterable[int], *, model: bool) -> list[str]:
        """Forget versions, and the model itself with all that is left of it if `model`; returns the blobs they referred to."""
        with self.transaction() as connection:
            id_ = connection.scalar(sa.select(_models.c.id).where(_models.c.key == key))
            if id_ is None:
                return []
            sha256s: list[str] = []
            for number in numbers:
                mine = (_versions.c.model == id_) & (_versions.c.number == number)
                sha256s += connection.scalars(sa.select(_versions.c.sha256).where(mine))
                for table in (_versions, _metrics, _tags):
                    connection.execute(sa.delete(table).where((table.c.model == id_) & (table.c.number == number)))
            if model:
                sha256s += connection.scalars(sa.select(_versions.c.sha256).where(_versions.c.model == id_))
                for table in (_tombstones, _aliases, _tags, _metrics, _versions):
                    connection.execute(sa.delete(table).where(table.c.model == id_))
                connection.execute(sa.delete(_models).where(_models.c.id == id_))
            return sha256s

    def _unavailable(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(operation="using the index", where=str(self.path), reason=reason, hint="Check the disk.")


_BATCH = 500
"""Rows per statement."""
_INFO = ("size", "digest", "sha256", "creation_timestamp", "content_type", "description", "pinned")
_MODEL_INFO = ("namespace", "model_id", "creation_timestamp", "description")


class _Engine:
    """A connection of SQLAlchemy's on the durable file, at today's schema."""

    def __init__(self, path: Path) -> None:
        self._raw, schema = sqlite.open_durable(path, SCHEMAS)
        try:
            self._engine = _engine(self._raw)
            self.connection = self._engine.connect()
            if schema != SCHEMAS[-1]:
                with self.connection.begin():
                    migrate(self.connection, SCHEMAS[-1])
        except BaseException:
            self._raw.close()
            raise

    def checkpoint(self) -> None:
        sqlite.checkpoint(self._raw)

    def close(self) -> None:
        self._engine.dispose()
        self._raw.close()


def _engine(raw: sqlite3.Connection) -> sa.Engine:
    engine = sa.create_engine("sqlite+pysqlite://", creator=lambda: raw, poolclass=StaticPool)
    # Ours are explicit transactions, which take the write lock at once and hold for DDL too.
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def migrate(connection: sa.Connection, schema: str) -> None:
    """Bring the index to `schema` (or "base", which is nothing at all), up or down, in the connection's transaction."""
    from alembic import command  # a third of a second that an index of today's schema need not pay at every start
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = [revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    now = _schema_of(connection)
    position = known.index(now) if now in known else -1
    goal = known.index(schema) if schema in known else -1
    (command.upgrade if goal >= position else command.downgrade)(config, schema)


def downgrade(path: Path, schema: str) -> None:
    """Take the index back to an older `schema`, while no broadcaster runs: the older program brings it from there."""
    engine = _Engine(path)
    try:
        with engine.connection.begin():
            migrate(engine.connection, schema)
    finally:
        engine.close()


def _schema_of(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _id(connection: sa.Connection, key: str) -> int:
    found = connection.scalar(sa.select(_models.c.id).where(_models.c.key == key))
    assert found is not None, "the caller has put the model first"
    return int(found)


def _put(connection: sa.Connection, table: sa.Table, where: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    # Update, else insert: the same in every engine, and there is one writer.
    mine = sa.and_(*(table.c[name] == value for name, value in where.items()))
    if connection.execute(sa.update(table).where(mine).values(**values)).rowcount == 0:
        connection.execute(sa.insert(table).values(**where, **values))


def _put_batch(connection: sa.Connection, model: int, versions: Sequence[tuple[ArchivedVersion, str]]) -> None:
    rows: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    tags: list[dict[str, Any]] = []
    for version, stamp in versions:
        info, owner = version.info, {"model": model, "number": version.info.number}
        row = owner | {name: getattr(info, name) for name in _INFO} | {"user_data": dict(info.user_data), "stamp": stamp}
        rows.append(row | {name: getattr(version, name) for name in ("upload_id", "epoch", "chunk_size", "chunk_digests")})
        metrics += [owner | {"name": name, "value": _to_sql(value)} for name, value in info.metrics.items()]
        tags += [owner | {"name": name, "value": value} for name, value in info.tags.items()]
    for table, values in ((_versions, rows), (_metrics, metrics), (_tags, tags)):
        mine = (table.c.model == model) & table.c.number.in_([row["number"] for row in rows])
        connection.execute(sa.delete(table).where(mine))
        if values:
            connection.execute(sa.insert(table), values)


def _replace(connection: sa.Connection, table: sa.Table, model: int, number: int, values: Mapping[str, Any]) -> None:
    connection.execute(sa.delete(table).where((table.c.model == model) & (table.c.number == number)))
    if values:
        rows = [{"model": model, "number": number, "name": name, "value": value} for name, value in values.items()]
        connection.execute(sa.insert(table), rows)


def _narrowed(query: sa.Select[Any], table: sa.Table, key: str | None, number: int | None = None) -> sa.Select[Any]:
    if key is not None:
        query = query.where(table.c.model == sa.select(_models.c.id).where(_models.c.key == key).scalar_subquery())
    return query if number is None else query.where(table.c.number == number)


def _of(table: sa.Table, key: str | None, number: int | None = None) -> sa.Select[Any]:
    return _narrowed(sa.select(table), table, key, number)


def _to_sql(value: float) -> float | None:
    return None if math.isnan(value) else value  # SQLite has no NaN: it is the one metric stored as NULL


def _model(row: Any, tags: dict[str, str], aliases: dict[str, int], versions: int, newest: int | None) -> ModelInfo:
    return ModelInfo(
        namespace=row.namespace,
        model_id=row.model_id,
        user_data=row.user_data,
        tags=tags,
        aliases=aliases,
        newest=newest,
        versions=versions,
        creation_timestamp=row.creation_timestamp,
        description=row.description,
        retention=row.retention,
    )


def _version(row: Any, metrics: dict[str, float], tags: dict[str, str]) -> ArchivedVersion:
    info = VersionInfo(
        namespace=row.namespace,
        model_id=row.model_id,
        number=row.number,
        size=row.size,
        digest=row.digest,
        sha256=row.sha256,
        archived=True,
        creation_timestamp=row.creation_timestamp,
        content_type=row.content_type,
        user_data=row.user_data,
        metrics=metrics,
        tags=tags,
        description=row.description,
        pinned=row.pinned,
    )
    return ArchivedVersion(
        info=info, upload_id=row.upload_id, epoch=row.epoch, chunk_size=row.chunk_size, chunk_digests=row.chunk_digests
    )
