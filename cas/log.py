"""The log: manifests say what each run added, checkpoints now and then say all of it again.

A manifest lists, from the position where the last one ended, the new packs with their indexes
and the new versions of paths; the last one of a run carries `run complete` and so makes the
snapshot. Replaying checkpoint and later manifests gives the whole catalogue.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.courier import Courier
from pyarchiver.cas.objectfile import ObjectFile
from pyarchiver.cas.rows import Head, NewObject, join
from pyarchiver.cas.settings import without_credentials
from pyarchiver.cas.version import PROGRAM
from pyarchiver.formats.aead import suite_named
from pyarchiver.formats.block import compressor
from pyarchiver.formats.entry import ENTRIES_RAW, encode_entry, entry_records
from pyarchiver.formats.header import Header, Kind, new_header
from pyarchiver.formats.names import object_name
from pyarchiver.formats.payload import FRAME_SIZE, PayloadWriter, Type
from pyarchiver.formats.records import About, PackInfo, RunComplete, Settings
from pyarchiver.formats.sealed import Layout

OBJECT_MAX = 64 << 20
# Fewer manifests than this are quicker to read than a checkpoint is to write.
CHECKPOINT_AFTER = 8
_LEVEL = 3


_CLOSING_SIZE = 1 << 20

_Record = tuple[Type, bytes]


@dataclass(frozen=True, slots=True)
class _Unit:
    """Records that must stand in one object, and the log position behind them."""

    records: list[_Record]
    version: int
    object: int

    @property
    def size(self) -> int:
        return sum(FRAME_SIZE + len(body) for _, body in self.records)


@dataclass
class _LogObject:
    """One manifest or checkpoint part while it is written."""

    header: Header
    name: str
    file: ObjectFile
    about: About
    payload: PayloadWriter = field(default_factory=PayloadWriter)

    @property
    def layout(self) -> Layout:
        return Layout(len(self.header.raw), self.header.suite.tag)

    def room(self, size: int) -> bool:
        """Whether `size` bytes of records fit into the 64 MiB, and what closes a run."""
        return self.payload.closed_size(self.layout, size + _CLOSING_SIZE) <= OBJECT_MAX

    def add(self, records: list[_Record]) -> None:
        """Append records."""
        for kind, body in records:
            self.file.feed(self.payload.add(kind, body))

    def staged(self, run: int) -> NewObject:
        """What the catalogue is to know of it."""
        return NewObject(
            self.header.object_id, self.name, Kind(self.header.kind), self.about.number, run,
            self.file.size, self.file.blake3, self.header.raw,
        )  # fmt: skip

    def close(self) -> None:
        """Write the end and make the file durable."""
        self.file.feed(self.payload.close(self.layout)[0])
        self.file.finish()
        self.file.sync()


class Log:
    """Writes manifests and checkpoints of one archive."""

    def __init__(self, catalogue: Catalogue, courier: Courier, suite: str, run: int) -> None:
        self._catalogue = catalogue
        self._courier = courier
        self._suite = suite_named(suite)
        self._run = run
        self._keys = catalogue.keys
        self._compressor = compressor(_LEVEL, ENTRIES_RAW)
        self._open: _LogObject | None = None

    def close(self) -> None:
        """Give up an object that was not finished, and remove its spool file."""
        # An interrupt may have come between the commit and the next line.
        if self._open and self._catalogue.object_by_id(self._open.header.object_id) is None:
            self._open.file.discard()

    def pending(self) -> bool:
        """Whether the catalogue knows what no manifest says, slots and settings included."""
        head = self._catalogue.head
        return (
            self._catalogue.last_version() > head.version
            or bool(self._catalogue.objects(Kind.PACK, head.object))
            or self._catalogue.slots_unsent()
            or self._catalogue.settings_unsent
        )

    def write(self, done: RunComplete | None = None) -> None:
        """Write what is new as a manifest, or several; `done` makes it a snapshot."""
        head = self._catalogue.head
        current = self._begin(Kind.MANIFEST, head.number + 1, head)
        for unit in self._units(head):
            if not current.room(unit.size):
                current.close()
                head = self._stage_manifest(current, head, None)
                current = self._begin(Kind.MANIFEST, head.number + 1, head)
            current.add(unit.records)
            head = replace(head, version=unit.version, object=unit.object)
        if done:
            current.add(self._closing_records([done]))
        current.close()
        self._stage_manifest(current, head, done)
        if done and self._checkpoint_due():
            self._write_checkpoint()

    def _stage_manifest(self, file: _LogObject, head: Head, done: RunComplete | None) -> Head:
        new = file.staged(self._run)
        head = replace(head, number=new.number, hash=new.blake3)
        self._courier.send(self._catalogue.stage_manifest(new, head, done), new.name, new.size)
        return head

    def _checkpoint_due(self) -> bool:
        manifests, size, checkpoint = self._catalogue.log_since_checkpoint()
        return manifests >= CHECKPOINT_AFTER and size > checkpoint

    def _write_checkpoint(self) -> None:
        """All that the log says so far, in parts; the last one carries settings and runs."""
        head = self._catalogue.head
        current = self._begin(Kind.CHECKPOINT, head.number, head)
        part = 0
        for unit in self._units(Head()):
            if not current.room(unit.size):
                self._stage_checkpoint(current)
                part += 1
                current = self._begin(Kind.CHECKPOINT, head.number, head, part)
            current.add(unit.records)
        current.add(self._closing_records(self._catalogue.snapshots()))
        self._stage_checkpoint(current, last=True)

    def _stage_checkpoint(self, file: _LogObject, *, last: bool = False) -> None:
        file.close()
        new = file.staged(self._run)
        self._courier.send(self._catalogue.stage_checkpoint(new, last), new.name, new.size)

    def _begin(self, kind: Kind, number: int, head: Head, part: int = 0) -> _LogObject:
        header, key = new_header(self._suite, self._keys, self._catalogue.slots, kind)
        name = object_name(header.archive_id, kind, number, header.object_id)
        about = About(self._run, head.number, head.hash, number, part, int(time.time()), PROGRAM)
        file = ObjectFile(self._courier.spool, name, header, key)
        self._open = _LogObject(header, name, file, about)
        self._open.add([(Type.ABOUT, about.encode())])
        return self._open

    def _closing_records(self, runs: list[RunComplete]) -> list[_Record]:
        settings = (Type.SETTINGS, Settings(without_credentials(self._catalogue.settings)).encode())
        return [settings, *((Type.RUN, run.encode()) for run in runs)]

    def _units(self, after: Head) -> Iterator[_Unit]:
        """What the catalogue holds beyond a log position, in pieces that stay together."""
        for row in self._catalogue.objects(Kind.PACK, after.object):
            indexes = self._catalogue.indexes(row.id)
            info = PackInfo(row.object_id, row.run, row.size, row.blake3, row.header, len(indexes))
            records = [(Type.PACK, info.encode())]
            records += [(Type.PACK_INDEX, body) for body in indexes]
            after = replace(after, object=row.id)
            yield _Unit(records, after.version, after.object)
        entries: list[bytes] = []
        size = last = 0
        for sequence, folder, name, run, _, fields in self._catalogue.versions(after.version):
            entry = encode_entry(join(folder, name), run, sequence, fields)
            if entries and size + len(entry) > ENTRIES_RAW:
                after = replace(after, version=last)
                yield self._entries_unit(entries, after)
                entries, size = [], 0
            entries.append(entry)
            size += len(entry)
            last = sequence
        if entries:
            yield self._entries_unit(entries, replace(after, version=last))

    def _entries_unit(self, entries: list[bytes], after: Head) -> _Unit:
        records = [
            (kind, body)
            for kind, bodies in entry_records(entries, self._compressor)
            for body in bodies
        ]
        return _Unit(records, after.version, after.object)
