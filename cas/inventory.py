"""The part of the catalogue that knows objects: their state, their chunks, and their thaws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyarchiver.cas.rows import (
    ABANDONED,
    DELETED,
    STAGED,
    STORED,
    UNREAD,
    Expected,
    NewObject,
    ObjectRow,
    Remaining,
    ThawRow,
)
from pyarchiver.cas.storage import Checksums
from pyarchiver.cas.versions import Versions
from pyarchiver.formats.errors import CatalogueError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import parse_name
from pyarchiver.formats.payload import CHUNK_ID_SIZE, Index

# Of a chunk's id, what its row is found by: two thirds of the table that whole ids would take.
_KEY_SIZE = 16


class Inventory(Versions):
    """Objects, the chunks in them, and what was asked for of them."""

    # Objects

    def staged(self) -> list[ObjectRow]:
        """Objects that are in the spool and not yet confirmed, oldest first."""
        return self._objects("state = 0 ORDER BY id")

    def stored(self, object_row: int, checksums: Checksums = ()) -> None:
        """Commit that the storage has confirmed an object, which has these checksums."""
        with self.transaction():
            self._db.execute("UPDATE objects SET state = ? WHERE id = ?", (STORED, object_row))
            self._add_checksums(object_row, checksums)

    def _add_checksums(self, object_row: int, checksums: Checksums) -> None:
        self._db.executemany(
            "REPLACE INTO checksums VALUES (?, ?, ?)",
            ((object_row, algorithm, value) for algorithm, value in checksums),
        )

    def rename_object(self, object_row: int, name: str) -> None:
        """Commit another name for an object whose put was cut; the old one is abandoned."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO abandoned SELECT name FROM objects WHERE id = ?", (object_row,)
            )
            self._db.execute("UPDATE objects SET name = ? WHERE id = ?", (name, object_row))

    def place_object(self, object_row: int, name: str) -> None:
        """Note under which name an object is in the storage, within a transaction of the caller."""
        self._db.execute("UPDATE objects SET name = ? WHERE id = ?", (name, object_row))
        self._db.execute("DELETE FROM abandoned WHERE name = ?", (name,))

    def abandon(self, name: str) -> None:
        """Note a name that a cut put left, within a transaction of the caller."""
        self._db.execute("INSERT OR IGNORE INTO abandoned VALUES (?)", (name,))

    def abandoned(self) -> list[str]:
        """Names under which cut puts may have left something."""
        rows = self._db.execute("SELECT name FROM abandoned ORDER BY name")
        return [self._checked_name(name) for (name,) in rows]

    def record_deleted(self, object_row: int) -> None:
        """Commit that an object is gone from the storage."""
        with self.transaction():
            self._db.execute("UPDATE objects SET state = ? WHERE id = ?", (DELETED, object_row))

    def objects(self, kind: Kind | None = None, after: int = 0) -> list[ObjectRow]:
        """Objects that were read or written, with a row id above `after`, oldest first."""
        known = f"id > ? AND state != {UNREAD}"
        if kind is None:
            return self._objects(f"{known} ORDER BY id", after)
        return self._objects(f"{known} AND kind = ? ORDER BY id", after, kind)

    def object_by_id(self, object_id: bytes) -> ObjectRow | None:
        """The object of that id."""
        rows = self._objects("object_id = ?", object_id)
        return rows[0] if rows else None

    def last_object(self) -> int:
        """The row of the object that was recorded last, 0 for none."""
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM objects").fetchone()
        return int(last)

    def object_by_row(self, row: int) -> ObjectRow:
        """The object of that row."""
        return self._objects("id = ?", row)[0]

    def _objects(self, condition: str, *values: object) -> list[ObjectRow]:
        query = (
            "SELECT id, object_id, name, kind, number, run, size, blake3, header, state"
            f" FROM objects WHERE {condition}"
        )
        rows = [ObjectRow(*row) for row in self._db.execute(query, values)]
        for row in rows:
            self._checked_name(row.name)
            if row.size < 0:
                raise CatalogueError(
                    f"{self.path} was tampered with: {row.name} of {row.size} bytes"
                )
        return rows

    def _checked_name(self, name: str) -> str:
        """Names become paths: one in a foreign .archive must not lead out of the storage."""
        if parse_name(name) is None:
            raise CatalogueError(f"{self.path} was tampered with: no object is called {name!r}")
        return name

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

    def set_object_id(self, object_row: int, object_id: bytes) -> None:
        """List an object by another id, within a transaction of the caller."""
        self._db.execute("UPDATE objects SET object_id = ? WHERE id = ?", (object_id, object_row))

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

    def all_indexes(self) -> Iterator[bytes]:
        """The bodies of all packs' indexes."""
        return (body for (body,) in self._db.execute("SELECT body FROM indexes"))

    # Chunks

    def add_chunks(self, object_row: int, bodies: Iterable[bytes]) -> None:
        """Insert the chunks of a pack; of a chunk that is known already the first place stays.

        Sorted by id, so that the table's pages are filled in order.
        """
        ids = [
            body_ids[at : at + _KEY_SIZE]
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
            (chunk_id[:_KEY_SIZE],),
        ).fetchone()
        return row

    def has_chunks(self) -> bool:
        """Whether any chunk is known: an empty table need not be asked chunk by chunk."""
        return self._db.execute("SELECT 1 FROM chunks LIMIT 1").fetchone() is not None

    # Totals

    def object_totals(self) -> list[tuple[int, int, int, int]]:
        """(kind, state, number, bytes) of all objects."""
        query = "SELECT kind, state, count(*), sum(size) FROM objects GROUP BY kind, state"
        return self._db.execute(query).fetchall()

    def count_stored(self) -> int:
        """How many objects are in the storage, as far as is known."""
        query = "SELECT count(*) FROM objects WHERE state = ?"
        return int(self._db.execute(query, (STORED,)).fetchone()[0])

    def count_sealed(self) -> int:
        """How many objects have key slots: all but the kit."""
        return sum(count for kind, _, count, _ in self.object_totals() if kind != Kind.KIT)

    def size_by_run(self) -> dict[int, int]:
        """Bytes of the objects that each run sent."""
        return dict(self._db.execute("SELECT run, sum(size) FROM objects GROUP BY run"))

    def remaining(self) -> list[Remaining]:
        """The objects that are not deleted, oldest first."""
        query = "SELECT id, name, size FROM objects WHERE state != ? ORDER BY id"
        rows = [Remaining(*row) for row in self._db.execute(query, (DELETED,))]
        for row in rows:
            self._checked_name(row.name)
        return rows

    def remaining_size(self) -> tuple[int, int]:
        """(number, bytes) of the objects that are not deleted."""
        query = "SELECT count(*), coalesce(sum(size), 0) FROM objects WHERE state != ?"
        count, size = self._db.execute(query, (DELETED,)).fetchone()
        return int(count), int(size)

    # What is in the storage

    def has_objects(self) -> bool:
        """Whether any object was ever named."""
        return self._db.execute("SELECT 1 FROM objects LIMIT 1").fetchone() is not None

    def state_of(self, name: str) -> int | None:
        """The state of an object, ABANDONED, or None where none was ever named so."""
        query = (
            "SELECT state FROM objects WHERE name = ?"
            " UNION ALL SELECT ? FROM abandoned WHERE name = ?"
        )
        row = self._db.execute(query, (name, ABANDONED, name)).fetchone()
        return int(row[0]) if row else None

    def expected(self) -> Iterator[Expected]:
        """The objects that are stored or staged, oldest first."""
        query = (
            "SELECT o.id, o.name, o.size, o.state, o.blake3, coalesce(c.checked, 0) FROM objects o"
            " LEFT JOIN checks c ON c.object = o.id WHERE o.state IN (?, ?) ORDER BY o.id"
        )
        for row in self._db.execute(query, (STAGED, STORED)):
            self._checked_name(row[1])
            yield Expected(*row)

    def checksums(self, object_row: int) -> dict[str, str]:
        """The checksums of an object by their algorithm, apart from its BLAKE3."""
        query = "SELECT algorithm, value FROM checksums WHERE object = ?"
        return dict(self._db.execute(query, (object_row,)))

    def unchecked(self) -> int:
        """How many stored objects were never read again."""
        query = (
            "SELECT count(*) FROM objects WHERE state = ? AND id NOT IN (SELECT object FROM checks)"
        )
        return int(self._db.execute(query, (STORED,)).fetchone()[0])

    def remaining_by_age(self) -> list[tuple[int, int | None, int, int]]:
        """(kind, when their run ended in ns since 1970 or None, number, bytes) of what remains."""
        query = (
            "SELECT o.kind, r.ended, count(*), sum(o.size) FROM objects o"
            " LEFT JOIN runs r ON r.run = o.run WHERE o.state != ? GROUP BY o.run, o.kind"
        )
        return self._db.execute(query, (DELETED,)).fetchall()

    # What a reader records too, in transactions of a row each: checks and thaws

    def record_check(
        self, object_row: int, checked: float, blake3: bytes, checksums: Checksums
    ) -> None:
        """Commit that an object was read whole and is sound, and what it has for checksums."""
        with self.transaction():
            self._db.execute("REPLACE INTO checks VALUES (?, ?)", (object_row, checked))
            self._db.execute("UPDATE objects SET blake3 = ? WHERE id = ?", (blake3, object_row))
            self._add_checksums(object_row, checksums)

    def thaw(self, object_row: int) -> ThawRow | None:
        """What was asked for of an object."""
        query = "SELECT asked, ready, until, confirmed FROM thaws WHERE object = ?"
        row = self._db.execute(query, (object_row,)).fetchone()
        return row and ThawRow(row[0], row[1], row[2], bool(row[3]))

    def thaws(self) -> Iterator[tuple[str, int, float, float, float | None]]:
        """(object, bytes, asked, ready, until) of each object that was asked for, oldest first."""
        query = (
            "SELECT o.name, o.size, t.asked, t.ready, t.until FROM thaws t"
            " JOIN objects o ON o.id = t.object ORDER BY t.asked, o.id"
        )
        return iter(self._db.execute(query))

    def record_thaw(self, object_row: int, row: ThawRow) -> None:
        """Commit what is asked for, or known of it now."""
        with self.transaction():
            self._db.execute("REPLACE INTO thaws VALUES (?, ?, ?, ?, ?)", (object_row, *row))

    def forget_thaws(self) -> None:
        """That nothing was asked for, within a transaction of the caller."""
        self._db.execute("DELETE FROM thaws")
