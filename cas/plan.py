"""The plan of a restore: which files, from which blocks of which packs. Asks the storage nothing.

Kept in a temporary SQLite database, so that it may be larger than memory.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.objects import ChunkMap
from pyarchiver.cas.rows import ObjectRow
from pyarchiver.formats.entry import Hole, Node, hash_content
from pyarchiver.formats.errors import DamagedError
from pyarchiver.formats.header import HEADER_MAX, Kind, parse_front
from pyarchiver.formats.names import object_name
from pyarchiver.formats.payload import FRAME_SIZE, Index
from pyarchiver.formats.sealed import SEGMENT, Layout

_MAPS_KEPT = 16


class Piece(NamedTuple):
    """Chunks `first` .. `first + chunks` of a block: `size` bytes at `offset` of a target."""

    block: int
    first: int
    chunks: int
    target: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Target:
    """A file to restore: where to, and which version of which path it is."""

    id: int
    path: bytes
    version: int
    pieces: int
    size: int
    begun: int
    """1 where an earlier restore wrote the other pieces to its temporary file."""
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


@dataclass(slots=True)
class Located:
    """A file's content found: pieces by object row, chunks in order, objects that are unknown."""

    pieces: list[tuple[int, Piece]] = field(default_factory=list)
    chunks: list[tuple[bytes, int] | int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Plan:
    """Targets and pieces, as they are added; then read object by object."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._file_key = catalogue.keys.file_key
        self._archive_id = catalogue.keys.archive_id
        self._maps: OrderedDict[bytes, tuple[ObjectRow, ChunkMap] | None] = OrderedDict()
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA cache_size = -32768")
        self._db.execute(
            "CREATE TABLE targets (id INTEGER PRIMARY KEY, path BLOB, version INTEGER,"
            " pieces INTEGER, size INTEGER, begun INTEGER, deleted INTEGER)"
        )
        self._db.execute(
            "CREATE TABLE pieces (object INTEGER, block INTEGER, first INTEGER, chunks INTEGER,"
            " target INTEGER, offset INTEGER, size INTEGER)"
        )
        self._db.execute("BEGIN")
        self.files = self.size = 0

    def close(self) -> None:
        """Forget it all."""
        self._db.close()

    def locate(self, node: Node) -> Located:
        """Where a file's chunks are.

        Raises DamagedError where what the objects say does not add up to this file.
        """
        found = Located()
        offset = 0
        for part in node.content:
            if isinstance(part, Hole):
                found.chunks.append(part.length)
                offset += part.length
                continue
            known = self._map(part.object_id)
            if known is None:
                name = object_name(self._archive_id, Kind.PACK, 0, part.object_id)
                if name not in found.missing:
                    found.missing.append(name)
                continue
            row, chunk_map = known
            for block, first, count in chunk_map.pieces(part.first, part.chunks):
                lengths = chunk_map.lengths[first : first + count]
                ids = (chunk_map.chunk_id(ordinal) for ordinal in range(first, first + count))
                found.chunks += zip(ids, lengths, strict=True)
                size = sum(lengths)
                found.pieces.append((row.id, Piece(block, first, count, 0, offset, size)))
                offset += size
        if not found.missing:
            file_hash = hash_content(self._file_key, node.size, found.chunks)
            if offset != node.size or file_hash != node.file_hash:
                raise DamagedError("its chunks do not add up to the file")
        return found

    def add(
        self, path: bytes, version: int, node: Node, located: Located, begun: bool, deleted: bool
    ) -> None:
        """Plan a file whose content is located."""
        self.files += 1
        self.size += node.size
        self._db.execute(
            "INSERT INTO targets VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self.files, path, version, len(located.pieces), node.size, begun, deleted),
        )
        self._db.executemany(
            "INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((row, *piece._replace(target=self.files)) for row, piece in located.pieces),
        )

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
        query = (
            "SELECT p.object, p.block, p.first, p.chunks, t.deleted"
            " FROM pieces p JOIN targets t ON t.id = p.target ORDER BY p.object, p.block"
        )
        for (row, _), pieces in groupby(self._db.execute(query), itemgetter(0, 1)):
            there: set[int] = set()
            gone: list[int] = []
            for _, _, first, chunks, deleted in pieces:
                ordinals = range(first, first + chunks)
                gone.extend(ordinals) if deleted else there.update(ordinals)
            if gone:
                lengths = self.chunk_map(row).lengths
                total += sum(lengths[ordinal] for ordinal in gone)
                shared += sum(lengths[ordinal] for ordinal in gone if ordinal in there)
        return total, shared

    def chunk_map(self, row: int) -> ChunkMap:
        """Where the chunks of an object are."""
        known = self._map(self._catalogue.object_by_row(row).object_id)
        assert known is not None
        return known[1]

    def blocks(self, row: int) -> list[int]:
        """The blocks of an object that are still to be read, as they lie in it."""
        query = "SELECT DISTINCT block FROM pieces WHERE object = ? ORDER BY block"
        return [block for (block,) in self._db.execute(query, (row,))]

    def pieces(self, row: int, block: int) -> list[Piece]:
        """What is to be written of a block."""
        query = (
            "SELECT block, first, chunks, target, offset, size FROM pieces"
            " WHERE object = ? AND block = ? ORDER BY first"
        )
        return [Piece(*values) for values in self._db.execute(query, (row, block))]

    def done(self, row: int, block: int) -> None:
        """Forget the pieces of a block: they are written, or given up."""
        self._db.execute("DELETE FROM pieces WHERE object = ? AND block = ?", (row, block))

    def index_pieces(self) -> None:
        """To be called when all is added, before it is read."""
        self._db.execute("CREATE INDEX by_object ON pieces (object, block, first)")

    def _map(self, object_id: bytes) -> tuple[ObjectRow, ChunkMap] | None:
        if object_id in self._maps:
            self._maps.move_to_end(object_id)
            return self._maps[object_id]
        row = self._catalogue.object_by_id(object_id)
        found = None
        if row is not None:
            bodies = self._catalogue.indexes(row.id)
            found = (row, ChunkMap(Index.decode(body) for body in bodies)) if bodies else None
        self._maps[object_id] = found
        if len(self._maps) > _MAPS_KEPT:
            self._maps.popitem(last=False)
        return found
