"""Fills packs with blocks and entries, in order, and sees each through its two commits.

::

    raw block -> press (threads) -> place: object id, ordinals -> writer (thread): seal, hash, spool
              -> courier (thread): sync -> STAGED -> put -> STORED

All decisions and commits are taken here, in the caller's thread; the others only run C calls.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.courier import Courier
from pyarchiver.cas.intake import RawBlock, Slot
from pyarchiver.cas.ledger import Ledger
from pyarchiver.cas.objectfile import ObjectFile
from pyarchiver.cas.press import Press, Pressed
from pyarchiver.cas.rows import Batch, NewObject
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.version import PROGRAM
from pyarchiver.formats.aead import Buffer, suite_named
from pyarchiver.formats.block import compressor
from pyarchiver.formats.entry import ENTRIES_RAW, entry_records
from pyarchiver.formats.header import Header, Kind, new_header
from pyarchiver.formats.names import object_name
from pyarchiver.formats.payload import CHUNK_ID_SIZE, FRAME_SIZE, Index, PayloadWriter, Type
from pyarchiver.formats.records import About
from pyarchiver.formats.sealed import Layout

# Bounds the index, and what a batch holds in memory until its pack is staged.
PACK_CHUNKS_MAX = 131072
# Bytes of complete packs that may wait in the spool, three of the default size; the producer stops
# beyond. By bytes: of small packs, many are on their way to a slow storage at once.
IN_FLIGHT_MAX = 3 * (232 << 20)
MANIFEST_EVERY = 16
# An entry's share of a pack, compressed: hash, object id, and what differs in its path.
_ENTRY_ESTIMATE = 160
_SYNC_EVERY = 32 << 20
_ENTRY_LEVEL = 3


@dataclass(slots=True)
class OpenPack:
    """The pack being filled."""

    header: Header
    name: str
    file: ObjectFile
    payload: PayloadWriter
    layout: Layout
    batch: Batch = field(default_factory=Batch)
    synced: int = 0
    filled: bool = False
    writes: list[Future[None]] = field(default_factory=list)


@dataclass(slots=True)
class ClosingPack:
    """A pack whose last byte is on its way to the spool."""

    pack: OpenPack
    indexes: tuple[bytes, ...]
    written: Future[None]
    secured: Future[None]


class Packer:
    """Receives raw blocks in order. `on_staged(chunk ids)` is told what the catalogue knows now."""

    def __init__(
        self,
        catalogue: Catalogue,
        courier: Courier,
        ledger: Ledger,
        settings: Settings,
        run: int,
        on_staged: Callable[[list[bytes]], None],
        write_manifest: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._courier = courier
        self._ledger = ledger
        self._run = run
        self._suite = suite_named(settings.suite)
        self._pack_size = settings.pack_size
        self._keys = catalogue.keys
        self._on_staged = on_staged
        self._write_manifest = write_manifest
        self._press = Press(settings.compression)
        self._writer = ThreadPoolExecutor(1, "writer")
        self._entry_compressor = compressor(_ENTRY_LEVEL, ENTRIES_RAW)
        self._pressing: deque[Future[Pressed]] = deque()
        self._writing: deque[Future[None]] = deque()
        self._closing: deque[ClosingPack] = deque()
        self._open: OpenPack | None = None
        self._packed = 0
        self._unlogged = 0

    def take(self) -> Slot:
        """Memory for the next block; waits, packing what is ready, while all is in use."""
        while True:
            slot = self._press.take()
            if slot is not None:
                return slot
            if self._pressing:
                self._place(self._pressing.popleft().result())
            else:
                self._writing.popleft().result()

    def add_block(self, raw: RawBlock) -> None:
        """Compress and pack a block; blocks keep their order."""
        self._pressing.append(self._press.submit(raw))
        while self._pressing and self._pressing[0].done():
            self._place(self._pressing.popleft().result())
        self._progress()

    def settle(self) -> None:
        """Release entries that wait for nothing, where many have gathered."""
        if self._ledger.waiting >= 4096 and not self._pressing:
            self._add_entries()

    def finish(self) -> None:
        """Pack and send all there is, and commit it."""
        while self._pressing:
            self._place(self._pressing.popleft().result())
        self._add_entries()
        if self._open:
            self._close()
        self._progress(limit=0)

    def close(self) -> None:
        """Stop the threads; what is not staged is given up, and its spool file removed."""
        self._press.close()
        self._writer.shutdown(cancel_futures=True)
        wait([closing.secured for closing in self._closing])
        unfinished = [closing.pack for closing in self._closing]
        if self._open:
            unfinished.append(self._open)
        for pack in unfinished:
            # An interrupt may have come between the commit and the next line.
            if self._catalogue.object_by_id(pack.header.object_id) is None:
                pack.file.discard()
            else:
                pack.file.close()

    def _place(self, pressed: Pressed) -> None:
        raw = pressed.raw
        size = FRAME_SIZE + len(pressed.head) + len(pressed.data)
        more = size + _ENTRY_ESTIMATE * self._ledger.waiting + (64 << 10)
        pack = self._pack_with_room(more, len(raw.refs))
        first = pack.payload.chunks
        for ordinal, ref in enumerate(raw.refs, first):
            ref.object_id, ref.ordinal = pack.header.object_id, ordinal
        lengths, ids = [ref.length for ref in raw.refs], [ref.id for ref in raw.refs]
        buffers = pack.payload.add_block(lengths, ids, pressed.head, pressed.data)
        self._write(pack, buffers, raw.slot)
        pack.filled = True
        self._packed = raw.number
        self._add_entries()

    def _pack_with_room(self, more: int, chunks: int) -> OpenPack:
        pack = self._open
        if pack and pack.filled:
            full = pack.payload.chunks + chunks > PACK_CHUNKS_MAX
            size = pack.payload.closed_size(pack.layout, more, chunks)
            if full or size > self._pack_size:
                self._close()
        return self._open or self._new_pack()

    def _new_pack(self) -> OpenPack:
        self._progress(limit=IN_FLIGHT_MAX)
        header, key = new_header(self._suite, self._keys, self._catalogue.slots, Kind.PACK)
        name = object_name(header.archive_id, Kind.PACK, 0, header.object_id)
        file = ObjectFile(self._courier.spool, name, header, key)
        layout = Layout(len(header.raw), self._suite.tag)
        pack = self._open = OpenPack(header, name, file, PayloadWriter(), layout)
        head = self._catalogue.head
        about = About(self._run, head.number, head.hash, written=int(time.time()), program=PROGRAM)
        self._write(pack, pack.payload.add(Type.ABOUT, about.encode()))
        return pack

    def _add_entries(self) -> None:
        """Entries that are due go into the open pack; without one, only into the manifest."""
        entries, batch = self._ledger.release(self._packed)
        if self._open and entries:
            records = list(entry_records(entries, self._entry_compressor))
            size = sum(FRAME_SIZE + len(body) for _, bodies in records for body in bodies)
            pack = self._pack_with_room(size, 0)
            for kind, bodies in records:
                for body in bodies:
                    self._write(pack, pack.payload.add(kind, body))
            pack.filled = True
        if self._open:
            self._open.batch.extend(batch)
        elif self._closing:
            self._closing[-1].pack.batch.extend(batch)
        elif batch:
            self._catalogue.record(batch)

    def _write(self, pack: OpenPack, buffers: list[Buffer], slot: Slot | None = None) -> None:
        def write() -> None:
            pack.file.feed(buffers)
            if slot is not None:
                self._press.give_back(slot)

        written = self._writer.submit(write)
        pack.writes.append(written)
        self._writing.append(written)
        while self._writing and self._writing[0].done():
            self._writing.popleft().result()
        if pack.file.size - pack.synced > _SYNC_EVERY:
            pack.synced = pack.file.size
            self._courier.hurry(pack.file)

    def _close(self) -> None:
        pack = self._open
        assert pack is not None
        buffers, indexes = pack.payload.close(pack.layout)

        def write() -> None:
            # One thread, in order: all of these have ended, and none may have failed.
            for earlier in pack.writes:
                earlier.result()
            pack.file.feed(buffers)
            pack.file.finish()

        written = self._writer.submit(write)
        secured = self._courier.secure(pack.file, written)
        self._closing.append(ClosingPack(pack, tuple(indexes), written, secured))
        self._open = None

    def _progress(self, limit: int | None = None) -> None:
        """Commit what has become durable or has arrived; wait while more bytes are in flight."""
        while self._closing:
            closing = self._closing[0]
            if not closing.secured.done() and (limit is None or self._in_flight() <= limit):
                break
            self._stage(closing)
            self._closing.popleft()
        self._courier.collect(limit)
        if self._unlogged >= MANIFEST_EVERY and not self._closing:
            self._unlogged = 0
            self._write_manifest()

    def _in_flight(self) -> int:
        return sum(closing.pack.file.size for closing in self._closing) + self._courier.in_flight

    def _stage(self, closing: ClosingPack) -> None:
        pack = closing.pack
        closing.written.result()
        new = NewObject(
            pack.header.object_id, pack.name, Kind.PACK, 0, self._run,
            pack.file.size, pack.file.blake3, pack.header.raw, closing.indexes,
        )  # fmt: skip
        row = self._catalogue.stage(new, pack.batch, closing.secured.result)
        self._courier.send(row, pack.name, pack.file.size)
        self._unlogged += 1
        for body in closing.indexes:
            ids = Index.decode(body).ids
            step = CHUNK_ID_SIZE
            self._on_staged([ids[at : at + step] for at in range(0, len(ids), step)])
