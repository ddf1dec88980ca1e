"""The catalogue: one SQLite file, NAME.archive, that knows everything that was sent.

Each object passes two commits. `stage` records a pack once its spool file is durable, together
with its chunks and the files it completes; `stored` flips one row when the storage has
confirmed it. Between the two the spooled pack is sent as it is, however often the program is
killed. A manifest is staged together with the log position that it reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path

from pyarchiver.cas.rows import (
    DELETED,
    STAGED,
    STORED,
    Batch,
    Head,
    NewObject,
    ObjectRow,
    Remaining,
    ThawRow,
)
from pyarchiver.cas.versions import Versions
from pyarchiver.formats import wire
from pyarchiver.formats.errors import CatalogueError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.keys import Slot, WriteKeys
from pyarchiver.formats.payload import CHUNK_ID_SIZE, Index
from pyarchiver.formats.records import RunComplete

SUFFIX = ".archive"


class Catalogue(Versions):
    """An open .archive: what was sent (objects, chunks, runs) and, inherited, all paths."""

    # Slots that are still being derived from the password, while the first files are read.
    _deriving: Future[tuple[Slot, ...]] | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        keys: WriteKeys,
        slots: tuple[Slot, ...] | Future[tuple[Slot, ...]],
        settings: dict[str, str],
    ) -> Catalogue:
        """The .archive of a new archive; see `make`. One that is `unfinished` is replaced."""
        values = {
            "archive_id": keys.archive_id,
            "archive_key": keys.archive_key,
            "public_key": keys.public_key,
            "settings": wire.pack(settings),
        }
        if isinstance(slots, Future):
            made = cls.make(path, values, replaces=cls.unfinished)
            made._deriving = slots
        else:
            values["slots"] = wire.pack(slots)
            made = cls.make(path, values, replaces=cls.unfinished)
        return made

    @classmethod
    def unfinished(cls, path: Path) -> bool:
        """Whether this is an .archive whose `start` ended before it had slots: it holds nothing."""
        try:
            with cls.open(path, write=False) as found:
                return not found.config("slots")
        except CatalogueError:
            return False

    def close(self) -> None:
        """Close the file, with its slots."""
        try:
            if self._deriving and not self._deriving.exception():
                self._keep_slots(self._deriving.result())
        finally:
            super().close()

    @property
    def keys(self) -> WriteKeys:
        """What archiving needs of the keys."""
        c = self._config
        return WriteKeys(c["archive_id"], c["archive_key"], c["public_key"])

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The key slots that go into every header."""
        if self._deriving:
            self._keep_slots(self._deriving.result())
        packed = self.config("slots")
        if not packed:
            raise CatalogueError(
                f"the start of {self.path} was interrupted before anything was sent: start it again"
            )
        return tuple(wire.unpack(packed))

    def _keep_slots(self, slots: tuple[Slot, ...]) -> None:
        self.configure(slots=wire.pack(slots))
        self._deriving = None

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

    @property
    def url(self) -> str:
        """Where the objects are, from the settings."""
        return self.settings["url"]

    # Runs

    def begin_run(self, began: int) -> int:
        """The number of the run to work on: the one that was interrupted, or a new one."""
        row = self._db.execute("SELECT run FROM runs WHERE ended IS NULL").fetchone()
        if row:
            return int(row[0])
        with self.transaction():
            (last,) = self._db.execute("SELECT coalesce(max(run), 0) FROM runs").fetchone()
            self._db.execute("INSERT INTO runs (run, began) VALUES (?, ?)", (last + 1, began))
        return int(last) + 1

    def abandon_run(self, run: int) -> None:
        """Forget a run that found nothing new."""
        with self.transaction():
            self._db.execute("DELETE FROM runs WHERE run = ? AND ended IS NULL", (run,))

    def sent_in(self, run: int) -> bool:
        """Whether the run has staged any object."""
        query = "SELECT 1 FROM objects WHERE run = ? LIMIT 1"
        return self._db.execute(query, (run,)).fetchone() is not None

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

    def stage(self, new: NewObject, batch: Batch, secured: Callable[[], None]) -> int:
        """Commit a pack, its chunks, and the files it completes.

        `secured` returns when the pack's spool file is durable, or raises; the rows, which take
        long as well, are written meanwhile.
        """
        with self.transaction():
            object_row = self.add_object(new, STAGED)
            self.add_chunks(object_row, new.indexes)
            self._record(batch)
            secured()
        return object_row

    def record(self, batch: Batch) -> None:
        """Commit versions that need no new pack."""
        with self.transaction():
            self._record(batch)

    def stage_manifest(self, new: NewObject, head: Head, done: RunComplete | None) -> int:
        """Commit a durable manifest, the log position it reaches, and the run it completes."""
        with self.transaction():
            object_row = self.add_object(new, STAGED)
            self.set_head(head)
            if done:
                self.add_snapshot(done)
        return object_row

    def stage_checkpoint(self, new: NewObject, last: bool) -> int:
        """Commit a durable part of a checkpoint; with the last part the checkpoint counts."""
        with self.transaction():
            if last:
                self._configure({"checkpoint": wire.pack(new.number)})
            return self.add_object(new, STAGED)

    def set_head(self, head: Head) -> None:
        """Record where the log stands, within a transaction of the caller."""
        self._configure({"head": wire.pack([head.number, head.hash, head.version, head.object])})

    def stored(self, object_row: int) -> None:
        """Commit that the storage has confirmed an object."""
        with self.transaction():
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
        packed = self.config("checkpoint")
        last = wire.unpack(packed) if packed else 0
        query = "SELECT count(*), coalesce(sum(size), 0) FROM objects WHERE kind = ? AND number"
        count, size = self._db.execute(f"{query} > ?", (int(Kind.MANIFEST), last)).fetchone()
        _, checkpoint = self._db.execute(f"{query} = ?", (int(Kind.CHECKPOINT), last)).fetchone()
        return int(count), int(size), int(checkpoint)

    # Chunks

    def add_chunks(self, object_row: int, bodies: Iterable[bytes]) -> None:
        """Insert the chunks of a pack; of a chunk that is known already the first place stays.

        Sorted by id, so that the table's pages are filled in order.
        """
        ids = [
            body_ids[at : at + CHUNK_ID_SIZE]
            for body_ids in (Index.decode(body).ids for body in bodies)
            for at in range(0, len(body_ids), CHUNK_ID_SIZE)
        ]
        self._db.executemany(
            "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?)",
            (
                (bytearray(id_), object_row, ordinal)
                for id_, ordinal in sorted(zip(ids, range(len(ids)), strict=True))
            ),
        )

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

    # Deletion

    @property
    def being_deleted(self) -> bool:
        """Whether objects may be gone, and some may be left."""
        return self.config("deletion") == b"begun"

    @property
    def deleted(self) -> bool:
        """Whether all objects are gone."""
        return self.config("deletion") == b"done"

    def refuse_deleted(self) -> None:
        """Raise CatalogueError where the archive is deleted or about to be."""
        if self.deleted:
            raise CatalogueError(
                f"{self.path} is deleted, its objects are gone: move it away to start anew"
            )
        if self.being_deleted:
            raise CatalogueError(
                f"{self.path} is being deleted: pyarchiver delete {self.path} goes on"
            )

    def begin_deletion(self) -> None:
        """Commit the intent, before the first object goes."""
        self.configure(deletion=b"begun")

    def end_deletion(self) -> None:
        """Commit that nothing is left."""
        self.configure(deletion=b"done")

    def record_deleted(self, object_row: int) -> None:
        """Commit that an object is gone from the storage."""
        with self.transaction():
            self._db.execute("UPDATE objects SET state = ? WHERE id = ?", (DELETED, object_row))

    def remaining(self) -> list[Remaining]:
        """The objects that are not deleted, oldest first."""
        query = "SELECT id, name, size FROM objects WHERE state != ? ORDER BY id"
        return [Remaining(*row) for row in self._db.execute(query, (DELETED,))]

    def remaining_size(self) -> tuple[int, int]:
        """(number, bytes) of the objects that are not deleted."""
        query = "SELECT count(*), coalesce(sum(size), 0) FROM objects WHERE state != ?"
        count, size = self._db.execute(query, (DELETED,)).fetchone()
        return int(count), int(size)

    # Thaws: the one thing that a reader records too, in transactions of a row each

    def thaw(self, object_row: int) -> ThawRow | None:
        """What was asked for of an object."""
        query = "SELECT asked, ready, until, confirmed FROM thaws WHERE object = ?"
        row = self._db.execute(query, (object_row,)).fetchone()
        return row and ThawRow(row[0], row[1], row[2], bool(row[3]))

    def record_thaw(self, object_row: int, row: ThawRow) -> None:
        """Commit what is asked for, or known of it now."""
        with self.transaction():
            self._db.execute("REPLACE INTO thaws VALUES (?, ?, ?, ?, ?)", (object_row, *row))

    @property
    def download_rate(self) -> float | None:
        """Bytes a second that the last restores measured."""
        return float(self.config("download_rate") or 0) or None

    def set_download_rate(self, rate: float) -> None:
        """Commit a measured rate."""
        self.configure(download_rate=repr(rate).encode())

    # Rebuilding

    def set_settings(self, values: dict[str, str]) -> None:
        """Settings read from a manifest, within a transaction of the caller."""
        self._configure({"settings": wire.pack(values)})
