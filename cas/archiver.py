"""One run: what is in the source and not in the archive gets into it.

::

    walk -> compare with catalogue -> intake (read, cut, hash) -> packer -> courier -> storage
                                          `-> ledger (entries) -'
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pyarchiver.cas.attributes import read_xattrs
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.compare import Comparison, inode_of, kind_of
from pyarchiver.cas.courier import Courier
from pyarchiver.cas.intake import FileChanged, Intake, Ref
from pyarchiver.cas.kit import send_kit
from pyarchiver.cas.ledger import Ledger, storable_time
from pyarchiver.cas.log import Log
from pyarchiver.cas.order import SMALL, NewFile, Waiting
from pyarchiver.cas.packer import Packer
from pyarchiver.cas.pagecache import forget, is_cached
from pyarchiver.cas.progress import Observer, Quiet, show
from pyarchiver.cas.rows import LOOK_AGAIN, Known, join
from pyarchiver.cas.settings import Settings, settings_of
from pyarchiver.cas.storage import Storage, open_storage
from pyarchiver.cas.survey import survey
from pyarchiver.cas.walk import Folder, Walker
from pyarchiver.formats.entry import EntryKind, Hole
from pyarchiver.formats.errors import SourceError, StorageError
from pyarchiver.formats.records import RunComplete

# A file modified this recently may be modified again within the same timestamp.
_RACY_NS = 2_000_000_000
_READ_ATTEMPTS = 3
_TELL_EVERY = 1 << 20
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did. `snapshot` is 0 and `head` empty only if there never was one."""

    snapshot: int
    head: str
    new: bool
    changed: int
    gone: int
    read: int
    stored: int
    objects: int
    files: int
    size: int


def resume(
    catalogue: Catalogue, observer: Observer, *, rehash: bool = False, allow_empty: bool = False
) -> RunResult:
    """Complete an interrupted run of the archive, and add what is new or changed.

    Raises SourceError, StorageError or CatalogueError, the last also for an old copy of the
    .archive; what was committed until then stays, and the next call goes on from there.
    """
    catalogue.refuse_deleted()
    settings = settings_of(catalogue)
    with closing(open_storage(settings, tell=observer.notice)) as storage:
        storage.check()
        survey(catalogue, storage, observer)
        with _Run(catalogue, storage, settings, observer, rehash, allow_empty) as run:
            return run.execute()


