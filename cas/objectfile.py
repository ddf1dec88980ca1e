"""Writes one object into the spool: sealed, hashed, and durable before anybody is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from pyarchiver.cas.durable import sync_folder
from pyarchiver.cas.storage import PART
from pyarchiver.formats.aead import Buffer
from pyarchiver.formats.errors import StorageError
from pyarchiver.formats.header import Header
from pyarchiver.formats.names import first_name
from pyarchiver.formats.sealed import Sealer


def spool_file(spool: Path, name: str) -> Path:
    """Where the object is while it waits, whatever attempt at sending it the name is of."""
    return spool / (first_name(name) + PART)


class ObjectFile:
    """`<spool>/<name>.part` while it is written.

    Written by one thread at a time; another may sync meanwhile. Once a sync has failed, the object
    is lost: the system tells of a failed write only once, and the next fsync says nothing of it.
    """

    def __init__(self, spool: Path, name: str, header: Header, key: bytes) -> None:
        self.path = spool_file(spool, name)
        self._hasher = blake3()
        self.size = 0
        self._descriptor = -1
        self._failed: OSError | None = None
        try:
            self._descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            self._sealer = Sealer(header, key, self._write)
        except OSError as error:
            if self._descriptor >= 0:
                self.discard()
            raise _spool_error(self.path, error) from None

    def feed(self, buffers: Iterable[Buffer]) -> None:
        """Append to the payload; StorageError where the spool is full."""
        try:
            for buffer in buffers:
                self._sealer.feed(buffer)
        except OSError as error:
            raise _spool_error(self.path, error) from None

    def finish(self) -> None:
        """Write the last segment and the header again."""
        try:
            self._sealer.finish()
        except OSError as error:
            raise _spool_error(self.path, error) from None

    def sync(self) -> None:
        """Make file and folder entry durable, and close the file."""
        try:
            if self._failed:
                raise self._failed
            os.fsync(self._descriptor)
            sync_folder(self.path.parent)
        except OSError as error:
            raise _spool_error(self.path, error) from None
        self.close()

    def sync_data(self) -> None:
        """Sync what is written so far, while more is being written; `sync` tells of a failure."""
        try:
            if self._descriptor >= 0:
                os.fsync(self._descriptor)
        except OSError as error:
            self._failed = error

    def close(self) -> None:
        """Close the file; what is not synced may be lost."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close the file and remove it."""
        self.close()
        self.path.unlink(missing_ok=True)

    @property
    def blake3(self) -> bytes:
        """BLAKE3 of the whole object."""
        return self._hasher.digest()

    def _write(self, data: Buffer) -> None:
        self._hasher.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self.size += len(data)


def write_plain(spool: Path, name: str, data: bytes) -> None:
    """Write what is not sealed into the spool, durably."""
    path = spool / (name + PART)
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(spool)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _spool_error(path, error) from None


def _spool_error(path: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"no space left in {path.parent}: free some, then pyarchiver resume goes on"
        )
    return StorageError(f"cannot write {path}: {error.strerror}")
