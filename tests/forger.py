"""Objects that somebody made with the keys of an archive, of whatever he likes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from helpers_cli import PASSWORD, noise, patched
from pyarchiver.formats import header as headers
from pyarchiver.formats import keys
from pyarchiver.formats.aead import AEGIS256
from pyarchiver.formats.block import STORED, block_head, compressor
from pyarchiver.formats.entry import (
    ENTRIES_RAW,
    EntryKind,
    Hole,
    Node,
    Run,
    encode_entry,
    encode_node,
    entry_records,
    hash_content,
)
from pyarchiver.formats.header import Header, Kind, new_header
from pyarchiver.formats.keys import ReadKeys, Slot
from pyarchiver.formats.payload import PayloadWriter, Type
from pyarchiver.formats.records import About, RunComplete, Settings
from pyarchiver.formats.sealed import Layout, seal_object

GOOD = b"what is good comes back"
OTHER = noise("other", 3000)


Block = tuple[list[int], list[bytes], bytes]
"""Lengths and ids of its chunks, and the body of its record."""


@dataclass
class Forger:
    """Writes packs and manifests whose entries may be anything."""

    keys: ReadKeys = field(default_factory=keys.new_keys)
    slots: tuple[Slot, ...] = ()
    header: Header | None = None
    key: bytes = b""

    def __post_init__(self) -> None:
        self.slots = (keys.password_slot(self.keys, PASSWORD),)
        self.header, self.key = self.new_header(Kind.PACK)

    def new_header(self, kind: Kind) -> tuple[Header, bytes]:
        return new_header(AEGIS256, self.keys.writer(), self.slots, kind)

    @property
    def pack_id(self) -> bytes:
        assert self.header is not None
        return self.header.object_id

    def file(self, *chunks: tuple[int, bytes] | int, **more: Any) -> Node:
        """A file of chunks (ordinal, bytes) and holes, its size and hash right."""
        parts = [c if isinstance(c, int) else (self.keys.chunk_id(c[1]), len(c[1])) for c in chunks]
        size = sum(part if isinstance(part, int) else part[1] for part in parts)
        content = tuple(
            Hole(c) if isinstance(c, int) else Run(self.pack_id, c[0], 1) for c in chunks
        )
        digest = hash_content(self.keys.file_key, size, parts)
        node = Node(EntryKind.FILE, 0o644, 10**18, size=size, file_hash=digest, content=content)
        return node._replace(**more)

    def good(self) -> Node:
        return self.file((0, GOOD))

    def records(
        self, entries: Iterable[tuple[bytes, Node]], first: int = 1
    ) -> list[tuple[Type, bytes]]:
        encoded = [
            encode_entry(path, 1, sequence, encode_node(node))
            for sequence, (path, node) in enumerate(entries, first)
        ]
        made = entry_records(encoded, compressor(3, ENTRIES_RAW))
        return [(kind, body) for kind, bodies in made for body in bodies]

    def seal(
        self, header: Header, key: bytes, records: Iterable[tuple[Type, bytes]],
        chunks: list[bytes], about: About, blocks: Iterable[Block] = (),
    ) -> tuple[bytes, list[bytes]]:  # fmt: skip
        writer = PayloadWriter()
        pieces = writer.add(Type.ABOUT, about.encode())
        if chunks:
            lengths, ids = [len(c) for c in chunks], [self.keys.chunk_id(c) for c in chunks]
            pieces += writer.add_block(lengths, ids, block_head(STORED, lengths), b"".join(chunks))
        for block in blocks:
            pieces += writer.add_block(*block)
        for kind, body in records:
            pieces += writer.add(kind, body)
        closing, indexes = writer.close(Layout(len(header.raw), header.suite.tag))
        return seal_object(header, key, [*pieces, *closing]), indexes

    def pack(self, entries: Iterable[tuple[bytes, Node]]) -> tuple[bytes, list[bytes]]:
        """A pack of two chunks, GOOD and OTHER; (the object, its indexes)."""
        assert self.header is not None
        return self.seal(
            self.header, self.key, self.records(entries), [GOOD, OTHER], About(1, 0, bytes(32))
        )

    def manifest(self, records: list[tuple[Type, bytes]]) -> bytes:
        settings = (Type.SETTINGS, Settings({"name": "x"}).encode())
        about = About(1, 0, bytes(32), number=1)
        return self.log_object(Kind.MANIFEST, about, [*records, settings])

    def log_object(
        self, kind: Kind, about: About, records: list[tuple[Type, bytes]], run: int = 1,
        object_id: bytes | None = None,
    ) -> bytes:  # fmt: skip
        """A manifest or checkpoint that completes a run; `object_id`: instead of a random one."""
        with patched((headers, "os", _Random(object_id))):
            header, key = self.new_header(kind)
        done = (Type.RUN, RunComplete(run, 1, 2, 3, 4).encode())
        return self.seal(header, key, [*records, done], [], about)[0]


class _Random:
    """The first random bytes are these, if given; the others are the system's."""

    def __init__(self, first: bytes | None) -> None:
        self._first = [first] if first else []

    def urandom(self, size: int) -> bytes:
        return self._first.pop() if self._first else os.urandom(size)
