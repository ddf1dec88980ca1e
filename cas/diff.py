"""What differs between two snapshots, or between one and the source as it is now."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from pyarchiver.cas.archiver import source_walker
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.compare import Comparison, kind_of
from pyarchiver.cas.ledger import storable_time
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import Known, VersionRow, join
from pyarchiver.cas.settings import settings_of
from pyarchiver.cas.walk import Folder
from pyarchiver.formats.entry import EntryKind, Node, decode_node


class Change(StrEnum):
    """What became of a path."""

    ADDED = "A"
    DELETED = "D"
    MODIFIED = "M"
    """Its content; in the source also what has another size or time, for nothing is read."""
    PROPERTIES = "P"
    """Mode, owner, times or extended attributes only."""
    TYPE = "T"
    """It was a file, and is a folder now, or the like."""


class Difference(NamedTuple):
    """A path that differs."""

    path: bytes
    change: Change


def between(catalogue: Catalogue, old: int, new: int) -> Iterator[Difference]:
    """What differs from snapshot `old` to `new`, by path; SettingsError where there is none."""
    for number in (old, new):
        catalogue.check_snapshot(number)
    left, right = catalogue.listing(old, deleted=False), catalogue.listing(new, deleted=False)
    before, after = next(left, None), next(right, None)
    while before or after:
        if after is None or (before and _place(before) < _place(after)):
            assert before
            yield Difference(before.path, Change.DELETED)
            before = next(left, None)
        elif before is None or _place(after) < _place(before):
            yield Difference(after.path, Change.ADDED)
            after = next(right, None)
        else:
            if before.fields != after.fields:
                change = _change(decode_node(before.fields), decode_node(after.fields))
                yield Difference(after.path, change)
            before, after = next(left, None), next(right, None)


def against_source(
    catalogue: Catalogue, snapshot: int | None, observer: Observer
) -> list[Difference]:
    """What differs from a snapshot (None: from all that is archived) to the source, by path.

    Nothing is read but folders. Raises SettingsError where there is no such snapshot, SourceError
    where there is no source.
    """
    if snapshot is not None:
        catalogue.check_snapshot(snapshot)
    return sorted(_SourceDiff(catalogue, snapshot, observer).run())


class _SourceDiff:
    def __init__(self, catalogue: Catalogue, snapshot: int | None, observer: Observer) -> None:
        settings = settings_of(catalogue)
        self._catalogue = catalogue
        self._unchanged = Comparison(settings).unchanged
        self._walker = source_walker(catalogue, settings, observer)
        catalogue.hold(snapshot)

    def run(self) -> Iterator[Difference]:
        root = self._walker.root_stat()
        yield from self._folder(Folder(b"", [(b"", root)]), only=b"")
        for folder in self._walker.folders():
            yield from self._folder(folder)

    def _folder(self, folder: Folder, only: bytes | None = None) -> Iterator[Difference]:
        held, known = self._catalogue.held(folder.path), self._catalogue.folder(folder.path)
        if only is None:
            held.pop(b"", None)
        else:
            held = {only: held[only]} if only in held else {}
        for name, found in folder.found:
            version, kind = held.pop(name, (0, 0))
            now = kind_of(found)
            path = join(folder.path, name)
            newest = known.get(name)
            if not version:
                if now:
                    yield Difference(path, Change.ADDED)
            elif now is None:
                yield Difference(path, Change.DELETED)
            elif not (newest and newest.version == version and self._unchanged(newest, found)):
                then = decode_node(self._catalogue.fields(version))
                change = self._look(path, then, newest, found)
                if change:
                    yield Difference(path, change)
            if kind == EntryKind.FOLDER and now != EntryKind.FOLDER:
                yield from self._gone_below(path)
        for name, (_, kind) in held.items():
            if name not in folder.hidden:
                path = join(folder.path, name)
                yield Difference(path, Change.DELETED)
                if kind == EntryKind.FOLDER:
                    yield from self._gone_below(path)

    def _gone_below(self, path: bytes) -> Iterator[Difference]:
        for below in self._catalogue.held_below(path):
            yield Difference(below, Change.DELETED)

    def _look(
        self, path: bytes, then: Node, newest: Known | None, found: os.stat_result
    ) -> Change | None:
        """What changed, as far as one can see without reading the file."""
        if then.kind != kind_of(found):
            return Change.TYPE
        mtime = storable_time(found.st_mtime_ns)
        if then.kind == EntryKind.FILE and (then.size, then.mtime) != (found.st_size, mtime):
            return Change.MODIFIED
        if then.kind == EntryKind.SYMLINK and then.link != self._link(path):
            return Change.MODIFIED
        seen = stat.S_IMODE(found.st_mode), mtime, found.st_uid, found.st_gid
        if (then.mode, then.mtime, then.uid, then.gid) != seen:
            return Change.PROPERTIES
        # Archived too soon after its last change to be sure; nothing has been done to it since.
        settled = newest and newest.ctime == storable_time(found.st_ctime_ns)
        return None if settled else Change.PROPERTIES

    def _link(self, path: bytes) -> bytes:
        try:
            return os.fsencode(Path(os.fsdecode(self._walker.root + b"/" + path)).readlink())
        except OSError:
            return b""


def _place(row: VersionRow) -> tuple[bytes, bytes]:
    return row.folder, row.name


def _change(then: Node, now: Node) -> Change:
    if then.kind != now.kind:
        return Change.TYPE
    if (then.size, then.file_hash, then.link) != (now.size, now.file_hash, now.link):
        return Change.MODIFIED
    return Change.PROPERTIES
