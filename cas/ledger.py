"""The ledger: turns what was read into entries, in order, once their chunks have a place."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from blake3 import blake3

from pyarchiver.cas.attributes import owner_names
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.intake import Ref
from pyarchiver.cas.rows import Batch, Known, VersionRow, join
from pyarchiver.formats.entry import (
    ENTRY_MAX,
    Content,
    EntryKind,
    Hole,
    Node,
    Run,
    encode_entry,
    encode_node,
    hash_content,
)

GONE = Known(0, int(EntryKind.GONE), 0, 0, 0, 0)
_KINDS = {int(kind): kind for kind in EntryKind}
_TIME_MIN, _TIME_MAX = 1 - (1 << 63), (1 << 63) - 1


class Due(NamedTuple):
    """A path whose entry is due once block `need` is packed; `found` is None where it is gone."""

    folder: bytes
    name: bytes
    known: Known
    found: os.stat_result | None = None
    xattrs: Mapping[bytes, bytes] = MappingProxyType({})
    content: Sequence[Ref | Hole] = ()
    link: bytes = b""
    need: int = 0


class Ledger:
    """Collects finished paths and releases their entries after the blocks they need.

    An entry equal to the path's newest one is no new version: only what the file system said of
    the path is noted, so that the next run need not read the file again. `device` is that of the
    source folder; `refuse(path)` is told of a file in more pieces than an entry can name.
    """

    def __init__(
        self, catalogue: Catalogue, run: int, device: int, refuse: Callable[[bytes], None]
    ) -> None:
        self._catalogue = catalogue
        self._refuse = refuse
        self._device = device
        self._run = run
        self._file_key = catalogue.keys.file_key
        self._sequence = max(catalogue.last_version(), catalogue.floor[1])
        self._waiting: deque[Due] = deque()

    def add(
        self,
        folder: bytes,
        name: bytes,
        found: os.stat_result,
        known: Known,
        xattrs: Mapping[bytes, bytes],
        content: list[Ref | Hole],
        link: bytes = b"",
    ) -> None:
        """A folder, file or link as it was found; `known` is what is to be noted of it."""
        need = 0
        for part in content:
            if isinstance(part, Ref) and part.block > need:
                need = part.block
        self._waiting.append(Due(folder, name, known, found, xattrs, content, link, need))

    def gone(self, folder: bytes, name: bytes) -> None:
        """A path that is there no longer."""
        self._waiting.append(Due(folder, name, GONE))

    @property
    def waiting(self) -> int:
        """How many paths wait for blocks."""
        return len(self._waiting)

    def release(self, packed: int) -> tuple[list[bytes], Batch]:
        """Entries due now that block `packed` has its place, and what to commit with them."""
        entries: list[bytes] = []
        batch = Batch()
        while self._waiting and self._waiting[0].need <= packed:
            self._release(self._waiting.popleft(), entries, batch)
        return entries, batch

    def _release(self, due: Due, entries: list[bytes], batch: Batch) -> None:
        folder, name, known = due[:3]
        fields = encode_node(self._node(due))
        if not known.version or self._catalogue.fields(known.version) != fields:
            sequence, path = self._sequence + 1, join(folder, name)
            entry = encode_entry(path, self._run, sequence, fields)
            if len(entry) > ENTRY_MAX:
                self._refuse(path)
                return
            self._sequence = sequence
            batch.versions.append(VersionRow(sequence, folder, name, self._run, known.kind, fields))
            known = Known(sequence, *known[1:])
            entries.append(entry)
        batch.paths.append((folder, name, known))

    def _node(self, due: Due) -> Node:
        found, known = due.found, due.known
        if found is None:
            return Node(EntryKind.GONE)
        kind, uid, gid = _KINDS[known.kind], found.st_uid, found.st_gid
        file_hash = b""
        content: Content = ()
        if kind == EntryKind.FILE:
            parts = [(p.id, p.length) if isinstance(p, Ref) else p.length for p in due.content]
            file_hash = hash_content(self._file_key, known.size, parts)
            content = _runs(due.content)
        return Node(
            kind,
            stat.S_IMODE(found.st_mode),
            storable_time(found.st_mtime_ns),
            uid,
            gid,
            *owner_names(uid, gid),
            known.size,
            file_hash,
            content,
            due.link,
            self._link_group(found) if kind != EntryKind.FOLDER else 0,
            due.xattrs,
        )

    def _link_group(self, found: os.stat_result) -> int:
        """What the names of one file have in common; 0 where it has but one."""
        if found.st_nlink == 1 or found.st_dev == self._device:
            return found.st_ino if found.st_nlink > 1 else 0
        # Within the source another disk is mounted, whose numbers begin anew.
        return int.from_bytes(blake3(b"%d %d" % (found.st_dev, found.st_ino)).digest(length=7))


def storable_time(nanoseconds: int) -> int:
    """A time within the years 1678 to 2262, which 64 bits of nanoseconds can hold."""
    if _TIME_MIN <= nanoseconds <= _TIME_MAX:
        return nanoseconds
    return _TIME_MIN if nanoseconds < 0 else _TIME_MAX


def _runs(content: Sequence[Ref | Hole]) -> Content:
    """Chunks that lie side by side in one object become one run."""
    runs: list[Run | Hole] = []
    object_id, first, end = b"", 0, 0
    for part in content:
        if isinstance(part, Ref) and part.ordinal == end and part.object_id == object_id:
            end += 1
            runs[-1] = Run(object_id, first, end - first)
        elif isinstance(part, Ref):
            object_id, first, end = part.object_id, part.ordinal, part.ordinal + 1
            runs.append(Run(object_id, first, 1))
        else:
            object_id = b""
            runs.append(part)
    return tuple(runs)
