"""A folder of downloaded objects, or a single one: read-only, and names are not trusted.

Downloaded files may have been renamed, doubled or mixed with others, so an object counts by
what its header says. `add` tells which file holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyarchiver.cas.local import LocalStorage
from pyarchiver.formats.errors import DestinationError, MissingError, StorageError


class OwnDisk(LocalStorage):
    """Where objects were fetched to a moment ago: one that cannot be read is not damaged.

    It must end what is done, and not be left out of it: DestinationError.
    """

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """As every storage."""
        try:
            return super().get_into(name, start, into)
        except StorageError as error:
            raise self._unreadable(name, error) from None

    def size(self, name: str) -> int:
        """As every storage."""
        try:
            return super().size(name)
        except StorageError as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: StorageError) -> DestinationError:
        return DestinationError(f"{self.folder / name} was fetched and cannot be read: {error}")


class ObjectFolder:
    """Objects under their proper names, in whatever files of a folder they are."""

    def __init__(self, source: Path, disk: type[LocalStorage] = LocalStorage) -> None:
        if not source.exists():
            raise StorageError(f"no folder or object {source}")
        self._single = source.name if source.is_file() else None
        self.raw = disk(source.parent if self._single else source)
        self._files: dict[str, str] = {}

    def files(self) -> Iterator[str]:
        """Names of the files that may hold objects, to be read from `raw`."""
        if self._single:
            yield self._single
            return
        yield from sorted(found.name for found in self.raw.list())

    def add(self, name: str, file: str) -> None:
        """The object `name` is in `file`."""
        self._files[name] = file

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """As every storage."""
        return self.raw.get_into(self._file(name), start, into)

    def size(self, name: str) -> int:
        """As every storage."""
        return self.raw.size(self._file(name))

    def close(self) -> None:
        """As every storage."""
        self.raw.close()

    def _file(self, name: str) -> str:
        if name not in self._files:
            raise MissingError(f"object {name}: not there")
        return self._files[name]
