"""The plan of a restore: which files, from which blocks of which packs. Asks the storage nothing.

Kept in a temporary SQLite database, so that it may be larger than memory.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.objects import ChunkMap
from pyarchiver.cas.rows import ObjectRow
from pyarchiver.formats.aead import Buffer
from pyarchiver.formats.entry import Hole, Node, Run, chunks_max, hash_parts, hole_part
from pyarchiver.formats.errors import DamagedError
from pyarchiver.formats.header import HEADER_MAX, Kind, parse_front
from pyarchiver.formats.names import object_name
from pyarchiver.formats.payload import FRAME_SIZE, Index
from pyarchiver.formats.sealed import SEGMENT, Layout

# 50 MB of chunk maps: some 2,000 packs of photos.
_CHUNKS_KEPT = 1 << 20
_ROWS_TOGETHER = 1000


class Piece(NamedTuple):
    """Chunks `first` .. `first + chunks` of a block: `size` bytes at `offset` of a target."""

    block: int
    first: int
    chunks: int
    target: int
    offset: int
    size: int


class Target(NamedTuple):
    """A file to restore: where to, and which version of which path it is."""

    id: int
    path: bytes
    version: int
    pieces: int
    size: int
    deleted: int
    """1 where the path is in the source no more."""


@dataclass(slots=True)
class Needed:
    """One object that the plan needs.

    `wanted`: bytes of chunks; `read`: bytes of the object, its headers and the segments in which
    the blocks lie.
    """

    row: ObjectRow
    wanted: int
    read: int


class Plan:
    """Targets and pieces, as they are added; then read object by object."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._file_key = catalogue.keys.file_key
        self._archive_id = catalogue.keys.archive_id
        self._maps: OrderedDict[bytes, tuple[ObjectRow, ChunkMap]] = OrderedDict()
        self._chunks = 0
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA cache_size = -32768")
        self._db.execute(
            "CREATE TABLE targets (id INTEGER PRIMARY KEY, path BLOB, version INTEGER,"
            " pieces INTEGER, size INTEGER, deleted INTEGER)"
        )
        self._db.execute(
            "CREATE TABLE pieces (object INTEGER, block INTEGER, first INTEGER, chunks INTEGER,"
            " target INTEGER, offset INTEGER, size INTEGER)"
        )
        self._db.execute("BEGIN")
        self._targets: list[tuple[object, ...]] = []
        self._pieces: list[tuple[int, ...]] = []
        self.files = self.size = 0

    def close(self) -> None:
        """Forget it all."""
        self._db.close()

    def locate(self, node: Node) -> list[str]:
        """Check a file's content against the indexes; returns the names of objects that miss.

        Raises DamagedError where what the objects say does not add up to this file. Costs no more
        than the file's size allows, whatever the runs say, and no memory for them.
        """
        if sum(run.chunks for run in runs_of(node)) > chunks_max(node.size):
            raise DamagedError("its content is of more chunks than its size allows")
        missing = {
            object_name(self._archive_id, Kind.PACK, 0, object_id): None
            for object_id in dict.fromkeys(run.object_id for run in runs_of(node))
            if self._map(object_id) is None
        }
        if missing:
            return list(missing)
        size = 0

        def parts() -> Iterator[Buffer]:
            nonlocal size
            for part in node.content:
                if isinstance(part, Hole):
                    size += part.length
                    yield hole_part(part.length)
                else:
                    chunk_map = self._known(part.object_id)[1]
                    yield chunk_map.parts(part.first, part.chunks)
                    size += chunk_map.size(part.first, part.chunks)

        file_hash = hash_parts(self._file_key, node.size, parts())
        if size != node.size or file_hash != node.file_hash:
            raise DamagedError("its chunks do not add up to the file")
        return []

    def chunks_of(self, node: Node) -> Iterator[tuple[bytes, int] | int]:
        """The chunks (id, length) and holes (length) of a file that was located, in order."""
        for part in node.content:
            if isinstance(part, Hole):
                yield part.length
                continue
            chunk_map = self._known(part.object_id)[1]
            for ordinal in range(part.first, part.first + part.chunks):
                yield chunk_map.chunk_id(ordinal), chunk_map.size(ordinal)

    def pieces_of(self, node: Node) -> Iterator[tuple[int, Piece]]:
        """(object row, piece) of a file that was located, in order."""
        offset = 0
        for part in node.content:
            if isinstance(part, Hole):
                offset += part.length
                continue
            row, chunk_map = self._known(part.object_id)
            for block, first, count in chunk_map.pieces(part.first, part.chunks):
                size = chunk_map.size(first, count)
                yield row.id, Piece(block, first, count, 0, offset, size)
                offset += size

    def add(
        self, path: bytes, version: int, node: Node, pieces: Iterable[tuple[int, Piece]],
        deleted: bool = False,
    ) -> None:  # fmt: skip
        """Plan a file of these pieces, which are those that an earlier restore did not write."""
        self.files += 1
        self.size += node.size
        count = 0
        for row, piece in pieces:
            self._pieces.append((row, *piece._replace(target=self.files)))
            count += 1
            if len(self._pieces) >= _ROWS_TOGETHER:
                self._insert()
        self._targets.append((self.files, path, version, count, node.size, deleted))
        if len(self._targets) >= _ROWS_TOGETHER:
            self._insert()

    def _insert(self) -> None:
        self._db.executemany("INSERT INTO targets VALUES (?, ?, ?, ?, ?, ?)", self._targets)
        self._db.executemany("INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?)", self._pieces)
        self._targets, self._pieces = [], []

    def target(self, target: int) -> Target:
        """A planned file."""
        row = self._db.execute("SELECT * FROM targets WHERE id = ?", (target,)).fetchone()
        return Target(*row)

    def without_pieces(self) -> Iterator[Target]:
        """Files that need no chunk: empty ones, those that are one hole, or written already."""
        query = "SELECT * FROM targets WHERE pieces = 0"
        return (Target(*row) for row in self._db.execute(query))

    def needed(self) -> list[Needed]:
        """The objects that are needed, in the order in which they were written."""
        wanted = dict(self._db.execute("SELECT object, sum(size) FROM pieces GROUP BY object"))
        rows = (self._catalogue.object_by_row(row) for row in sorted(wanted))
        return [Needed(row, wanted[row.id], self._read_size(row)) for row in rows]

    def _read_size(self, row: ObjectRow) -> int:
        """Bytes that reading the planned blocks of an object takes; a segment is read once."""
        layout = Layout(len(row.header), parse_front(row.header).suite.tag)
        numbers: set[int] = set()
        for block in self.blocks(row.id):
            placed = self.chunk_map(row.id).blocks[block]
            end = placed.offset + FRAME_SIZE + placed.length
            numbers.update(range(placed.offset // SEGMENT, -(-end // SEGMENT)))
        segments = (
            min(SEGMENT + layout.tag, row.size - layout.header - layout.segment_at(number))
            for number in numbers
        )
        return 2 * min(row.size, HEADER_MAX) + sum(segments)

    def deleted(self) -> tuple[int, int]:
        """(bytes of deleted paths, bytes of them that other files of the plan have too)."""
        total = shared = 0
        # What stands is known before it is looked for.
        query = (
            "SELECT p.object, p.block, p.first, p.chunks, t.deleted FROM pieces p"
            " JOIN targets t ON t.id = p.target ORDER BY p.object, p.block, t.deleted"
        )
        for (row, _), pieces in groupby(self._db.execute(query), itemgetter(0, 1)):
            there: set[int] = set()
            size = self.chunk_map(row).size
            for _, _, first, chunks, deleted in pieces:
                ordinals = range(first, first + chunks)
                if not deleted:
                    there.update(ordinals)
                    continue
                total += size(first, chunks)
                if there:
                    shared += sum(size(ordinal) for ordinal in ordinals if ordinal in there)
        return total, shared

    def chunk_map(self, row: int) -> ChunkMap:
        """Where the chunks of an object are."""
        return self._known(self._catalogue.object_by_row(row).object_id)[1]

    def blocks(self, row: int) -> list[int]:
        """The blocks of an object that are still to be read, as they lie in it."""
        query = "SELECT DISTINCT block FROM pieces WHERE object = ? ORDER BY block"
        return [block for (block,) in self._db.execute(query, (row,))]

    def pieces(self, row: int, block: int) -> Iterator[tuple[Piece, Target]]:
        """What is to be written of a block, and to which file.

        A chunk may stand in millions of files.
        """
        query = (
            "SELECT p.block, p.first, p.chunks, p.target, p.offset, p.size, t.*"
            " FROM pieces p JOIN targets t ON t.id = p.target"
            " WHERE p.object = ? AND p.block = ? ORDER BY p.first"
        )
        rows = self._db.execute(query, (row, block))
        return ((Piece(*values[:6]), Target(*values[6:])) for values in rows)

    def done(self, row: int, block: int) -> None:
        """Forget the pieces of a block: they are written, or given up."""
        self._db.execute("DELETE FROM pieces WHERE object = ? AND block = ?", (row, block))

    def index_pieces(self) -> None:
        """To be called when all is added, before it is read."""
        self._insert()
        self._db.execute("CREATE INDEX by_object ON pieces (object, block, first)")

    def _known(self, object_id: bytes) -> tuple[ObjectRow, ChunkMap]:
        known = self._map(object_id)
        assert known is not None
        return known

    def _map(self, object_id: bytes) -> tuple[ObjectRow, ChunkMap] | None:
        if object_id in self._maps:
            self._maps.move_to_end(object_id)
            return self._maps[object_id]
        row = self._catalogue.object_by_id(object_id)
        bodies = self._catalogue.indexes(row.id) if row else []
        if row is None or not bodies:
            return None
        found = row, ChunkMap(Index.decode(body) for body in bodies)
        self._maps[object_id] = found
        self._chunks += found[1].chunks
        while self._chunks > _CHUNKS_KEPT and len(self._maps) > 1:
            self._chunks -= self._maps.popitem(last=False)[1][1].chunks
        return found


def runs_of(node: Node) -> Iterator[Run]:
    """The content of a file but its holes."""
    return (part for part in node.content if isinstance(part, Run))
