"""The rows of the catalogue, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pyarchiver.formats.header import Kind

STAGED, STORED, DELETED, UNREAD = 0, 1, 2, 3
# Of a name, not of an object: what a cut put left under it is of no use.
ABANDONED = 4
# A modification time that no file has: what is known of it so is read again.
LOOK_AGAIN = -(1 << 63)
# A rebuilt catalogue keeps the branches of a forked log apart: the versions of those that are not
# followed have their sequence less a multiple of this, below all that are.
BRANCH, BRANCHES_MAX = 1 << 57, 32
# Stands for the run that is not begun: its state is the tree as it is now.
NOW = 1 << 61


class Known(NamedTuple):
    """The newest state of a path: its version, kind, and what the file system said."""

    version: int
    kind: int
    size: int
    mtime: int
    ctime: int
    inode: int


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object as the catalogue knows it."""

    id: int
    object_id: bytes
    name: str
    kind: int
    number: int
    run: int
    size: int
    blake3: bytes
    header: bytes
    state: int


class Remaining(NamedTuple):
    """One object that is not deleted."""

    id: int
    name: str
    size: int


class Expected(NamedTuple):
    """One object that should be in the storage, or is about to be; `checked`: see `checks`."""

    id: int
    name: str
    size: int
    state: int
    blake3: bytes
    checked: float


class ThawRow(NamedTuple):
    """A thaw that was asked for; times in seconds since 1970.

    `ready`: when about it can be read; `until`: how long, None where it is not known;
    `confirmed`: False from the intent until the storage has taken the request.
    """

    asked: float
    ready: float
    until: float | None
    confirmed: bool = True


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object whose spool file is durable, to be staged."""

    object_id: bytes
    name: str
    kind: Kind
    number: int
    run: int
    size: int
    blake3: bytes
    header: bytes
    indexes: tuple[bytes, ...] = ()


class VersionRow(NamedTuple):
    """One state of one path."""

    sequence: int
    folder: bytes
    name: bytes
    run: int
    kind: int
    fields: bytes

    @property
    def path(self) -> bytes:
        """The path from the source folder; empty for the source folder itself."""
        return join(self.folder, self.name)


@dataclass(slots=True)
class Batch:
    """Versions to record together, in order of their sequence, and the newest of each path."""

    versions: list[VersionRow] = field(default_factory=list)
    paths: list[tuple[bytes, bytes, Known]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.versions or self.paths)

    def extend(self, later: Batch) -> None:
        """Add what was released later."""
        self.versions += later.versions
        self.paths += later.paths


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log stands: last manifest and its BLAKE3, last version and object it covers."""

    number: int = 0
    hash: bytes = bytes(32)
    version: int = 0
    object: int = 0


def join(folder: bytes, name: bytes) -> bytes:
    """A path from its folder and its name."""
    return folder + b"/" + name if folder else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """(folder, name) of a path."""
    folder, _, name = path.rpartition(b"/")
    return folder, name
