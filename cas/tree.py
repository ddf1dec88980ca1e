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
from pathlib import Path

from pyarchiver.cas.attributes import owner_ids, write_xattrs
from pyarchiver.cas.durable import sync_folder
from pyarchiver.cas.progress import show
from pyarchiver.formats.entry import EntryKind, Node
from pyarchiver.formats.errors import DestinationError

_CREATE = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


_WRITE = os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_PARTS = re.compile(rb"\.pyarchiver-parts-[0-9a-f]{16}")


class PathError(Exception):
    """This one path cannot be restored; the others can."""


def check_path(path: bytes) -> None:
    """Refuse a path that is not plainly below the destination; PathError says why."""
    for part in path.split(b"/"):
        if part in (b"", b".", b"..") or b"\0" in part:
            raise PathError("its name would lead out of the destination")
        if os.name == "nt" and (b"\\" in part or b":" in part):
            raise PathError("its name is not possible on this system")


def _prefixes(path: bytes) -> Iterator[bytes]:
    """The folders on the way to a path, and itself, from the outermost in."""
    at = path.find(b"/")
    while at >= 0:
        yield path[:at]
        at = path.find(b"/", at + 1)
    if path:
        yield path


class Tree:
    """The destination folder. `made` holds the folders that were not there before.

    Files that come in pieces grow in a folder of their own at the top, so that no archived file
    can have their names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = os.fsencode(folder.absolute())
        self._parts = self._root + b"/.pyarchiver-parts-" + os.urandom(8).hex().encode()
        self._parts_made = False
        self._checked: set[bytes] = set()
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
        with self._errors():
            for folder in _prefixes(path):
                if folder in self._checked:
                    continue
                try:
                    self._check_folder(folder)
                except FileNotFoundError:
                    os.mkdir(self._root + b"/" + folder, 0o700)
                    self._checked.add(folder)
                    self.made.add(folder)

    def found(self, path: bytes) -> os.stat_result | None:
        """What is at a path now, links not followed; None where nothing is."""
        check_path(path)
        with self._errors():
            try:
                self._check_above(path)
                return os.lstat(self._root + b"/" + path)
            except FileNotFoundError:
                return None

    def _check_above(self, path: bytes) -> None:
        for folder in _prefixes(path.rpartition(b"/")[0]):
            if folder not in self._checked:
                self._check_folder(folder)

    def _check_folder(self, folder: bytes) -> None:
        if not stat.S_ISDIR(os.lstat(self._root + b"/" + folder).st_mode):
            raise PathError(f"{show(folder)} is in the way and is no folder")
        self._checked.add(folder)

    def link_target(self, path: bytes) -> bytes:
        """What a symbolic link that is there points to."""
        with self._errors():
            return os.readlink(self._root + b"/" + path)

    def open_existing(self, path: bytes) -> int:
        """A descriptor to read what is there already."""
        return os.open(self._root + b"/" + path, _READ)

    def write_whole(self, path: bytes, data: memoryview, node: Node) -> list[bytes]:
        """Make a file whose bytes are all here and verified; returns refused xattr names."""
        where = self.where(path)
        with self._errors():
            descriptor = os.open(where, _CREATE, 0o600)
            try:
                _write_all(descriptor, data, 0)
                return self._dress(descriptor, node)
            except BaseException:
                # Half a file under its own name would be taken for somebody else's next time.
                os.unlink(where)
                raise
            finally:
                os.close(descriptor)

    def begin_part(self, target: int, size: int) -> None:
        """Make the temporary file of a target that comes in pieces."""
        with self._errors():
            if not self._parts_made:
                self._remove_leftovers()
                os.mkdir(self._parts, 0o700)
                self._parts_made = True
            descriptor = os.open(self._part(target), _CREATE, 0o600)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)

    def write_piece(self, target: int, offset: int, data: memoryview) -> None:
        """Write verified bytes at `offset` of a target's temporary file."""
        with self._errors():
            descriptor = os.open(self._part(target), _WRITE)
            try:
                _write_all(descriptor, data, offset)
            finally:
                os.close(descriptor)

    def finish_part(self, path: bytes, target: int, node: Node, replace: bool) -> list[bytes]:
        """Give a complete temporary file its attributes and its name."""
        where, part = self.where(path), self._part(target)
        with self._errors():
            descriptor = os.open(part, _WRITE)
            try:
                refused = self._dress(descriptor, node)
            finally:
                os.close(descriptor)
            if not replace and os.path.lexists(where):
                raise PathError("something else is there now")
            os.replace(part, where)
        return refused

    def drop_part(self, target: int) -> None:
        """Remove the temporary file of a target that cannot be completed."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            os.unlink(self._part(target))

    def drop_parts(self) -> None:
        """Remove the folder of temporary files, and what an interrupted restore left in it."""
        if self._parts_made:
            self._remove_parts(self._parts)
            self._parts_made = False

    def _part(self, target: int) -> bytes:
        return self._parts + f"/{target}".encode()

    def _remove_leftovers(self) -> None:
        """Temporary files of a restore that was killed; anything else of such a name stays."""
        for name in os.listdir(self._root):
            folder = self._root + b"/" + name
            if _PARTS.fullmatch(name) and not os.path.islink(folder):
                self._remove_parts(folder)

    def _remove_parts(self, folder: bytes) -> None:
        with contextlib.suppress(OSError):
            for part in os.listdir(folder):
                if part.isdigit():
                    os.unlink(folder + b"/" + part)
            os.rmdir(folder)

    def make_symlink(self, path: bytes, node: Node, replace: bool) -> list[bytes]:
        """Make a symbolic link; what it points to is of no concern."""
        where = self.where(path)
        with self._errors():
            if replace:
                os.unlink(where)
            os.symlink(node.link, where)
            return self.dress(path, node)

    def make_hardlink(self, path: bytes, leader: bytes, replace: bool) -> None:
        """Make another name of a file restored before."""
        where = self.where(path)
        with self._errors():
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
        with self._errors():
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
        if self._owner:
            uid, gid = owner_ids(node.uid, node.gid, node.user, node.group)
            os.chown(where, uid, gid, follow_symlinks=False)
        refused = write_xattrs(where, node.xattrs)
        if os.utime in os.supports_follow_symlinks:
            os.utime(where, ns=(node.mtime, node.mtime), follow_symlinks=False)
        return refused

    def _dress(self, target: int | bytes, node: Node) -> list[bytes]:
        if self._owner:
            uid, gid = owner_ids(node.uid, node.gid, node.user, node.group)
            os.chown(target, uid, gid)
        refused = write_xattrs(target, node.xattrs)
        # After chown, which clears the set-id bits; those only with the owner they were for.
        os.chmod(target, node.mode if self._owner else node.mode & 0o1777)
        os.utime(target, ns=(node.mtime, node.mtime))
        return refused

    def sync(self) -> None:
        """Make all that was restored durable."""
        with self._errors():
            if hasattr(os, "sync"):
                os.sync()
            sync_folder(self.folder)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FATAL:
                raise DestinationError(f"destination {self.folder}: {error.strerror}") from None
            raise PathError(error.strerror) from None
        except ValueError as error:
            raise PathError(f"impossible name or attribute ({error})") from None


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    while data:
        data = data[os.write(descriptor, data) :]
