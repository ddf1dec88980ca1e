"""file:// storage: a folder on a disk. Packs are written in place as NAME.part and renamed."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarchiver.cas.durable import sync_folder
from pyarchiver.cas.pace import Pace
from pyarchiver.cas.pagecache import forget
from pyarchiver.cas.storage import PART, PROBE, Checksums, Stored
from pyarchiver.formats.errors import MissingError, SettingsError, StorageError


def folder_of(url: str) -> Path | None:
    """The folder of a file:// URL, resolved; None for others."""
    parts = urlsplit(url)
    return _path(parts.path).resolve() if parts.scheme == "file" else None


def _path(quoted: str) -> Path:
    """The path in a URL, whose bytes need not be UTF-8."""
    return Path(unquote(quoted, errors="surrogateescape"))


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MissingError(f"{what}: not there") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{what}: no space left in the storage; free some and run resume"
            ) from None
        raise StorageError(f"{what}: {error.strerror}") from None


class LocalStorage:
    """Objects as files of one folder."""

    uploads = 0
    atomic = True
    pace = Pace(0)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool: Path | None = folder
        self._open: tuple[str, FileIO] | None = None

    @classmethod
    def of_url(cls, url: str) -> LocalStorage:
        """The folder of a file:// URL."""
        parts = urlsplit(url)
        strange = parts.netloc not in ("", "localhost") or parts.query or parts.fragment
        if strange or not parts.path.startswith("/"):
            raise SettingsError(
                f"setting 'url': {url} should be file:///absolute/folder (# is %23, ? is %3F)"
            )
        return cls(_path(parts.path))

    def prepare(self) -> None:
        """Make the folder, and a file in it."""
        with _storage_errors(f"storage {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / PROBE
            probe.write_bytes(b"")
            probe.unlink()

    def check(self) -> None:
        """The folder must be there: it may be on a disk that is not mounted."""
        if not self.folder.is_dir():
            raise StorageError(f"storage {self.folder} is not there: is its disk mounted?")

    def put(self, name: str, spooled: Path) -> Checksums:
        """Rename within the folder; a file from elsewhere is copied, fsynced and renamed."""
        target = self.folder / name
        with _storage_errors(f"object {name}"):
            if spooled.exists() and target.exists() and not self._is_ours(spooled, target):
                raise StorageError(f"object {name} is there already: it is not overwritten")
            if spooled.parent != self.folder:
                self._bring(spooled, target)
                return ()
            try:
                spooled.rename(target)
            except FileNotFoundError:
                if not target.exists():
                    raise
            sync_folder(self.folder)
            with target.open("rb") as file:
                forget(file.fileno())
        return ()

    def _is_ours(self, spooled: Path, target: Path) -> bool:
        """Whether an earlier put got through, and was ended before it consumed its file."""
        return spooled.parent != self.folder and filecmp.cmp(spooled, target, shallow=False)

    def _bring(self, spooled: Path, target: Path) -> None:
        """Copy from elsewhere; the file there goes when its copy is durable under its name."""
        if spooled.exists() or not target.exists():
            part = target.with_name(target.name + PART)
            with spooled.open("rb") as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
            part.rename(target)
        sync_folder(self.folder)
        spooled.unlink(missing_ok=True)

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """Read a range; the last object stays open for the next one."""
        with _storage_errors(f"object {name}"):
            if self._open is None or self._open[0] != name:
                self.close()
                self._open = (name, (self.folder / name).open("rb", buffering=0))
            file = self._open[1]
            file.seek(start)
            filled = 0
            while filled < len(into) and (count := file.readinto(into[filled:])):
                filled += count
            return filled

    def close(self) -> None:
        """Close the file kept open for reading."""
        if self._open:
            self._open[1].close()
            self._open = None

    def size(self, name: str) -> int:
        """From the file system."""
        with _storage_errors(f"object {name}"):
            return (self.folder / name).stat().st_size

    def list(self) -> Iterator[Stored]:
        """Regular files directly in the folder."""
        with _storage_errors(f"storage {self.folder}"), os.scandir(self.folder) as found:
            for item in found:
                if item.is_file(follow_symlinks=False):
                    yield Stored(item.name, item.stat(follow_symlinks=False).st_size)

    def look(self, name: str) -> Stored:
        """From the file system."""
        return Stored(name, self.size(name))

    def thaw(self, name: str, days: int, tier: str) -> None:
        """Nothing: a disk is always warm."""

    def delete(self, name: str) -> None:
        """Unlink and fsync the folder."""
        with _storage_errors(f"object {name}"):
            (self.folder / name).unlink(missing_ok=True)
            sync_folder(self.folder)
