"""Restore: plan, then pack by pack, each needed block read once and written to all its places.

::

    select states -> look at what is there -> plan                                  (planner)
    for each pack, as it thaws (thaw):
        read + open + decompress + verify (thread) -> write pieces -> name the file
    then links, folders' times, sync

Every chunk is verified before it is written. A file whose chunks do not all come is not made;
the reasons are reported together at the end.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pyarchiver.cas.attributes import privileges
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.objects import Chunks, OpenObject, open_object, read_chunks
from pyarchiver.cas.plan import Needed, Piece, Target
from pyarchiver.cas.planner import Planner, Request, RestoreResult
from pyarchiver.cas.progress import Observer, show
from pyarchiver.cas.storage import Readable, reason
from pyarchiver.cas.thaw import Thawing
from pyarchiver.cas.tree import PathError, Tree, part_name
from pyarchiver.formats.entry import Node, decode_node
from pyarchiver.formats.errors import (
    ColdError,
    DamagedError,
    FormatError,
    MissingError,
    StorageError,
)
from pyarchiver.formats.header import Header
from pyarchiver.formats.keys import ReadKeys

Approve = Callable[[list[Needed]], None]
Pieces = Iterator[tuple[Piece, Target]]
# Blocks read ahead of the one being written: bounds memory, keeps both threads busy.
_AHEAD = 3


def restore(
    catalogue: Catalogue,
    storage: Readable,
    keys: ReadKeys,
    destination: Path,
    request: Request,
    observer: Observer,
    thawing: Thawing[Needed] | None = None,
    approve: Approve | None = None,
) -> RestoreResult:
    """Restore into `destination`, which mirrors the source folder.

    With `thawing`, cold objects are asked for, and what is not readable yet is counted as
    waiting: the same call goes on later, with the files begun and the thaws paid for. `approve`
    is given all that will be read, before the storage is asked for anything; it may raise.

    Raises DestinationError where nothing more can be written, StorageError where the storage is
    not there, CostError where the thaw would cost too much. Whatever else stands in the way of
    single files is reported to the observer.
    """
    job = Planner(catalogue, request, observer)
    tree = Tree(destination, _parts_name(catalogue), request.privileges)
    try:
        job.run(tree)
        return _Writer(catalogue, storage, keys, tree, job, observer, thawing).run(approve)
    finally:
        # What was thawed was paid for: it is not thrown away because a restore was interrupted.
        if thawing is None:
            tree.drop_parts()
        job.plan.close()


def _parts_name(catalogue: Catalogue) -> bytes:
    """Always the same, and no path in the archive: an interrupted restore may be archived too."""
    name = b".pyarchiver-parts-" + catalogue.keys.archive_id[:8].hex().encode()
    while catalogue.has_path(name):
        name += b"~"
    return name


class _Writer:
    """Carries a plan out."""

    def __init__(
        self,
        catalogue: Catalogue,
        storage: Readable,
        keys: ReadKeys,
        tree: Tree,
        planned: Planner,
        observer: Observer,
        thawing: Thawing[Needed] | None,
    ) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._keys = keys
        self._tree = tree
        self._planned = planned
        self._plan = planned.plan
        self._result = planned.result
        self._observer = observer
        self._thawing = thawing
        self._remaining: dict[int, int] = {}
        self._failures: dict[int, list[str]] = {}

    def run(self, approve: Approve | None) -> RestoreResult:
        """Files, then links, then folders."""
        needed = self._plan.needed()
        if approve:
            approve(needed)
        self._observer.begin("restoring", self._planned.files, self._plan.size)
        for target in self._plan.without_pieces():
            with self._reporting(target.path):
                self._write_empty(target)
        if self._thawing is None:
            self._all_objects(needed)
        else:
            self._as_they_thaw(self._thawing, needed)
        for number, reasons in self._failures.items():
            self._give_up(self._plan.target(number), reasons)
        if not self._result.waiting:
            self._links_and_folders()
        self._tree.sync()
        return self._result

    def _links_and_folders(self) -> None:
        for path, version in self._planned.symlinks:
            self._symlink(path, version)
        for path, leader in self._planned.hardlinks:
            self._hardlink(path, leader)
        self._tree.drop_parts()
        self._folders()

    # Packs

    def _all_objects(self, objects: list[Needed]) -> None:
        for needed in objects:
            try:
                self._object(needed)
            except ColdError as error:
                self._fail_object(needed, f"{needed.row.name}: {reason(needed.row.name, error)}")

    def _as_they_thaw(self, thawing: Thawing[Needed], needed: list[Needed]) -> None:
        thawing.add(needed)
        thawing.each(self._object)
        self._result.waiting, self._result.waiting_size, self._result.ready = thawing.waiting()

    def _object(self, needed: Needed) -> None:
        name = needed.row.name
        try:
            found = open_object(self._storage, name, self._unlock, needed.row.size)
            if found is None or found.header.object_id != needed.row.object_id:
                raise DamagedError("another object is there under its name")
        except ColdError:
            raise
        except MissingError:
            self._fail_object(needed, f"missing {name}")
            return
        except (StorageError, FormatError) as error:
            self._fail_object(needed, f"{name}: {reason(name, error)}")
            return
        for notice in found.notices:
            self._observer.notice(f"object {name}: {notice}")
        self._result.objects += 1
        self._result.read += needed.read
        for block, chunks in self._read_ahead(found, needed.row.id):
            self._block(name, self._plan.pieces(needed.row.id, block), chunks)
            self._plan.done(needed.row.id, block)

    def _fail_object(self, needed: Needed, reason: str) -> None:
        for block in self._plan.blocks(needed.row.id):
            for _, target in self._plan.pieces(needed.row.id, block):
                self._fail(target, reason)

    def _unlock(self, header: Header) -> ReadKeys:
        if header.archive_id != self._keys.archive_id:
            raise DamagedError("it belongs to another archive")
        return self._keys

    def _read_ahead(self, found: OpenObject, row: int) -> Iterator[tuple[int, Chunks]]:
        chunk_map = self._plan.chunk_map(row)
        under_way: deque[tuple[int, Future[Chunks]]] = deque()
        with ThreadPoolExecutor(1, "reader") as pool:
            for block in self._plan.blocks(row):
                wanted = {
                    ordinal
                    for piece, _ in self._plan.pieces(row, block)
                    for ordinal in range(piece.first, piece.first + piece.chunks)
                }
                under_way.append((block, pool.submit(read_chunks, found, chunk_map, block, wanted)))
                if len(under_way) > _AHEAD:
                    ready, chunks = under_way.popleft()
                    yield ready, chunks.result()
            while under_way:
                ready, chunks = under_way.popleft()
                yield ready, chunks.result()

    def _block(self, name: str, pieces: Pieces, chunks: Chunks) -> None:
        for piece, target in pieces:
            if chunks.bad:
                ordinals = range(piece.first, piece.first + piece.chunks)
                bad = next((chunks.bad[o] for o in ordinals if o in chunks.bad), None)
                if bad is not None:
                    self._fail(target, f"damaged {name}: {bad}")
                    continue
            start = chunks.starts[piece.first - chunks.first]
            end = chunks.starts[piece.first - chunks.first + piece.chunks]
            data = chunks.data[start:end]
            self._piece(piece, target, data)

    def _piece(self, piece: Piece, target: Target, data: memoryview) -> None:
        if target.id in self._failures:
            return
        try:
            replace = target.path in self._planned.replaced
            if target.pieces == 1 and len(data) == target.size and not replace:
                node = self._node(target.version, target.path)
                self._done(target, node, self._tree.write_whole(target.path, data, node))
                return
            part = part_name(target.path, target.version)
            if target.id not in self._remaining:
                self._remaining[target.id] = target.pieces
                self._tree.begin_part(part, target.size)
            self._tree.write_piece(part, piece.offset, data)
            self._observer.advance(read=len(data))
            self._remaining[target.id] -= 1
            if not self._remaining[target.id]:
                del self._remaining[target.id]
                node = self._node(target.version, target.path)
                refused = self._tree.finish_part(target.path, part, node, replace)
                self._done(target, node, refused, 0)
        except PathError as error:
            self._fail(target, str(error))

    def _write_empty(self, target: Target) -> None:
        node = self._node(target.version, target.path)
        replace = target.path in self._planned.replaced
        if not target.size and not replace:
            self._done(target, node, self._tree.write_whole(target.path, memoryview(b""), node))
            return
        part = part_name(target.path, target.version)
        self._tree.begin_part(part, target.size)
        refused = self._tree.finish_part(target.path, part, node, replace)
        self._done(target, node, refused)

    def _done(
        self, target: Target, node: Node, refused: list[bytes], read: int | None = None
    ) -> None:
        self._planned.good(target.path, node)
        self._result.restored += 1
        self._result.written += target.size
        self._observer.advance(files=1, read=target.size if read is None else read)
        self._report_refused(target.path, refused)

    def _report_refused(self, path: bytes, refused: list[bytes]) -> None:
        if refused:
            names = ", ".join(show(name) for name in refused)
            self._observer.notice(f"{show(path)}: attributes not allowed here: {names}")

    def _fail(self, target: Target, reason: str) -> None:
        reasons = self._failures.setdefault(target.id, [])
        if reason not in reasons:
            reasons.append(reason)

    def _give_up(self, target: Target, reasons: list[str]) -> None:
        with self._reporting(target.path):
            self._tree.drop_part(part_name(target.path, target.version))
        self._planned.fail(target.path, "; ".join(reasons))

    def _node(self, version: int, path: bytes) -> Node:
        """A version's node; says what of it is not restored, because it was not asked for."""
        node = decode_node(self._catalogue.fields(version))
        if not self._tree.privileges and (withheld := privileges(node)):
            names = ", ".join(show(name) for name in withheld)
            self._observer.notice(f"{show(path)}: left off: {names}; --privileges restores them")
        return node

    @contextmanager
    def _reporting(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except (FormatError, PathError) as error:
            self._planned.fail(path, str(error))

    # Links and folders

    def _symlink(self, path: bytes, version: int) -> None:
        node = self._node(version, path)
        with self._reporting(path):
            found = self._tree.found(path)
            if found is not None:
                if stat.S_ISLNK(found.st_mode) and self._tree.link_target(path) == node.link:
                    self._tree.dress(path, node)
                    self._planned.good(path, node)
                    self._result.kept += 1
                    return
                if not self._planned.may_replace(path, found):
                    return
            self._report_refused(path, self._tree.make_symlink(path, node, found is not None))
            self._planned.good(path, node)
            self._result.restored += 1
            self._result.symlinks += 1

    def _hardlink(self, path: bytes, leader: bytes) -> None:
        with self._reporting(path):
            original, found = self._tree.found(leader), self._tree.found(path)
            if original is None or leader not in self._planned.linkable:
                raise PathError(f"its other name {show(leader)} was not restored")
            if found is not None:
                if (found.st_dev, found.st_ino) == (original.st_dev, original.st_ino):
                    self._result.kept += 1
                    return
                if not self._planned.may_replace(path, found):
                    return
            self._tree.make_hardlink(path, leader, found is not None)
            self._result.restored += 1
            self._observer.advance(files=1)

    def _folders(self) -> None:
        """Folders that were asked for, or made on the way; times last, inner folders first."""
        wanted = []
        for path, (version, selected) in self._planned.folders.items():
            with self._reporting(path):
                if selected:
                    self._tree.make_folder(path)
                if selected or path in self._tree.made:
                    wanted.append((path, version))
        for path, version in sorted(wanted, key=_depth, reverse=True):
            with self._reporting(path):
                self._report_refused(path, self._tree.dress(path, self._node(version, path)))


def _depth(folder: tuple[bytes, int]) -> int:
    path = folder[0]
    return path.count(b"/") + 1 if path else 0
