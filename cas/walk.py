"""Walks the source folder by folder, in an order that stays the same from run to run."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarchiver.cas.progress import Observer, show
from pyarchiver.cas.rows import join
from pyarchiver.formats.errors import SettingsError, SourceError

Found = tuple[bytes, os.stat_result]
# What os.fsencode does, looked up once rather than for each file.
_NAMES = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


@dataclass(frozen=True, slots=True)
class Folder:
    """What stands in one folder. `hidden`: names that are there and could not be looked at."""

    path: bytes
    found: list[Found]
    hidden: frozenset[bytes] = frozenset()


class Walker:
    """Lists the source. `skip` holds absolute paths that are never archived (the .archive)."""

    def __init__(
        self, source: Path, exclude: tuple[str, ...], skip: set[Path], observer: Observer
    ) -> None:
        self.root = os.fsencode(source)
        self._skip = {(os.fsencode(path.parent), os.fsencode(path.name)) for path in skip}
        self._observer = observer
        self._excluded = _matcher(exclude)

    def root_stat(self) -> os.stat_result:
        """The source folder itself; SourceError where it cannot be read."""
        try:
            found = os.stat(self.root)
            os.scandir(self.root).close()
        except OSError as error:
            raise SourceError(f"source {os.fsdecode(self.root)}: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode):
            raise SourceError(f"source {os.fsdecode(self.root)} is not a folder")
        return found

    def folders(self) -> Iterator[Folder]:
        """Each folder that can be read, parents before what is in them."""
        pending = [b""]
        while pending:
            path = pending.pop()
            folder = self._list(path)
            if folder is None:
                continue
            yield folder
            prefix = path + b"/" if path else b""
            below = [prefix + name for name, st in folder.found if stat.S_ISDIR(st.st_mode)]
            pending += reversed(below)

    def _list(self, path: bytes) -> Folder | None:
        found: list[Found] = []
        hidden: set[bytes] = set()
        where = self.root + b"/" + path if path else self.root
        skip = {name for folder, name in self._skip if folder == where}
        try:
            # Through a descriptor: looking at each file by its whole path takes twice as long.
            descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        name = entry.name.encode(*_NAMES)
                        if name in skip:
                            continue
                        try:
                            found.append((name, entry.stat(follow_symlinks=False)))
                        except FileNotFoundError:
                            continue
                        except OSError as error:
                            hidden.add(name)
                            shown = show(join(path, name))
                            self._observer.problem(f"{shown}: {error.strerror}; left as it was")
            finally:
                os.close(descriptor)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and path:
                return Folder(path, [])
            self._observer.problem(f"folder {show(path)}: {error.strerror}; left as it was")
            return None
        if self._excluded:
            prefix = path + b"/" if path else b""
            found = [item for item in found if not self._excluded(prefix, item)]
        # Files of one suffix side by side: like compresses with like (sidecars, sources).
        found.sort(key=_order)
        return Folder(path, found, frozenset(hidden))


def _order(item: Found) -> tuple[bytes, bytes]:
    name = item[0]
    dot = name.rfind(b".")
    return (name[dot:].lower() if dot > 0 else b"", name)


def _matcher(patterns: tuple[str, ...]) -> Callable[[bytes, Found], bool] | None:
    if not patterns:
        return None
    matches = path_matcher(patterns, "setting 'exclude'")

    def excluded(prefix: bytes, item: Found) -> bool:
        path = prefix + item[0]
        return matches(path + b"/" if stat.S_ISDIR(item[1].st_mode) else path)

    return excluded


def path_matcher(patterns: Iterable[str], where: str) -> Callable[[bytes], bool]:
    """Whether a path (a folder's ends with a slash) matches gitignore patterns.

    Raises SettingsError, naming `where` they stand, for patterns that are none.
    """
    import pathspec  # takes longer than all the rest here, and few archives leave anything out

    try:
        spec = pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
    # A pattern's end would match before a newline too.
    return lambda path: spec.match_file(os.fsdecode(path).replace("\n", "\0"))
