"""Decides what a restore writes: which states, where, and what to do with what is there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.plan import Needed, Piece, Plan
from pyarchiver.cas.progress import Observer, show
from pyarchiver.cas.rows import VersionRow
from pyarchiver.cas.select import Selection
from pyarchiver.cas.tree import PathError, Tree, check_path, part_name
from pyarchiver.formats.entry import EntryKind, Node, decode_node
from pyarchiver.formats.errors import FormatError


@dataclass(frozen=True, slots=True)
class Request:
    """What to restore. `snapshot` None: the latest state of every path ever archived.

    `privileges`: set-id bits and the attributes that give rights, too.
    """

    snapshot: int | None = None
    exact: bool = False
    paths: tuple[str, ...] = ()
    overwrite: bool = False
    privileges: bool = False


@dataclass(slots=True)
class RestoreResult:
    """What a restore did: files by what became of them, bytes written, objects read.

    `symlinks`: symbolic links among those restored.
    `waiting`: objects that are cold still, `waiting_size` their bytes, `ready` when about the first
    of them can be read, in seconds since 1970, None where nothing is known.
    """

    restored: int = 0
    symlinks: int = 0
    kept: int = 0
    differing: int = 0
    failed: int = 0
    written: int = 0
    read: int = 0
    objects: int = 0
    waiting: int = 0
    waiting_size: int = 0
    ready: float | None = None


@dataclass(slots=True)
class PlanResult:
    """What a restore would do. `deleted`: bytes of paths that are in the source no more;
    `deleted_shared`: those of them that other files of the plan have too.
    """

    files: int
    size: int
    needed: list[Needed] = field(default_factory=list)
    lost: int = 0
    deleted: int = 0
    deleted_shared: int = 0


def select(catalogue: Catalogue, request: Request) -> Selection:
    """The states that a request asks for.

    Raises SettingsError where there is no such snapshot, CatalogueError where it is deleted.
    """
    catalogue.refuse_deleted()
    return Selection(catalogue, request.snapshot, request.exact, request.paths)


def plan(catalogue: Catalogue, request: Request, observer: Observer) -> PlanResult:
    """What a restore into an empty folder would read and write; asks the storage nothing."""
    job = Planner(catalogue, request, observer)
    try:
        job.run(None)
        return PlanResult(
            job.files,
            job.plan.size,
            job.plan.needed(),
            job.result.failed,
            *job.plan.deleted(),
        )
    finally:
        job.plan.close()


def unmatched(text: str) -> str:
    """What to say of a path or pattern that selects nothing."""
    return f"nothing in the archive matches {text}: paths begin inside the source"


class Planner:
    """Decides what becomes of each state; fills the plan with the files to be written."""

    def __init__(self, catalogue: Catalogue, request: Request, observer: Observer) -> None:
        self._catalogue = catalogue
        self._request = request
        self._observer = observer
        self._tree: Tree | None = None
        self._selection = select(catalogue, request)
        self.plan = Plan(catalogue)
        self.result = RestoreResult()
        self.folders: dict[bytes, tuple[int, bool]] = {}
        self.symlinks: list[tuple[bytes, int]] = []
        self.hardlinks: list[tuple[bytes, bytes]] = []
        self.linkable: set[bytes] = set()
        self.replaced: set[bytes] = set()
        self._leaders: dict[tuple[int, bytes], bytes] = {}

    def run(self, tree: Tree | None) -> None:
        """Go through all states, and look at what is in the destination, if there is one."""
        self._tree = tree
        selection = self._selection
        self._observer.begin("planning", None, None)
        for path, row, selected in selection.states():
            if row.kind == EntryKind.FOLDER:
                self.folders[path] = (row.sequence, selected)
            elif selected:
                self._state(path, row)
        for text in sorted(selection.unmatched):
            self._observer.problem(unmatched(text))
        self.plan.index_pieces()

    @property
    def files(self) -> int:
        """Names of files to be written, several of one file included."""
        return self.plan.files + len(self.hardlinks)

    def _state(self, path: bytes, row: VersionRow) -> None:
        try:
            node = decode_node(row.fields)
            check_path(path)
            if node.hardlink and self._is_other_name(path, node, row.fields):
                return
            if node.kind == EntryKind.SYMLINK:
                self.symlinks.append((path, row.sequence))
            else:
                self._file(path, row, node)
        except (FormatError, PathError) as error:
            self.fail(path, str(error))

    def _is_other_name(self, path: bytes, node: Node, fields: bytes) -> bool:
        """Names of one file at one time have equal fields; inode numbers alone are used again."""
        leader = self._leaders.setdefault((node.hardlink, fields), path)
        if leader != path:
            self.hardlinks.append((path, leader))
        return leader != path

    def _file(self, path: bytes, row: VersionRow, node: Node) -> None:
        missing = self.plan.locate(node)
        if missing:
            self.fail(path, f"missing {', '.join(missing)}")
            return
        if self._tree is None:
            pieces = self.plan.pieces_of(node)
            self.plan.add(path, row.sequence, node, pieces, self._is_deleted(row))
        elif self._make_room(self._tree, path, node):
            self._add(self._tree, path, row, node)

    def _add(self, tree: Tree, path: bytes, row: VersionRow, node: Node) -> None:
        """Plan a file, but not the pieces that an earlier restore wrote."""
        pieces = self.plan.pieces_of(node)
        descriptor = tree.begun(part_name(path, row.sequence))
        if descriptor is None:
            self.plan.add(path, row.sequence, node, pieces)
            return
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            left = (each for each in pieces if not self._holds(file, *each))
            self.plan.add(path, row.sequence, node, left)

    def _is_deleted(self, row: VersionRow) -> bool:
        """Of a snapshot's paths none is: they were all there."""
        return self._selection.run is None and not self._catalogue.is_newest(row)

    def _holds(self, file: FileIO, row: int, piece: Piece) -> bool:
        chunk_map, key = self.plan.chunk_map(row), self._catalogue.keys.chunk_id
        file.seek(piece.offset)
        return all(
            key(file.read(chunk_map.size(ordinal))) == chunk_map.chunk_id(ordinal)
            for ordinal in range(piece.first, piece.first + piece.chunks)
        )

    def _make_room(self, tree: Tree, path: bytes, node: Node) -> bool:
        """Whether the file is to be written, after a look at what is there."""
        found = tree.found(path)
        if found is None:
            return True
        alike = stat.S_ISREG(found.st_mode) and found.st_size == node.size
        if alike and self._same_content(tree, path, node):
            tree.dress(path, node)
            self.good(path, node)
            self.result.kept += 1
            return False
        return self.may_replace(path, found)

    def _same_content(self, tree: Tree, path: bytes, node: Node) -> bool:
        try:
            descriptor = tree.open_existing(path)
        except OSError:
            return False
        key = self._catalogue.keys.chunk_id
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            for part in self.plan.chunks_of(node):
                if isinstance(part, int):
                    if not _all_zero(file.read, part):
                        return False
                elif key(file.read(part[1])) != part[0]:
                    return False
        return True

    def may_replace(self, path: bytes, found: os.stat_result) -> bool:
        """Whether what is at a path may go: only with --overwrite, and never a folder."""
        if self._request.overwrite and not stat.S_ISDIR(found.st_mode):
            self.replaced.add(path)
            return True
        hint = "" if stat.S_ISDIR(found.st_mode) else "; --overwrite replaces it"
        self.result.differing += 1
        self._observer.problem(f"{show(path)}: something else is there, left untouched{hint}")
        return False

    def good(self, path: bytes, node: Node) -> None:
        """A path holds what it should: other names of the file may be linked to it."""
        if node.hardlink:
            self.linkable.add(path)

    def fail(self, path: bytes, reason: str) -> None:
        """Report a path that cannot be restored."""
        self.result.failed += 1
        self._observer.problem(f"{show(path)}: not restored: {reason}")


def _all_zero(read: Callable[[int], bytes], length: int) -> bool:
    while length:
        data = read(min(length, 1 << 20))
        if not data or data.count(0) != len(data):
            return False
        length -= len(data)
    return True
