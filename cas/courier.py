"""Brings finished objects to the storage, several at a time where it is far.

spool file written -> synced -> (caller commits STAGED) -> put -> (caller commits STORED)

Packs arrive in any order. A manifest or checkpoint leaves only when all before it have arrived, so
what it tells of is there.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.objectfile import ObjectFile, spool_file
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import ObjectRow
from pyarchiver.cas.storage import PART, Checksums, Storage
from pyarchiver.cas.uploads import Uploads
from pyarchiver.formats.errors import MissingError, StorageError, UncertainError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import another_name, parse_name, tag_of

# Names that one run tries for an object whose puts are cut again and again.
NAMES_MAX = 10
# Seconds between looks at how much was sent, while nothing else is to be done.
_LOOK_EVERY = 0.25
# Bytes to send at the end of a run that are worth a phase of their own.
_SHOWN_MIN = 8 << 20


@dataclass(slots=True)
class _Sent:
    """An object on its way: waiting for those before it, or being put."""

    row: int
    name: str
    size: int
    put: Future[Checksums] | None = None
    names: int = 1
    told: int = 0

    @property
    def is_pack(self) -> bool:
        name = parse_name(self.name)
        return name is not None and name.kind == Kind.PACK


class Courier:
    """Syncs and sends; commits STORED for each object that the storage has confirmed."""

    def __init__(
        self, catalogue: Catalogue, storage: Storage, spool: Path, observer: Observer
    ) -> None:
        self.spool = spool
        self.stored = 0
        self.objects = 0
        self._catalogue = catalogue
        self._storage = storage
        self._observer = observer
        self._disk = ThreadPoolExecutor(1, "courier")
        self._uploads = Uploads(storage) if storage.uploads else None
        self._under_way: dict[int, _Sent] = {}

    @property
    def in_flight(self) -> int:
        """Bytes that are staged and not yet confirmed."""
        return sum(sent.size for sent in self._under_way.values())

    def secure(self, file: ObjectFile, written: Future[None] | None = None) -> Future[None]:
        """Sync the object's file, once `written` has ended."""

        def sync() -> None:
            if written is not None:
                written.result()
            file.sync()

        return self._disk.submit(sync)

    def hurry(self, file: ObjectFile) -> None:
        """Let the disk begin with what is written so far, rather than with all at the end."""
        self._disk.submit(file.sync_data)

    def send(self, row: int, name: str, size: int) -> None:
        """Put a staged object."""
        self._under_way[row] = _Sent(row, name, size)
        self._start()

    def collect(self, limit: int | None = None) -> None:
        """Commit what has arrived; with `limit`, until at most so many bytes are under way.

        Raises the StorageError of a failed put.
        """
        left = sum(sent.size - sent.told for sent in self._under_way.values())
        if limit == 0 and self._uploads and left >= _SHOWN_MIN:
            self._observer.begin("sending", None, left)
        while self._under_way:
            self._tell()
            puts = {sent.put: sent for sent in self._under_way.values() if sent.put}
            arrived = {put for put in puts if put.done()}
            if not arrived:
                if limit is None or self.in_flight <= limit:
                    return
                pause = _LOOK_EVERY if self._uploads else None
                arrived = wait(puts, pause, return_when=FIRST_COMPLETED).done
            for put in arrived:
                self._arrived(puts[put], put)
            self._start()

    def resend(self) -> None:
        """Send what an interrupted run left staged, as it is; remove what it never finished."""
        self._delete_abandoned()
        for row in self._catalogue.staged():
            name = row.name
            if self._check_spooled(row) and not self._storage.atomic:
                # A put of it may have begun, and what it left may show only later.
                name = self._rename(row.id, name)
            self.send(row.id, name, row.size)
        self.collect(limit=0)
        tag = tag_of(self._catalogue.keys.archive_id)
        for leftover in self.spool.glob(f"{tag}-*{PART}"):
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Let a short put that is under way end, cut long ones; commit what arrived."""
        if self._uploads:
            self._uploads.close()
        self._disk.shutdown(wait=True, cancel_futures=True)
        for sent in [*self._under_way.values()]:
            if sent.put and not sent.put.cancelled() and sent.put.exception() is None:
                self._stored(sent, sent.put.result())

    def _start(self) -> None:
        """Put what waits for nothing any more."""
        for number, sent in enumerate(self._under_way.values()):
            if sent.put is None and (number == 0 or sent.is_pack):
                spooled = spool_file(self.spool, sent.name)
                sent.put = (
                    self._uploads.submit(sent.name, spooled)
                    if self._uploads
                    else self._disk.submit(self._storage.put, sent.name, spooled)
                )

    def _arrived(self, sent: _Sent, put: Future[Checksums]) -> None:
        try:
            checksums = put.result()
        except UncertainError as error:
            if sent.names == NAMES_MAX:
                raise
            self._observer.notice(f"{error}; sent again under another name")
            sent.name, sent.put = self._rename(sent.row, sent.name), None
            sent.names += 1
            return
        self._stored(sent, checksums)
        self._observer.advance(stored=sent.size - sent.told)

    def _tell(self) -> None:
        """Say how much was sent of what is under way."""
        if not self._uploads:
            return
        for sent in self._under_way.values():
            moved = min(sent.size, self._uploads.moved(sent.name))
            if moved > sent.told:
                self._observer.advance(stored=moved - sent.told)
                sent.told = moved

    def _stored(self, sent: _Sent, checksums: Checksums) -> None:
        self._catalogue.stored(sent.row, checksums)
        del self._under_way[sent.row]
        self.stored += sent.size
        self.objects += 1

    def _rename(self, row: int, name: str) -> str:
        """Another name for an object, committed before it is used; the old one is abandoned."""
        new = another_name(name)
        self._catalogue.rename_object(row, new)
        return new

    def _delete_abandoned(self) -> None:
        """Remove what cut puts of earlier runs left; it may show late, so never only once."""
        for name in self._catalogue.abandoned():
            try:
                self._storage.delete(name)
            except StorageError as error:
                self._observer.notice(f"what a cut upload left cannot be deleted: {error}")

    def _check_spooled(self, row: ObjectRow) -> bool:
        """Whether its spool file is there; without it, an earlier put got through."""
        spooled = spool_file(self.spool, row.name)
        if spooled.exists():
            if spooled.stat().st_size != row.size:
                raise StorageError(
                    f"spooled object {spooled} has not its {row.size} bytes: {self._way_out(row)}"
                )
            return True
        try:
            size = self._storage.look(row.name).size
        except MissingError:
            missed = "is not in the storage (is its disk mounted?)"
            if self._storage.spool is None:
                missed = (
                    f"is neither in the spool folder {self.spool}, which an .archive that moves "
                    "leaves behind, nor in the storage"
                )
            raise StorageError(
                f"object {row.name} was ready to be sent, and {missed}: {self._way_out(row)}"
            ) from None
        if size not in (row.size, None):
            raise StorageError(f"object {row.name} has {size} bytes in the storage, not {row.size}")
        return False

    def _way_out(self, row: ObjectRow) -> str:
        """What to do about an object that cannot be sent: what is in it can be sent again."""
        back = f"put {spool_file(self.spool, row.name).name} back, or go on without it: "
        if self._catalogue.count_stored():
            return (
                f"{back}pyarchiver recover {self._catalogue.url} NEW.archive, then pyarchiver "
                "resume NEW.archive"
            )
        return f"{back}nothing was sent yet, so remove {self._catalogue.path} and start again"
