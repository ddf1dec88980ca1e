"""Whether a path in the source is as the catalogue knows it, without reading the file."""

from __future__ import annotations

import contextlib
import os
import stat

from pyarchiver.cas.ledger import storable_time
from pyarchiver.cas.rows import Known
from pyarchiver.cas.settings import Settings
from pyarchiver.formats.entry import EntryKind

_KINDS = {
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.FOLDER,
    stat.S_IFLNK: EntryKind.SYMLINK,
}
_INODE_MASK = (1 << 63) - 1


def kind_of(found: os.stat_result) -> EntryKind | None:
    """What stands there; None for a socket or device, which is not archived."""
    return _KINDS.get(stat.S_IFMT(found.st_mode))


def inode_of(found: os.stat_result) -> int:
    """The inode number, as the catalogue keeps it."""
    return found.st_ino & _INODE_MASK


class Comparison:
    """Unchanged = same kind, size, mtime, ctime and inode; `ignore` may leave out the last two."""

    def __init__(self, settings: Settings) -> None:
        self.ctime = "ctime" not in settings.ignore
        self._inode = "inode" not in settings.ignore

    def same_moment(self, before: os.stat_result, after: os.stat_result) -> bool:
        """Whether nothing was done to a file while it was read."""
        return (
            before.st_mtime_ns == after.st_mtime_ns
            and before.st_size == after.st_size
            and before.st_ino == after.st_ino
            # Who sets the mtime back, as tools for pictures do, changes the ctime.
            and (not self.ctime or before.st_ctime_ns == after.st_ctime_ns)
        )

    def unmounted(self, before: Known | None, found: os.stat_result, where: bytes) -> bool:
        """Whether the folder `where` is empty, and another than the one that was archived.

        So is the folder that a disk was mounted on, once it is not. A folder that was emptied is
        still the same.
        """
        if not self._inode or not before or before.kind != EntryKind.FOLDER:
            return False
        if not stat.S_ISDIR(found.st_mode) or before.inode == inode_of(found):
            return False
        with contextlib.suppress(OSError), os.scandir(where) as entries:
            return next(entries, None) is None
        return False

    def unchanged(self, before: Known | None, found: os.stat_result) -> bool:
        """Whether what was `found` need not be looked at again."""
        if before is None:
            return False
        # Here and below: a call for each file is spared where the plain values agree.
        time = found.st_mtime_ns
        if before.mtime != time and before.mtime != storable_time(time):
            return False
        mode = found.st_mode
        if stat.S_ISREG(mode):
            if before.kind != EntryKind.FILE or before.size != found.st_size:
                return False
        elif before.kind != kind_of(found):
            return False
        time = found.st_ctime_ns
        if self.ctime and before.ctime != time and before.ctime != storable_time(time):
            return False
        return not self._inode or before.inode == found.st_ino & _INODE_MASK
