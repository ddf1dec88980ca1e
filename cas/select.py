"""Which states of which paths to restore, and under which names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.rows import NOW, VersionRow, join, split
from pyarchiver.cas.walk import path_matcher
from pyarchiver.formats.entry import EntryKind
from pyarchiver.formats.errors import SettingsError

_WILD = frozenset("*?[")


class Selection:
    """The states to restore: a snapshot, or the latest of all there ever was; PATHs select."""

    def __init__(
        self, catalogue: Catalogue, snapshot: int | None, exact: bool, paths: tuple[str, ...]
    ) -> None:
        self._catalogue = catalogue
        self.run = snapshot
        if exact and snapshot is None:
            self.run = NOW
        elif snapshot is not None:
            catalogue.check_snapshot(snapshot)
        self._matchers = [(path, _matcher(path)) for path in paths]
        self.unmatched = set(paths)

    def states(self) -> Iterator[tuple[bytes, VersionRow, bool]]:
        """(path to restore to, state, selected); folders are named even if not selected.

        Where a path was a folder and something else too, the newer keeps the name and the
        older becomes `name~N`, N the run that archived it.
        """
        if self.run is not None:
            for row in self._catalogue.state(self.run):
                yield row.path, row, self.selected(row.path)
            return
        renamed = self._renamed()
        for row in self._catalogue.latest():
            path = row.path
            selected = self.selected(path)
            if renamed:
                path = _rename(path, row.kind == EntryKind.FOLDER, renamed)
            yield path, row, selected

    def selected(self, path: bytes) -> bool:
        """Whether the PATHs name it, or what it is in."""
        if not self._matchers:
            return True
        found = False
        for text, matches in self._matchers:
            if matches(path):
                self.unmatched.discard(text)
                found = True
        return found

    def _renamed(self) -> dict[tuple[bytes, bool], bytes]:
        """(path, is a folder) of the older state of each path that was both -> its new name."""
        renamed = {}
        for older in self._catalogue.replaced_kinds():
            is_folder = older.kind == EntryKind.FOLDER
            renamed[older.path, is_folder] = self._free(older.path, older.run)
        for row, below in self._catalogue.implied_folders():
            older, is_folder = min((row, False), (below, True))
            renamed[row.path, is_folder] = self._free(row.path, older.run)
        return renamed

    def _free(self, path: bytes, run: int) -> bytes:
        """The name of the older of two kinds, which no other path has."""
        name = path + f"~{run}".encode()
        while self._catalogue.has_path(name):
            name += b"~"
        return name


def _rename(path: bytes, is_folder: bool, renamed: dict[tuple[bytes, bool], bytes]) -> bytes:
    folder, name = split(renamed.get((path, is_folder), path))
    return join(_rename(folder, True, renamed), name) if folder else name


def _matcher(text: str) -> Callable[[bytes], bool]:
    if not text:
        raise SettingsError("a PATH is empty: leave it out to select everything")
    plain = os.fsencode(text).strip(b"/").removeprefix(b"./")
    if plain in (b"", b"."):
        return lambda path: True
    below = plain + b"/"

    def named(path: bytes) -> bool:
        return path == plain or path.startswith(below)

    if not _WILD & set(text):
        return named
    matches = path_matcher([text], f"pattern {text!r}")
    return lambda path: named(path) or matches(path)
