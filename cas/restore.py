"""Restore: plan, then pack by pack, each needed block read once and written to all its places.

::

    select states -> look at what is there -> plan
    for each pack: read + open + decompress + verify (thread) -> write pieces -> name the file
    then links, folders' times, sync

Every chunk is verified before it is written. A file whose chunks do not all come is not made;
the reasons are reported together at the end.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.objects import Chunks, OpenObject, open_object, read_chunks
from pyarchiver.cas.plan import Located, Needed, Piece, Plan, Target
from pyarchiver.cas.progress import Observer, show
from pyarchiver.cas.select import Selection
from pyarchiver.cas.storage import Readable
from pyarchiver.cas.tree import PathError, Tree, check_path
from pyarchiver.formats.entry import EntryKind, Node, decode_node
from pyarchiver.formats.errors import DamagedError, FormatError, MissingError
from pyarchiver.formats.header import Header
from pyarchiver.formats.keys import ArchiveKeys, ReadKeys

# Blocks read ahead of the one being written: bounds memory, keeps both threads busy.
_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What to restore. `snapshot` None: the latest state of every path ever archived."""

    snapshot: int | None = None
    exact: bool = False
    paths: tuple[str, ...] = ()
    overwrite: bool = False


@dataclass(slots=True)
class RestoreResult:
    """What a restore did: files by what became of them, bytes written, objects read."""

    restored: int = 0
    kept: int = 0
    differing: int = 0
    failed: int = 0
    written: int = 0
    read: int = 0
    objects: int = 0


@dataclass(slots=True)
class PlanResult:
    """What a restore would do."""

    files: int
    size: int
    needed: list[Needed] = field(default_factory=list)
    lost: int = 0


def plan(catalogue: Catalogue, request: Request, observer: Observer) -> PlanResult:
    """What a restore into an empty folder would read and write; asks the storage nothing."""
    job = _Planner(catalogue, request, observer, None)
    try:
        job.run()
        return PlanResult(job.plan.files, job.plan.size, job.plan.needed(), job.result.failed)
    finally:
        job.plan.close()


def restore(
    catalogue: Catalogue,
    storage: Readable,
    keys: ReadKeys,
    destination: Path,
    request: Request,
    observer: Observer,
) -> RestoreResult:
    """Restore into `destination`, which mirrors the source folder.

    Raises DestinationError where nothing more can be written, StorageError where the storage is
    not there. Whatever else stands in the way of single files is reported to the observer.
    """
    tree = Tree(destination)
    job = _Planner(catalogue, request, observer, tree)
    try:
        job.run()
        return _Writer(catalogue, storage, keys, tree, job, observer).run()
    finally:
        job.plan.close()


class _Planner:
    """Decides what becomes of each state; fills the plan with the files to be written."""

    def __init__(
        self, catalogue: Catalogue, request: Request, observer: Observer, tree: Tree | None
    ) -> None:
        self._catalogue = catalogue
        self._request = request
        self._observer = observer
        self._tree = tree
        self.plan = Plan(catalogue)
        self.result = RestoreResult()
        self.folders: dict[bytes, tuple[int, bool]] = {}
        self.symlinks: list[tuple[bytes, int]] = []
        self.hardlinks: list[tuple[bytes, bytes]] = []
        self._leaders: dict[tuple[int, bytes], bytes] = {}

    def run(self) -> None:
        """Go through all states."""
        request = self._request
        selection = Selection(self._catalogue, request.snapshot, request.exact, request.paths)
        self._observer.begin("planning", None, None)
        for path, row, selected in selection.states():
            if row.kind == EntryKind.FOLDER:
                self.folders[path] = (row.sequence, selected)
            elif selected:
                self._state(path, row.sequence, row.fields)
        for text in sorted(selection.unmatched):
            self._observer.problem(f"nothing in the archive matches {text}")
        self.plan.index_pieces()

    def _state(self, path: bytes, version: int, fields: bytes) -> None:
        try:
            node = decode_node(fields)
            check_path(path)
            if node.hardlink and self._is_other_name(path, node):
                return
            if node.kind == EntryKind.SYMLINK:
                self.symlinks.append((path, version))
            else:
                self._file(path, version, node)
        except (FormatError, PathError) as error:
            self.fail(path, str(error))

    def _is_other_name(self, path: bytes, node: Node) -> bool:
        group = (node.hardlink, node.file_hash or node.link)
        leader = self._leaders.setdefault(group, path)
        if leader != path:
            self.hardlinks.append((path, leader))
        return leader != path

    def _file(self, path: bytes, version: int, node: Node) -> None:
        located = self.plan.locate(node)
        if located.missing:
            self.fail(path, f"missing {', '.join(located.missing)}")
            return
        if self._tree is not None and not self._make_room(self._tree, path, node, located):
            return
        self.plan.add(path, version, node, located)

    def _make_room(self, tree: Tree, path: bytes, node: Node, located: Located) -> bool:
        """Whether the file is to be written, after a look at what is there."""
        found = tree.found(path)
        if found is None:
            return True
        alike = stat.S_ISREG(found.st_mode) and found.st_size == node.size
        if alike and _same_content(tree, path, located, self._catalogue.keys):
            tree.dress(path, node)
            self.result.kept += 1
            return False
        return self.may_replace(tree, path, found)

    def may_replace(self, tree: Tree, path: bytes, found: os.stat_result) -> bool:
        """Whether what is at a path may go: only with --overwrite, and never a folder."""
        if self._request.overwrite and not stat.S_ISDIR(found.st_mode):
            tree.remove(path)
            return True
        hint = "" if stat.S_ISDIR(found.st_mode) else "; --overwrite replaces it"
        self.result.differing += 1
        self._observer.problem(f"{show(path)}: something else is there, left untouched{hint}")
        return False

    def fail(self, path: bytes, reason: str) -> None:
        """Report a path that cannot be restored."""
        self.result.failed += 1
        self._observer.problem(f"{show(path)}: not restored: {reason}")


