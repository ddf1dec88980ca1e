"""Deletes an archive: the objects that its catalogue lists, and their files in the spool.

::

    intent committed -> each object: storage.delete -> DELETED committed -> spool cleared -> done

Ended at any moment, the next call goes on; at most one object is then gone and not yet DELETED.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pyarchiver.cas.archiver import spool_folder
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cas.cost import Fee, early_deletion
from pyarchiver.cas.durable import sync_folder
from pyarchiver.cas.objectfile import spool_file
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import Remaining
from pyarchiver.cas.settings import settings_of
from pyarchiver.cas.storage import PART, Storage, open_storage
from pyarchiver.cas.units import count_text
from pyarchiver.formats.errors import MissingError, StorageError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import parse_name, tag_of


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Objects and bytes that this call recorded as deleted; `missing` of them were gone before."""

    objects: int = 0
    size: int = 0
    missing: int = 0


def delete(catalogue: Catalogue, observer: Observer) -> DeleteResult:
    """Delete all objects of the archive; of an archive that is deleted, nothing.

    Raises StorageError where the storage is gone, read-only or not the right one, and
    CatalogueError; what was deleted until then is recorded, and the next call goes on.
    """
    if catalogue.deleted:
        return DeleteResult()
    settings = settings_of(catalogue)
    with closing(open_storage(settings, tell=observer.notice)) as storage:
        storage.check()
        job = _Deletion(catalogue, storage, storage.spool or spool_folder(catalogue, settings))
        job.survey(observer)
        storage.prepare()
        catalogue.begin_deletion()
        return job.run(observer)


def fee(catalogue: Catalogue) -> Fee:
    """What is charged for what is deleted before its minimum time."""
    return early_deletion(catalogue, settings_of(catalogue).profile, SystemClock().now())


class _Deletion:
    """The objects that remain, and where each is."""

    def __init__(self, catalogue: Catalogue, storage: Storage, spool: Path) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._spool = spool
        self._tag = tag_of(catalogue.keys.archive_id)
        self._remaining = catalogue.remaining()
        self._there: set[str] = set()
        # A catalogue that was made again from manifests lists no kit.
        self._kits: list[str] = []

    def survey(self, observer: Observer) -> None:
        """See what is there: a disk that is not mounted must not pass for one that is empty."""
        names = {row.name for row in self._remaining}
        abandoned = set(self._catalogue.abandoned())
        unlisted: list[str] = []
        for stored in self._storage.list():
            name = parse_name(stored.name)
            if stored.name in names:
                self._there.add(stored.name)
            elif name and name.tag == self._tag and stored.name not in abandoned:
                (self._kits if name.kind == Kind.KIT else unlisted).append(stored.name)
        # One may be gone and not yet recorded, where an earlier call was ended.
        doubtful = len(names) > 1 or (names and not self._catalogue.being_deleted)
        if doubtful and not any(map(self._exists, self._remaining)):
            raise StorageError(
                f"none of {count_text(len(names), 'object')} is in the storage "
                f"{self._catalogue.url}: is its disk mounted? nothing was deleted; if they are "
                f"gone for good, remove {self._catalogue.path} itself"
            )
        if unlisted:
            observer.notice(
                f"left in the storage, not in the catalogue: {count_text(len(unlisted), 'object')} "
                f"of this archive, such as {min(unlisted)}"
            )

    def run(self, observer: Observer) -> DeleteResult:
        """Delete what remains."""
        size = sum(row.size for row in self._remaining)
        observer.begin("deleting", len(self._remaining), size)
        missing = 0
        for row in self._remaining:
            missing += not self._exists(row)
            self._delete(row.name)
            self._catalogue.record_deleted(row.id)
            observer.advance(files=1, read=row.size)
        for name in (*self._kits, *self._catalogue.abandoned()):
            self._storage.delete(name)
        self._clear_spool()
        self._catalogue.end_deletion()
        if missing:
            of = count_text(len(self._remaining), "object")
            observer.notice(f"gone already: {missing:,} of {of}")
        return DeleteResult(len(self._remaining), size, missing)

    def _exists(self, row: Remaining) -> bool:
        return row.name in self._there or spool_file(self._spool, row.name).exists()

    def _delete(self, name: str) -> None:
        try:
            if name in self._there:
                self._storage.look(name)
            self._storage.delete(name)
        except MissingError:
            raise StorageError(
                f"object {name} was there a moment ago: is the storage still mounted? "
                "pyarchiver delete goes on"
            ) from None

    def _clear_spool(self) -> None:
        parts = list(self._parts())
        try:
            for part in parts:
                part.unlink(missing_ok=True)
            if parts:
                sync_folder(self._spool)
        except OSError as error:
            raise StorageError(f"spool {self._spool}: {error.strerror}") from None

    def _parts(self) -> Iterator[Path]:
        """Files of this archive that were to be sent, staged or given up."""
        for part in self._spool.glob(f"{self._tag}-*{PART}"):
            if parse_name(part.name.removesuffix(PART)):
                yield part
