"""Writes into the destination, and never outside it.

Every folder on the way is looked at without following links before anything is made in it, and
files are made with O_EXCL and O_NOFOLLOW, so that neither a link that was there nor a hostile
manifest leads elsewhere. Links are made last, by the caller.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from pyarchiver.cas.attributes import (
    drop_acls,
    owner_ids,
    passes_on_acls,
    without_privileges,
    write_xattrs,
)
from pyarchiver.cas.durable import sync_below
from pyarchiver.cas.progress import show
from pyarchiver.formats.entry import EntryKind, Node
from pyarchiver.formats.errors import DestinationError

_CREATE = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FATAL = (*_FULL, errno.EROFS, errno.EIO)


_WRITE = os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_PART = re.compile(rb"[0-9a-f]{32}")
_WINDOWS = os.name == "nt"
# Separators and streams; names of devices; what Windows strips, so that two names would be one.
_NOT_ON_WINDOWS = re.compile(
    rb"[\\:]|[. ]$"
    rb"|^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)([0-9]|\xc2[\xb9\xb2\xb3]))\s*(\.|$)",
    re.IGNORECASE,
)


class PathError(Exception):
    """This one path cannot be restored; the others can."""


def check_path(path: bytes) -> None:
    """Refuse a path that is not plainly below the destination; PathError says why."""
    marked = b"/" + path + b"/"
    if b"//" in marked or b"/./" in marked or b"/../" in marked or b"\0" in path:
        raise PathError("its name would lead out of the destination")
    if _WINDOWS and any(map(_NOT_ON_WINDOWS.search, path.split(b"/"))):
        raise PathError("its name is not possible on this system")


def _prefixes(path: bytes) -> Iterator[bytes]:
    """The folders on the way to a path, and itself, from the outermost in."""
    at = path.find(b"/")
    while at >= 0:
        yield path[:at]
        at = path.find(b"/", at + 1)
    if path:
        yield path


class _Errors:
    """Turns the system's errors into ours. A class: it is entered several times for each file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            if error.errno in _FATAL:
                hint = "; free some, then run again" if error.errno in _FULL else ""
                raise DestinationError(
                    f"destination {self._folder}: {error.strerror}{hint}"
                ) from None
            raise PathError(error.strerror) from None
        if isinstance(error, ValueError):
            raise PathError(f"impossible name or attribute ({error})") from None


def part_name(path: bytes, version: int) -> bytes:
    """What the temporary file of a version of a path is called, in every restore of the archive."""
    return blake2b(path + b"\0%d" % version, digest_size=16).hexdigest().encode()