def _same_content(tree: Tree, path: bytes, located: Located, keys: ArchiveKeys) -> bool:
    try:
        descriptor = tree.open_existing(path)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        for part in located.chunks:
            if isinstance(part, int):
                if not _all_zero(file.read, part):
                    return False
            elif keys.chunk_id(file.read(part[1])) != part[0]:
                return False
    return True


def _all_zero(read: Callable[[int], bytes], length: int) -> bool:
    while length:
        data = read(min(length, 1 << 20))
        if not data or data.count(0) != len(data):
            return False
        length -= len(data)
    return True


class _Writer:
    """Carries a plan out."""

    def __init__(
        self,
        catalogue: Catalogue,
        storage: Readable,
        keys: ReadKeys,
        tree: Tree,
        planned: _Planner,
        observer: Observer,
    ) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._keys = keys
        self._tree = tree
        self._planned = planned
        self._plan = planned.plan
        self._result = planned.result
        self._observer = observer
        self._remaining: dict[int, int] = {}
        self._failures: dict[int, list[str]] = {}

    def run(self) -> RestoreResult:
        """Files, then links, then folders."""
        self._observer.begin("restoring", self._plan.files, self._plan.size)
        for target in self._plan.without_pieces():
            with self._reporting(target.path):
                self._write_empty(target)
        for needed in self._plan.needed():
            self._object(needed)
        for number, reasons in self._failures.items():
            self._give_up(self._plan.target(number), reasons)
        for path, version in self._planned.symlinks:
            self._symlink(path, version)
        for path, leader in self._planned.hardlinks:
            self._hardlink(path, leader)
        self._folders()
        self._tree.sync()
        return self._result

    # Packs

    def _object(self, needed: Needed) -> None:
        name = needed.row.name
        try:
            found = open_object(self._storage, name, self._unlock)
            if found is None or found.header.object_id != needed.row.object_id:
                raise DamagedError("another object is there under its name")
        except (MissingError, FormatError) as error:
            reason = f"missing {name}" if isinstance(error, MissingError) else f"{name}: {error}"
            for _, pieces in self._plan.blocks(needed.row.id):
                for piece in pieces:
                    self._fail(piece.target, reason)
            return
        for notice in found.notices:
            self._observer.notice(f"object {name}: {notice}")
        self._result.objects += 1
        self._result.read += needed.read
        for pieces, chunks in self._read_ahead(found, needed.row.id):
            self._block(name, pieces, chunks)

    def _unlock(self, header: Header) -> ReadKeys:
        if header.archive_id != self._keys.archive_id:
            raise DamagedError("it belongs to another archive")
        return self._keys

    def _read_ahead(self, found: OpenObject, row: int) -> Iterator[tuple[list[Piece], Chunks]]:
        chunk_map = self._plan.chunk_map(row)
        under_way: deque[tuple[list[Piece], Future[Chunks]]] = deque()
        with ThreadPoolExecutor(1, "reader") as pool:
            for block, pieces in self._plan.blocks(row):
                wanted = {
                    ordinal
                    for piece in pieces
                    for ordinal in range(piece.first, piece.first + piece.chunks)
                }
                under_way.append(
                    (pieces, pool.submit(read_chunks, found, chunk_map, block, wanted))
                )
                if len(under_way) > _AHEAD:
                    ready, chunks = under_way.popleft()
                    yield ready, chunks.result()
            while under_way:
                ready, chunks = under_way.popleft()
                yield ready, chunks.result()

    def _block(self, name: str, pieces: list[Piece], chunks: Chunks) -> None:
        for piece in pieces:
            ordinals = range(piece.first, piece.first + piece.chunks)
            bad = next((chunks.bad[o] for o in ordinals if o in chunks.bad), None)
            if bad is not None:
                self._fail(piece.target, f"damaged {name}: {bad}")
                continue
            start = chunks.starts[piece.first - chunks.first]
            end = chunks.starts[piece.first - chunks.first + piece.chunks]
            data = chunks.data[start:end]
            self._piece(piece, data)

    def _piece(self, piece: Piece, data: memoryview) -> None:
        if piece.target in self._failures:
            return
        target = self._plan.target(piece.target)
        try:
            if target.pieces == 1 and len(data) == target.size:
                node = self._node(target.version)
                self._done(target, self._tree.write_whole(target.path, data, node))
                return
            if target.id not in self._remaining:
                self._remaining[target.id] = target.pieces
                self._tree.begin_part(target.path, target.id, target.size)
            self._tree.write_piece(target.path, target.id, piece.offset, data)
            self._observer.advance(read=len(data))
            self._remaining[target.id] -= 1
            if not self._remaining[target.id]:
                del self._remaining[target.id]
                node = self._node(target.version)
                self._done(target, self._tree.finish_part(target.path, target.id, node), 0)
        except PathError as error:
            self._fail(piece.target, str(error))

    def _write_empty(self, target: Target) -> None:
        node = self._node(target.version)
        if not target.size:
            self._done(target, self._tree.write_whole(target.path, memoryview(b""), node))
            return
        self._tree.begin_part(target.path, target.id, target.size)
        self._done(target, self._tree.finish_part(target.path, target.id, node))

    def _done(self, target: Target, refused: list[bytes], read: int | None = None) -> None:
        self._result.restored += 1
        self._result.written += target.size
        self._observer.advance(files=1, read=target.size if read is None else read)
        self._report_refused(target.path, refused)

    def _report_refused(self, path: bytes, refused: list[bytes]) -> None:
        if refused:
            names = ", ".join(show(name) for name in refused)
            self._observer.notice(f"{show(path)}: attributes not allowed here: {names}")

    def _fail(self, target: int, reason: str) -> None:
        reasons = self._failures.setdefault(target, [])
        if reason not in reasons:
            reasons.append(reason)

    def _give_up(self, target: Target, reasons: list[str]) -> None:
        if target.id in self._remaining:
            with self._reporting(target.path):
                self._tree.drop_part(target.path, target.id)
        self._planned.fail(target.path, "; ".join(reasons))

    def _node(self, version: int) -> Node:
        return decode_node(self._catalogue.fields(version))

    @contextmanager
    def _reporting(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except PathError as error:
            self._planned.fail(path, str(error))

    # Links and folders

    def _symlink(self, path: bytes, version: int) -> None:
        node = self._node(version)
        with self._reporting(path):
            found = self._tree.found(path)
            if found is not None:
                if stat.S_ISLNK(found.st_mode) and self._tree.link_target(path) == node.link:
                    self._result.kept += 1
                    return
                if not self._planned.may_replace(self._tree, path, found):
                    return
            self._report_refused(path, self._tree.make_symlink(path, node))
            self._result.restored += 1

    def _hardlink(self, path: bytes, leader: bytes) -> None:
        with self._reporting(path):
            original, found = self._tree.found(leader), self._tree.found(path)
            if original is None:
                raise PathError(f"its other name {show(leader)} was not restored")
            if found is not None:
                if (found.st_dev, found.st_ino) == (original.st_dev, original.st_ino):
                    self._result.kept += 1
                    return
                if not self._planned.may_replace(self._tree, path, found):
                    return
            self._tree.make_hardlink(path, leader)
            self._result.restored += 1
            self._observer.advance(files=1)

    def _folders(self) -> None:
        """Folders that were asked for and those above restored files; times last, inner first."""
        folders = self._planned.folders
        for path, (_, selected) in folders.items():
            if selected and path:
                with self._reporting(path):
                    self._tree.make_folder(path)
        for path in sorted(folders, key=lambda path: path.count(b"/"), reverse=True):
            version, selected = folders[path]
            if (selected or self._tree.made(path)) and path:
                with self._reporting(path):
                    self._report_refused(path, self._tree.dress(path, self._node(version)))
        if b"" in folders:
            with self._reporting(b""):
                self._tree.dress(b"", self._node(folders[b""][0]))
