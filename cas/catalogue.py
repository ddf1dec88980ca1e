"""The catalogue: one SQLite file, NAME.archive, that knows everything that was sent.

Each object passes two commits. `stage` records a pack once its spool file is durable, together
with its chunks and the files it completes; `stored` flips one row when the storage has
confirmed it. Between the two the spooled pack is sent as it is, however often the program is
killed. A manifest is staged together with the log position that it reaches.

One process writes (a lock beside the file: SQLite's own would be dropped by any second
descriptor of the file in this process); any number may read meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import filelock

from pyarchiver.cas.durable import sync_folder
from pyarchiver.formats import wire
from pyarchiver.formats.entry import EntryKind
from pyarchiver.formats.errors import BusyError, CatalogueError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.keys import Slot, WriteKeys
from pyarchiver.formats.payload import CHUNK_ID_SIZE, Index
from pyarchiver.formats.records import RunComplete

VERSION = 1
APPLICATION_ID = 0x50594152
STAGED, STORED = 0, 1
SUFFIX = ".archive"


class Known(NamedTuple):
    """The newest state of a path: its version, kind, and what the file system said."""

    version: int
    kind: int
    size: int
    mtime: int
    ctime: int
    inode: int


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object as the catalogue knows it."""

    id: int
    object_id: bytes
    name: str
    kind: int
    number: int
    run: int
    size: int
    blake3: bytes
    header: bytes
    state: int


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object whose spool file is durable, to be staged."""

    object_id: bytes
    name: str
    kind: Kind
    number: int
    run: int
    size: int
    blake3: bytes
    header: bytes
    indexes: tuple[bytes, ...] = ()


class VersionRow(NamedTuple):
    """One state of one path."""

    sequence: int
    folder: bytes
    name: bytes
    run: int
    kind: int
    fields: bytes

    @property
    def path(self) -> bytes:
        """The path from the source folder; empty for the source folder itself."""
        return join(self.folder, self.name)


@dataclass(slots=True)
class Batch:
    """Versions to record together, in order of their sequence, and the newest of each path."""

    versions: list[VersionRow] = field(default_factory=list)
    paths: list[tuple[bytes, bytes, Known]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.versions or self.paths)


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log stands: last manifest and its BLAKE3, last version and object it covers."""

    number: int = 0
    hash: bytes = bytes(32)
    version: int = 0
    object: int = 0


