"""Brings finished objects to the storage, one after another, in a thread of its own.

spool file written -> synced -> (caller commits STAGED) -> put -> (caller commits STORED)
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.objectfile import PART, ObjectFile
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import ObjectRow
from pyarchiver.cas.storage import Checksums, Storage
from pyarchiver.formats.errors import MissingError, StorageError
from pyarchiver.formats.names import tag_of


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
        self._pool = ThreadPoolExecutor(1, "courier")
        self._under_way: deque[tuple[int, int, Future[Checksums]]] = deque()

    def secure(self, file: ObjectFile, written: Future[None] | None = None) -> Future[None]:
        """Sync the object's file, once `written` has ended."""

        def sync() -> None:
            if written is not None:
                written.result()
            file.sync()

        return self._pool.submit(sync)

    def hurry(self, file: ObjectFile) -> None:
        """Let the disk begin with what is written so far, rather than with all at the end."""
        self._pool.submit(file.sync_data)

    def send(self, row: int, name: str, size: int) -> None:
        """Put a staged object."""
        spooled = self.spool / (name + PART)
        sent = self._pool.submit(self._storage.put, name, spooled)
        self._under_way.append((row, size, sent))

    def collect(self, wait_for: int | None = None) -> None:
        """Commit what has arrived; with `wait_for`, until at most so many are under way.

        Raises the StorageError of a failed put.
        """
        while self._under_way:
            row, size, sent = self._under_way[0]
            if not sent.done() and (wait_for is None or len(self._under_way) <= wait_for):
                return
            checksums = sent.result()
            self._under_way.popleft()
            self._catalogue.stored(row, checksums)
            self.stored += size
            self.objects += 1
            self._observer.advance(stored=size)

    def resend(self) -> None:
        """Send what an interrupted run left staged, as it is; remove what it never finished."""
        staged = self._catalogue.staged()
        for row in staged:
            self._check_spooled(row)
            self.send(row.id, row.name, row.size)
        self.collect(wait_for=0)
        tag = tag_of(self._catalogue.keys.archive_id)
        for leftover in self.spool.glob(f"{tag}-*{PART}"):
            leftover.unlink(missing_ok=True)

    def _check_spooled(self, row: ObjectRow) -> None:
        spooled = self.spool / (row.name + PART)
        if spooled.exists():
            if spooled.stat().st_size != row.size:
                raise StorageError(f"spooled object {spooled} has not its {row.size} bytes")
            return
        try:
            size = self._storage.size(row.name)
        except MissingError:
            raise StorageError(
                f"object {row.name} was ready to be sent, and is neither in {self.spool} nor in "
                "the storage: put it back"
            ) from None
        if size != row.size:
            raise StorageError(f"object {row.name} has {size} bytes in the storage, not {row.size}")

    def close(self) -> None:
        """Let a put that is under way end, and commit it."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        while self._under_way:
            row, size, sent = self._under_way.popleft()
            if not sent.cancelled() and sent.exception() is None:
                self._catalogue.stored(row, sent.result())
                self.stored += size
                self.objects += 1