class _Run:
    """The state of one run."""

    def __init__(
        self,
        catalogue: Catalogue,
        storage: Storage,
        settings: Settings,
        observer: Observer,
        rehash: bool,
        allow_empty: bool,
    ) -> None:
        self._catalogue = catalogue
        self._observer = observer
        self._settings = settings
        self._rehash = rehash
        self._allow_empty = allow_empty
        self._unmounted: set[bytes] = set()
        self._comparison = Comparison(settings)
        self._unchanged = self._comparison.unchanged
        self._walker = source_walker(catalogue, settings, observer)
        self._root = self._walker.root_stat()
        spool = storage.spool or _spool(catalogue, settings)
        self._courier = Courier(catalogue, storage, spool, observer)
        self._number = catalogue.begin_run(time.time_ns())
        self._ledger = Ledger(catalogue, self._number, self._root.st_dev, self._refuse)
        self._log = Log(catalogue, self._courier, settings.suite, self._number)
        self._packer = Packer(
            catalogue, self._courier, self._ledger, settings, self._number,
            self._on_staged, self._log.write,
        )  # fmt: skip
        self._any_chunks = catalogue.has_chunks()
        self._intake = Intake(
            catalogue.keys, settings.chunk_size, self._find, self._packer.take,
            self._packer.add_block, self._on_read,
        )  # fmt: skip
        self._waiting = Waiting()
        self._changed = self._gone = self._read = 0
        self._told = 0, 0

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._packer.close()
        self._log.close()
        self._courier.close()

    def execute(self) -> RunResult:
        """The whole run."""
        self._courier.resend()
        self._check_not_empty()
        self._begin()
        for folder in self._walker.folders():
            self._folder(folder)
            if self._waiting.full:
                self._small_files()
            self._tell()
            self._packer.settle()
        self._small_files()
        self._intake.flush()
        self._packer.finish()
        return self._complete()

    def _check_not_empty(self) -> None:
        root = next(self._walker.folders(), None)
        empty = root is not None and not root.found and not root.hidden
        if empty and not self._allow_empty and self._catalogue.totals()[0]:
            raise SourceError(
                f"source {os.fsdecode(self._walker.root)} is empty and the archive is not: is it "
                "mounted? --allow-empty records all of it as deleted"
            )

    def _begin(self) -> None:
        files = size = None
        if self._observer.wants_total:
            self._observer.begin("scanning", None, None)
            files, size = self._survey()
        self._observer.begin("archiving", files, size)

    def _survey(self) -> tuple[int, int]:
        """(files, bytes) that the run will read: a walk of its own, for the sake of an ETA."""
        files = size = 0
        for folder in source_walker(self._catalogue, self._settings, Quiet()).folders():
            known = self._catalogue.folder(folder.path)
            for name, found in folder.found:
                if stat.S_ISREG(found.st_mode) and not self._unchanged(known.get(name), found):
                    files += 1
                    size += found.st_size
        return files, size

    def _complete(self) -> RunResult:
        files, size = self._catalogue.totals()
        new = self._log.pending() or self._catalogue.sent_in(self._number)
        if self._settings.kit and not self._catalogue.last_snapshot():
            send_kit(self._catalogue, self._courier, self._number)
        if new:
            began = self._catalogue.began(self._number)
            self._log.write(RunComplete(self._number, began, time.time_ns(), files, size))
        self._courier.collect(limit=0)
        if not new:
            self._catalogue.abandon_run(self._number)
        head = self._catalogue.head
        return RunResult(
            self._catalogue.last_snapshot(), head.hash.hex(), new, self._changed, self._gone,
            self._read, self._courier.stored, self._courier.objects, files, size,
        )  # fmt: skip

    # One folder, one file

    def _folder(self, folder: Folder) -> None:
        if folder.path in self._unmounted:
            return
        known = self._catalogue.folder(folder.path)
        if not folder.path:
            self._root_folder(known)
        racy = time.time_ns() - _RACY_NS
        for name, found in folder.found:
            before = known.pop(name, None)
            if self._unchanged(before, found) and not self._rehash:
                continue
            kind = kind_of(found)
            path = join(folder.path, name)
            if kind is None:
                self._observer.notice(f"{show(path)}: a socket or device; left out")
                if before and before.kind != EntryKind.GONE:
                    self._mark_gone(folder.path, name, before)
                continue
            if kind == EntryKind.FILE:
                file = NewFile(folder.path, name, found, before, racy)
                if found.st_size <= SMALL:
                    self._waiting.add(file)
                else:
                    self._file(*file)
            elif not self._is_unmounted(path, found, before):
                self._other(folder.path, name, found, before, racy, kind)
            if before and before.kind == EntryKind.FOLDER and kind != EntryKind.FOLDER:
                self._gone_below(path)
        for name, before in known.items():
            if name not in folder.hidden and before.kind != EntryKind.GONE and name:
                self._mark_gone(folder.path, name, before)

    def _is_unmounted(self, path: bytes, found: os.stat_result, before: Known | None) -> bool:
        """Whether a folder is left as it was, because it seems to be without its disk."""
        suspected = (
            not self._allow_empty
            and self._comparison.unmounted(before, found, self._where(path))
            and next(self._catalogue.below(path), None) is not None
        )
        if suspected:
            self._unmounted.add(path)
            self._observer.problem(
                f"folder {show(path)}: empty, and not the folder that was archived: is its disk "
                "mounted? left as it was; --allow-empty records all in it as deleted"
            )
        return suspected

    def _small_files(self) -> None:
        for file in self._waiting.drain():
            self._file(*file)

    def _root_folder(self, known: dict[bytes, Known]) -> None:
        before = known.pop(b"", None)
        if not self._unchanged(before, self._root):
            racy = time.time_ns() - _RACY_NS
            self._other(b"", b"", self._root, before, racy, EntryKind.FOLDER)

    def _known(
        self, found: os.stat_result, before: Known | None, racy: int, kind: EntryKind
    ) -> Known:
        version = before.version if before else 0
        settled = (found.st_ctime_ns if self._comparison.ctime else found.st_mtime_ns) < racy
        mtime = storable_time(found.st_mtime_ns) if settled else LOOK_AGAIN
        ctime = storable_time(found.st_ctime_ns)
        size = found.st_size if kind == EntryKind.FILE else 0
        return Known(version, int(kind), size, mtime, ctime, inode_of(found))

    def _other(
        self, folder: bytes, name: bytes, found: os.stat_result, before: Known | None,
        racy: int, kind: EntryKind,
    ) -> None:  # fmt: skip
        where = self._where(join(folder, name))
        link = b""
        if kind == EntryKind.SYMLINK:
            try:
                link = os.readlink(where)
            except OSError as error:
                self._observer.problem(f"{show(join(folder, name))}: {error.strerror}; left out")
                return
        known = self._known(found, before, racy, kind)
        self._ledger.add(folder, name, found, known, read_xattrs(where), [], link)

    def _file(
        self, folder: bytes, name: bytes, found: os.stat_result, before: Known | None, racy: int
    ) -> None:
        path = join(folder, name)
        where = self._where(path)
        seen: os.stat_result | None = found
        for _ in range(_READ_ATTEMPTS):
            try:
                found, xattrs, content = self._read_file(where, seen)
            except FileNotFoundError:
                if before and before.kind != EntryKind.GONE:
                    self._mark_gone(folder, name, before)
                return
            except FileChanged:
                seen = None
                continue
            except OSError as error:
                self._observer.problem(f"{show(path)}: {error.strerror}; left as it was")
                return
            known = self._known(found, before, racy, EntryKind.FILE)
            self._ledger.add(folder, name, found, known, xattrs, content)
            if found.st_mtime_ns != storable_time(found.st_mtime_ns):
                self._observer.notice(f"{show(path)}: its time is beyond the year 2262")
            self._changed += 1
            return
        self._observer.problem(f"{show(path)}: it changes while being read; left for the next run")

    def _read_file(
        self, where: bytes, seen: os.stat_result | None
    ) -> tuple[os.stat_result, Mapping[bytes, bytes], list[Ref | Hole]]:
        """Read a file that is as it was `seen` when its folder was listed, or as it is now."""
        descriptor = os.open(where, _OPEN_FLAGS)
        try:
            found = seen or os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise FileChanged
            passing = found.st_size > SMALL and not is_cached(descriptor)
            content = self._intake.read(descriptor, found)
            if passing:
                forget(descriptor)
            xattrs = read_xattrs(descriptor)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not self._comparison.same_moment(found, after):
            raise FileChanged
        return found, xattrs, content

    def _refuse(self, path: bytes) -> None:
        self._changed -= 1
        self._observer.problem(f"{show(path)}: in too many pieces to be described; left as it was")

    def _mark_gone(self, folder: bytes, name: bytes, before: Known) -> None:
        self._ledger.gone(folder, name)
        self._gone += 1
        if before.kind == EntryKind.FOLDER:
            self._gone_below(join(folder, name))

    def _gone_below(self, path: bytes) -> None:
        for folder, name in self._catalogue.below(path):
            self._ledger.gone(folder, name)
            self._gone += 1

    def _where(self, path: bytes) -> bytes:
        return self._walker.root + b"/" + path if path else self._walker.root

    # What the others ask and tell

    def _on_read(self, size: int) -> None:
        self._read += size
        if self._read - self._told[1] >= _TELL_EVERY:
            self._tell()

    def _tell(self) -> None:
        files, read = self._told
        self._observer.advance(files=self._changed - files, read=self._read - read)
        self._told = self._changed, self._read

    def _find(self, chunk_id: bytes) -> tuple[bytes, int] | None:
        return self._catalogue.find_chunk(chunk_id) if self._any_chunks else None

    def _on_staged(self, ids: list[bytes]) -> None:
        self._any_chunks = True
        self._intake.forget(ids)


def source_walker(catalogue: Catalogue, settings: Settings, observer: Observer) -> Walker:
    """A walker that leaves out the archive's own files, should they be in the source."""
    archive = catalogue.path.resolve()
    own = {archive.with_name(archive.name + end) for end in ("", "-wal", "-shm", ".lock", ".new")}
    return Walker(
        settings.source, settings.exclude, own | {spool_folder(catalogue, settings)}, observer
    )


def spool_folder(catalogue: Catalogue, settings: Settings) -> Path:
    """Where packs wait that cannot be built in the storage."""
    return (settings.spool or catalogue.path.with_suffix(".spool")).resolve()


def _spool(catalogue: Catalogue, settings: Settings) -> Path:
    folder = spool_folder(catalogue, settings)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"spool folder {folder}: {error.strerror}") from None
    return folder