def join(folder: bytes, name: bytes) -> bytes:
    """A path from its folder and its name."""
    return folder + b"/" + name if folder else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """(folder, name) of a path."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


class Catalogue:
    """An open .archive. Foreign errors leave this class as CatalogueError."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: Any) -> None:
        self.path = path
        self._db = connection
        self._lock = lock
        self._folder_ids: dict[bytes, int] = {}
        self._config: dict[str, bytes] = dict(connection.execute("SELECT name, value FROM config"))

    @classmethod
    def create(
        cls, path: Path, keys: WriteKeys, slots: Iterable[Slot], settings: dict[str, str]
    ) -> Catalogue:
        """A new .archive at `path`, mode 0600; it must not exist.

        It is made beside and renamed, so that an .archive is always a whole one.
        """
        lock = _lock(path)
        new = path.with_name(path.name + ".new")
        try:
            if path.exists():
                raise CatalogueError(f"{path} is already there: pyarchiver resume continues it")
            new.unlink(missing_ok=True)
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            connection = _connect(new, "rw")
            schema = resources.files(__package__).joinpath("schema.sql").read_text()
            connection.executescript(schema)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            cls(new, connection, None).configure(
                archive_id=keys.archive_id,
                archive_key=keys.archive_key,
                public_key=keys.public_key,
                slots=wire.pack(list(slots)),
                settings=wire.pack(settings),
            )
            connection.close()
            new.rename(path)
            sync_folder(path.parent)
            return cls(path, _connect(path, "rw"), lock)
        except OSError as error:
            lock.release()
            raise CatalogueError(f"cannot create {path}: {error.strerror}") from None
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path, *, write: bool) -> Catalogue:
        """The .archive at `path`; with `write`, as its only writer.

        Raises CatalogueError where it is none, damaged or too new, BusyError where another
        process writes.
        """
        if not path.is_file():
            raise CatalogueError(f"no archive {path}: pyarchiver start makes one")
        lock = _lock(path) if write else None
        try:
            connection = _connect(path, "rw" if os.access(path, os.W_OK) else "ro")
            _check(path, connection)
            return cls(path, connection, lock)
        except sqlite3.DatabaseError as error:
            if lock:
                lock.release()
            raise CatalogueError(f"{path} is no archive or is damaged: {error}") from None
        except BaseException:
            if lock:
                lock.release()
            raise

    def close(self) -> None:
        """Close the file; it is then one file that can be copied."""
        self._db.close()
        if self._lock:
            self._lock.release()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Configuration

    def configure(self, **values: bytes) -> None:
        """Set configuration values durably."""
        with _transaction(self._db):
            self._configure(values)

    def _configure(self, values: dict[str, bytes]) -> None:
        self._db.executemany("REPLACE INTO config VALUES (?, ?)", values.items())
        self._config.update(values)

    def config(self, name: str) -> bytes:
        """A configuration value, empty where it was never set."""
        return self._config.get(name, b"")

    @property
    def keys(self) -> WriteKeys:
        """What archiving needs of the keys."""
        c = self._config
        return WriteKeys(c["archive_id"], c["archive_key"], c["public_key"])

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The key slots that go into every header."""
        return tuple(wire.unpack(self._config["slots"]))

    @property
    def settings(self) -> dict[str, str]:
        """The archive's settings, by the names they have in the ini file."""
        return dict(wire.unpack(self._config["settings"]))

    @property
    def head(self) -> Head:
        """Where the log stands."""
        packed = self.config("head")
        return Head(*wire.unpack(packed)) if packed else Head()

    @property
    def name(self) -> str:
        """The archive's name, from its settings."""
        return self.settings["name"]

    # Runs

    def begin_run(self, began: int) -> int:
        """The number of the run to work on: the one that was interrupted, or a new one."""
        row = self._db.execute("SELECT run FROM runs WHERE ended IS NULL").fetchone()
        if row:
            return int(row[0])
        with _transaction(self._db):
            (last,) = self._db.execute("SELECT coalesce(max(run), 0) FROM runs").fetchone()
            self._db.execute("INSERT INTO runs (run, began) VALUES (?, ?)", (last + 1, began))
        return int(last) + 1

    def abandon_run(self, run: int) -> None:
        """Forget a run that found nothing new."""
        with _transaction(self._db):
            self._db.execute("DELETE FROM runs WHERE run = ? AND ended IS NULL", (run,))

    def began(self, run: int) -> int:
        """When the run began, in ns since 1970."""
        (value,) = self._db.execute("SELECT began FROM runs WHERE run = ?", (run,)).fetchone()
        return int(value)

    def snapshots(self, after: int = 0) -> list[RunComplete]:
        """The complete runs later than run `after`, in order."""
        rows = self._db.execute(
            "SELECT run, began, ended, files, size FROM runs"
            " WHERE ended IS NOT NULL AND run > ? ORDER BY run",
            (after,),
        )
        return [RunComplete(*row) for row in rows]

    def last_snapshot(self) -> int:
        """The number of the last complete run, 0 for none."""
        (run,) = self._db.execute(
            "SELECT coalesce(max(run), 0) FROM runs WHERE ended IS NOT NULL"
        ).fetchone()
        return int(run)

    def add_snapshot(self, done: RunComplete) -> None:
        """Record a complete run read from a manifest."""
        self._db.execute(
            "REPLACE INTO runs VALUES (?, ?, ?, ?, ?)",
            (done.run, done.began, done.ended, done.files, done.size),
        )

    # Objects

    def stage(self, new: NewObject, batch: Batch) -> int:
        """Commit a pack whose spool file is durable, its chunks, and the files it completes."""
        with _transaction(self._db):
            object_row = self.add_object(new, STAGED)
            self.add_chunks(object_row, new.indexes)
            self._record(batch)
        return object_row

    def record(self, batch: Batch) -> None:
        """Commit versions that need no new pack."""
        with _transaction(self._db):
            self._record(batch)

    def stage_manifest(self, new: NewObject, head: Head, done: RunComplete | None) -> int:
        """Commit a durable manifest, the log position it reaches, and the run it completes."""
        with _transaction(self._db):
            object_row = self.add_object(new, STAGED)
            self.set_head(head)
            if done:
                self.add_snapshot(done)
        return object_row

    def stage_checkpoint(self, new: NewObject) -> int:
        """Commit a durable part of a checkpoint."""
        with _transaction(self._db):
            return self.add_object(new, STAGED)

    def set_head(self, head: Head) -> None:
        """Record where the log stands, within a transaction of the caller."""
        self._configure({"head": wire.pack([head.number, head.hash, head.version, head.object])})

    def stored(self, object_row: int) -> None:
        """Commit that the storage has confirmed an object."""
        with _transaction(self._db):
            self._db.execute("UPDATE objects SET state = ? WHERE id = ?", (STORED, object_row))

    def staged(self) -> list[ObjectRow]:
        """Objects that are in the spool and not yet confirmed, oldest first."""
        return self._objects("state = 0 ORDER BY id")

    def objects(self, kind: Kind | None = None, after: int = 0) -> list[ObjectRow]:
        """Objects with a row id above `after`, of one kind or all, oldest first."""
        if kind is None:
            return self._objects("id > ? ORDER BY id", after)
        return self._objects("id > ? AND kind = ? ORDER BY id", after, kind)

    def object_by_id(self, object_id: bytes) -> ObjectRow | None:
        """The object of that id."""
        rows = self._objects("object_id = ?", object_id)
        return rows[0] if rows else None

    def object_by_row(self, row: int) -> ObjectRow:
        """The object of that row."""
        return self._objects("id = ?", row)[0]

    def _objects(self, condition: str, *values: object) -> list[ObjectRow]:
        query = (
            "SELECT id, object_id, name, kind, number, run, size, blake3, header, state"
            f" FROM objects WHERE {condition}"
        )
        return [ObjectRow(*row) for row in self._db.execute(query, values)]

    def add_object(self, new: NewObject, state: int) -> int:
        """Insert an object's row and index, within a transaction of the caller."""
        cursor = self._db.execute(
            "INSERT INTO objects (object_id, name, kind, number, run, size, blake3, header, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                new.object_id, new.name, int(new.kind), new.number, new.run,
                new.size, new.blake3, new.header, state,
            ),
        )  # fmt: skip
        row = cursor.lastrowid
        assert row is not None
        self.add_indexes(row, new.indexes)
        return row

    def add_indexes(self, object_row: int, bodies: Iterable[bytes]) -> None:
        """Insert the bodies of a pack's index, within a transaction of the caller."""
        self._db.executemany(
            "INSERT INTO indexes VALUES (?, ?, ?)",
            ((object_row, part, body) for part, body in enumerate(bodies)),
        )

    def indexes(self, object_row: int) -> list[bytes]:
        """The bodies of a pack's index records."""
        query = "SELECT body FROM indexes WHERE object = ? ORDER BY part"
        return [body for (body,) in self._db.execute(query, (object_row,))]

    def log_since_checkpoint(self) -> tuple[int, int, int]:
        """(manifests since the last checkpoint, their bytes, the checkpoint's bytes)."""
        (last,) = self._db.execute(
            "SELECT coalesce(max(number), 0) FROM objects WHERE kind = ?", (int(Kind.CHECKPOINT),)
        ).fetchone()
        query = "SELECT count(*), coalesce(sum(size), 0) FROM objects WHERE kind = ? AND number"
        count, size = self._db.execute(f"{query} > ?", (int(Kind.MANIFEST), last)).fetchone()
        _, checkpoint = self._db.execute(f"{query} = ?", (int(Kind.CHECKPOINT), last)).fetchone()
        return int(count), int(size), int(checkpoint)

    # Chunks

    def add_chunks(self, object_row: int, bodies: Iterable[bytes]) -> None:
        """Insert the chunks of a pack; of a chunk that is known already the first place stays.

        Sorted by id, so that the table's pages are filled in order.
        """
        rows: list[tuple[bytes, int, int]] = []
        for body in bodies:
            ids = Index.decode(body).ids
            first = len(rows)
            rows += [
                (ids[at : at + CHUNK_ID_SIZE], object_row, first + number)
                for number, at in enumerate(range(0, len(ids), CHUNK_ID_SIZE))
            ]
        rows.sort()
        self._db.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?)", rows)

    def find_chunk(self, chunk_id: bytes) -> tuple[bytes, int] | None:
        """(object id, ordinal) of a chunk in a staged or stored pack."""
        row: tuple[bytes, int] | None = self._db.execute(
            "SELECT o.object_id, c.ordinal FROM chunks c JOIN objects o ON o.id = c.object"
            " WHERE c.id = ?",
            (chunk_id,),
        ).fetchone()
        return row

    def has_chunks(self) -> bool:
        """Whether any chunk is known: an empty table need not be asked chunk by chunk."""
        return self._db.execute("SELECT 1 FROM chunks LIMIT 1").fetchone() is not None

    # Paths and versions

    def folder(self, path: bytes) -> dict[bytes, Known]:
        """The newest state of everything known in a folder, by name; deleted ones included."""
        folder = self._folder_id(path)
        if folder is None:
            return {}
        query = "SELECT name, version, kind, size, mtime, ctime, inode FROM paths WHERE folder = ?"
        return {row[0]: Known(*row[1:]) for row in self._db.execute(query, (folder,))}

    def below(self, path: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(folder, name) of all that is not deleted below a folder, at any depth."""
        query = (
            "SELECT f.path, p.name FROM folders f JOIN paths p ON p.folder = f.id"
            " WHERE (f.path = ?1 OR (f.path >= ?2 AND f.path < ?3)) AND p.kind != ?4"
        )
        values = (path, path + b"/", path + b"0", int(EntryKind.GONE))
        return iter(self._db.execute(query, values).fetchall())

    def fields(self, version: int) -> bytes:
        """The fields of a version."""
        (fields,) = self._db.execute(
            "SELECT fields FROM versions WHERE id = ?", (version,)
        ).fetchone()
        return bytes(fields)

    def last_version(self) -> int:
        """The highest sequence recorded, 0 for none."""
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM versions").fetchone()
        return int(last)

    def versions(self, after: int = 0, until: int = 1 << 62) -> Iterator[VersionRow]:
        """All versions with a sequence above `after` and up to `until`, in order."""
        return self._versions("v.id > ? AND v.id <= ? ORDER BY v.id", after, until)

    def state(self, run: int) -> Iterator[VersionRow]:
        """The tree as it was at the end of a run."""
        newest = "SELECT max(id) FROM versions WHERE run <= ? GROUP BY folder, name"
        return self._versions(
            f"v.id IN ({newest}) AND v.kind != ? ORDER BY v.id", run, int(EntryKind.GONE)
        )

    def latest(self) -> Iterator[VersionRow]:
        """The latest state of every path ever archived, deleted ones included.

        A path that was both a folder and something else gives the latest of either.
        """
        newest = "SELECT max(id) FROM versions WHERE kind != ? GROUP BY folder, name, kind = ?"
        return self._versions(
            f"v.id IN ({newest}) ORDER BY v.id", int(EntryKind.GONE), int(EntryKind.FOLDER)
        )

    def replaced_kinds(self) -> list[VersionRow]:
        """The older state of each path that was both a folder and something else."""
        newest = (
            "SELECT max(id) AS id, folder, name FROM versions WHERE kind != ?"
            " GROUP BY folder, name, kind = ?"
        )
        older = f"SELECT min(id) FROM ({newest}) GROUP BY folder, name HAVING count(*) > 1"
        values = int(EntryKind.GONE), int(EntryKind.FOLDER)
        return list(self._versions(f"v.id IN ({older})", *values))

    def _versions(self, condition: str, *values: object) -> Iterator[VersionRow]:
        query = (
            "SELECT v.id, f.path, v.name, v.run, v.kind, v.fields"
            f" FROM versions v JOIN folders f ON f.id = v.folder WHERE {condition}"
        )
        return (VersionRow(*row) for row in self._db.execute(query, values))

    def totals(self) -> tuple[int, int]:
        """(files, bytes) of the tree as it stands."""
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM paths WHERE kind = ?",
            (int(EntryKind.FILE),),
        ).fetchone()
        return int(row[0]), int(row[1])

    def _record(self, batch: Batch) -> None:
        folders = {folder: self._make_folder(folder) for folder in _folders(batch)}
        self._db.executemany(
            "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?)",
            [(v[0], folders[v[1]], *v[2:]) for v in batch.versions],
        )
        self._db.executemany(
            "REPLACE INTO paths VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(folders[folder], name, *known) for folder, name, known in batch.paths],
        )

    def _folder_id(self, path: bytes) -> int | None:
        row = self._db.execute("SELECT id FROM folders WHERE path = ?", (path,)).fetchone()
        return int(row[0]) if row else None

    def _make_folder(self, path: bytes) -> int:
        found = self._folder_id(path)
        if found is not None:
            return found
        made = self._db.execute("INSERT INTO folders (path) VALUES (?)", (path,)).lastrowid
        assert made is not None
        return made

    # Rebuilding

    def bulk(self) -> _transaction:
        """A transaction around many insertions, for rebuilding a catalogue from objects."""
        return _transaction(self._db)

    def set_settings(self, values: dict[str, str]) -> None:
        """Settings read from a manifest, within `bulk`."""
        self._configure({"settings": wire.pack(values)})

    def add_versions(self, batch: Batch) -> None:
        """Insert versions read from objects, within `bulk`; those known already stay."""
        folders = {folder: self._make_folder(folder) for folder in _folders(batch)}
        self._db.executemany(
            "INSERT OR IGNORE INTO versions VALUES (?, ?, ?, ?, ?, ?)",
            [(v[0], folders[v[1]], *v[2:]) for v in batch.versions],
        )


def _folders(batch: Batch) -> set[bytes]:
    return {v.folder for v in batch.versions} | {folder for folder, _, _ in batch.paths}


class _transaction:
    """All or nothing; SQLite's errors come out as CatalogueError."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:
            raise CatalogueError(f"cannot write to the .archive: {error}") from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._db.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.DatabaseError as failure:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise CatalogueError(f"cannot write to the .archive: {failure}") from None
        if isinstance(error, sqlite3.DatabaseError):
            raise CatalogueError(f"cannot write to the .archive: {error}") from None


def _lock(path: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(f"{path}.lock", mode=0o600)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise BusyError(f"{path} is in use by another pyarchiver: wait for it to end") from None
    except OSError as error:
        raise CatalogueError(f"cannot lock {path}: {error.strerror}") from None
    return lock


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    if mode != "ro":
        connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL would lose the last commits at a power failure, after objects were sent.
        connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -32768")
    return connection


def _check(path: Path, connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise CatalogueError(f"{path} is no pyarchiver archive")
    if version > VERSION:
        raise CatalogueError(f"{path} was written by a newer pyarchiver: install that one")
    if version < VERSION:
        raise CatalogueError(f"{path} is of an older version: run pyarchiver update {path}")