class Tree:
    """The destination folder. `made` holds the folders that were not there before.

    Files that come in pieces grow in the folder `parts` at the top, one for each archive, in which
    the next restore finds them again. Set-id bits and the like are set with `privileges` only: a
    forged manifest could make a program of root's.
    """

    def __init__(self, folder: Path, parts: bytes, privileges: bool) -> None:
        self.folder = folder
        self.privileges = privileges
        self._root = os.fsencode(folder.absolute())
        self._parts = self._root + b"/" + parts
        self._parts_made = False
        self._begun: set[bytes] = set()
        self._checked: set[bytes] = set()
        self._absent: set[bytes] = set()
        self.made: set[bytes] = set()
        self._owner = hasattr(os, "geteuid") and os.geteuid() == 0
        try:
            if not folder.exists():
                self.made.add(b"")
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise DestinationError(f"destination {folder} is a file, not a folder") from None
        except OSError as error:
            raise DestinationError(f"destination {folder}: {error.strerror}") from None
        if not os.access(folder, os.W_OK):
            raise DestinationError(f"destination {folder} cannot be written to")
        self._inherits = passes_on_acls(self._root)
        self._errors = _Errors(folder)
        self._parts_there = os.path.isdir(self._parts)

    def where(self, path: bytes) -> bytes:
        """The absolute path of a restored one, its folders known to be real folders."""
        check_path(path)
        self.make_folder(path.rpartition(b"/")[0])
        return self._root + b"/" + path

    def make_folder(self, path: bytes) -> None:
        """Make a folder and those above it; PathError where something else is in the way."""
        if not path or path in self._checked:
            return
        check_path(path)
        with self._errors:
            for folder in _prefixes(path):
                if folder in self._checked:
                    continue
                try:
                    self._check_folder(folder)
                except FileNotFoundError:
                    os.mkdir(self._root + b"/" + folder, 0o700)
                    self._absent.discard(folder)
                    self._checked.add(folder)
                    self.made.add(folder)

    def found(self, path: bytes) -> os.stat_result | None:
        """What is at a path now, links not followed; None where nothing is."""
        check_path(path)
        above = path.rpartition(b"/")[0]
        if above in self._absent:
            return None
        with self._errors:
            try:
                self._check_above(path)
                return os.lstat(self._root + b"/" + path)
            except FileNotFoundError:
                if above and above not in self._checked:
                    self._absent.add(above)
                return None

    def _check_above(self, path: bytes) -> None:
        above = path.rpartition(b"/")[0]
        if above in self._checked:
            return
        for folder in _prefixes(above):
            if folder not in self._checked:
                self._check_folder(folder)

    def _check_folder(self, folder: bytes) -> None:
        if not stat.S_ISDIR(os.lstat(self._root + b"/" + folder).st_mode):
            raise PathError(f"{show(folder)} is in the way and is no folder")
        self._checked.add(folder)
        self._inherits = self._inherits or passes_on_acls(self._root + b"/" + folder)

    def link_target(self, path: bytes) -> bytes:
        """What a symbolic link that is there points to."""
        with self._errors:
            return os.readlink(self._root + b"/" + path)

    def open_existing(self, path: bytes) -> int:
        """A descriptor to read what is there already."""
        return os.open(self._root + b"/" + path, _READ)

    def write_whole(self, path: bytes, data: memoryview, node: Node) -> list[bytes]:
        """Make a file whose bytes are all here and verified; returns refused xattr names."""
        where = self.where(path)
        with self._errors:
            descriptor = os.open(where, _CREATE, 0o600)
            try:
                _write_all(descriptor, data)
                return self._dress(descriptor, node)
            except BaseException:
                # Half a file under its own name would be taken for somebody else's next time.
                os.unlink(where)
                raise
            finally:
                os.close(descriptor)

    def begin_part(self, part: bytes, size: int) -> None:
        """Make the temporary file of a target that comes in pieces, or go on with it."""
        with self._errors:
            if not self._parts_made:
                self._make_parts()
            flags = (_CREATE & ~os.O_EXCL) if part in self._begun else _CREATE
            descriptor = os.open(self._part(part), flags, 0o600)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)

    def begun(self, part: bytes) -> int | None:
        """A descriptor to read what an earlier restore wrote of a target; None where nothing."""
        if not self._parts_there:
            return None
        try:
            descriptor = os.open(self._part(part), _READ)
        except OSError:
            return None
        found = os.fstat(descriptor)
        # The name can be foretold: a stranger may have put a link there to what is not ours.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(descriptor)
            return None
        self._begun.add(part)
        return descriptor

    def write_piece(self, part: bytes, offset: int, data: memoryview) -> None:
        """Write verified bytes at `offset` of a temporary file."""
        with self._errors:
            descriptor = os.open(self._part(part), _WRITE)
            try:
                os.lseek(descriptor, offset, os.SEEK_SET)
                _write_all(descriptor, data)
            finally:
                os.close(descriptor)

    def finish_part(self, path: bytes, part: bytes, node: Node, replace: bool) -> list[bytes]:
        """Give a complete temporary file its attributes and its name."""
        where, temporary = self.where(path), self._part(part)
        with self._errors:
            descriptor = os.open(temporary, _WRITE)
            try:
                refused = self._dress(descriptor, node)
            finally:
                os.close(descriptor)
            if not replace and os.path.lexists(where):
                raise PathError("something else is there now")
            os.replace(temporary, where)
        return refused

    def drop_part(self, part: bytes) -> None:
        """Remove the temporary file of a target that cannot be completed."""
        with self._errors, contextlib.suppress(FileNotFoundError):
            os.unlink(self._part(part))

    def drop_parts(self) -> None:
        """Remove the temporary files, those of an interrupted restore too."""
        self._parts_made = False
        if os.path.islink(self._parts):
            return
        with contextlib.suppress(OSError):
            for part in os.listdir(self._parts):
                if _PART.fullmatch(part):
                    os.unlink(self._part(part))
            os.rmdir(self._parts)

    def _make_parts(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._parts, 0o700)
        if not stat.S_ISDIR(os.lstat(self._parts).st_mode):
            raise PathError(f"{show(os.path.basename(self._parts))} is in the way, no folder")
        self._parts_made = True

    def _part(self, part: bytes) -> bytes:
        return self._parts + b"/" + part

    def make_symlink(self, path: bytes, node: Node, replace: bool) -> list[bytes]:
        """Make a symbolic link; what it points to is of no concern."""
        where = self.where(path)
        with self._errors:
            if replace:
                os.unlink(where)
            os.symlink(node.link, where)
            return self.dress(path, node)

    def make_hardlink(self, path: bytes, leader: bytes, replace: bool) -> None:
        """Make another name of a file restored before."""
        where = self.where(path)
        with self._errors:
            self._check_above(leader)
            if replace:
                os.unlink(where)
            os.link(self._root + b"/" + leader, where, follow_symlinks=False)

    def dress(self, path: bytes, node: Node) -> list[bytes]:
        """Set owner, mode, xattrs and times of what is at a path; returns refused xattr names.

        Folders and files are opened without following links, so that nothing outside changes.
        """
        if path:
            check_path(path)
        where = self._root + b"/" + path if path else self._root
        with self._errors:
            self._check_above(path)
            if node.kind == EntryKind.SYMLINK:
                return self._dress_symlink(where, node)
            flags = _READ | (getattr(os, "O_DIRECTORY", 0) if node.kind == EntryKind.FOLDER else 0)
            if os.name == "nt":
                return self._dress(where, node)
            # The destination itself may be a link: the user named it.
            descriptor = os.open(where, flags if path else flags & ~os.O_NOFOLLOW)
            try:
                return self._dress(descriptor, node)
            finally:
                os.close(descriptor)

    def _dress_symlink(self, where: bytes, node: Node) -> list[bytes]:
        node = node if self.privileges else without_privileges(node)
        if self._owner:
            uid, gid = owner_ids(node.uid, node.gid, node.user, node.group)
            os.chown(where, uid, gid, follow_symlinks=False)
        refused = write_xattrs(where, node.xattrs)
        if os.utime in os.supports_follow_symlinks:
            os.utime(where, ns=(node.mtime, node.mtime), follow_symlinks=False)
        return refused

    def _dress(self, target: int | bytes, node: Node) -> list[bytes]:
        node = node if self.privileges else without_privileges(node)
        if self._owner:
            uid, gid = owner_ids(node.uid, node.gid, node.user, node.group)
            os.chown(target, uid, gid)
        if self._inherits:
            drop_acls(target, node.xattrs)
        refused = write_xattrs(target, node.xattrs)
        # After chown, which clears the set-id bits; those only with the owner they were for.
        os.chmod(target, node.mode if self._owner else node.mode & 0o1777)
        os.utime(target, ns=(node.mtime, node.mtime))
        return refused

    def sync(self) -> None:
        """Make all that was restored durable."""
        with self._errors:
            sync_below(self.folder)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
