"""The ledger: turns what was read into entries, in order, once their chunks have a place."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from pyarchiver.cas.attributes import owner_names
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.intake import Ref
from pyarchiver.cas.rows import Batch, Known, VersionRow, join
from pyarchiver.formats.entry import (
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


@dataclass(slots=True)
class Waiting:
    """A path whose entry is due once block `need` is packed."""

    folder: bytes
    name: bytes
    known: Known
    node: Node
    content: list[Ref | Hole]
    need: int


class Ledger:
    """Collects finished paths and releases their entries after the blocks they need.

    An entry equal to the path's newest one is no new version: only what the file system said of
    the path is noted, so that the next run need not read the file again.
    """

    def __init__(self, catalogue: Catalogue, run: int) -> None:
        self._catalogue = catalogue
        self._run = run
        self._file_key = catalogue.keys.file_key
        self._sequence = catalogue.last_version()
        self._waiting: deque[Waiting] = deque()

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
        user, group = owner_names(found.st_uid, found.st_gid)
        node = Node(
            EntryKind(known.kind),
            stat.S_IMODE(found.st_mode),
            storable_time(found.st_mtime_ns),
            found.st_uid,
            found.st_gid,
            user,
            group,
            size=known.size,
            link=link,
            hardlink=found.st_ino if found.st_nlink > 1 and not _is_folder(found) else 0,
            xattrs=xattrs,
        )
        need = 0
        for part in content:
            if isinstance(part, Ref) and part.block > need:
                need = part.block
        self._waiting.append(Waiting(folder, name, known, node, content, need))

    def gone(self, folder: bytes, name: bytes) -> None:
        """A path that is there no longer."""
        self._waiting.append(Waiting(folder, name, GONE, Node(EntryKind.GONE), [], 0))

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

    def _release(self, due: Waiting, entries: list[bytes], batch: Batch) -> None:
        node = due.node
        if node.kind == EntryKind.FILE:
            parts = [(p.id, p.length) if isinstance(p, Ref) else p.length for p in due.content]
            file_hash = hash_content(self._file_key, node.size, parts)
            node = node._replace(file_hash=file_hash, content=_runs(due.content))
        fields = encode_node(node)
        known = due.known
        if not known.version or self._catalogue.fields(known.version) != fields:
            self._sequence += 1
            batch.versions.append(
                VersionRow(self._sequence, due.folder, due.name, self._run, int(node.kind), fields)
            )
            known = known._replace(version=self._sequence)
            path = join(due.folder, due.name)
            entries.append(encode_entry(path, self._run, self._sequence, fields))
        batch.paths.append((due.folder, due.name, known))


def storable_time(nanoseconds: int) -> int:
    """A time within the years 1678 to 2262, which 64 bits of nanoseconds can hold."""
    return max(1 - (1 << 63), min(nanoseconds, (1 << 63) - 1))


def _runs(content: list[Ref | Hole]) -> Content:
    """Chunks that lie side by side in one object become one run."""
    runs: list[Run | Hole] = []
    for part in content:
        if isinstance(part, Hole):
            runs.append(part)
            continue
        last = runs[-1] if runs else None
        if (
            isinstance(last, Run)
            and last.object_id == part.object_id
            and last.first + last.count == part.ordinal
        ):
            runs[-1] = Run(last.object_id, last.first, last.count + 1)
        else:
            runs.append(Run(part.object_id, part.ordinal, 1))
    return tuple(runs)


def _is_folder(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode)
