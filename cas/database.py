"""The SQLite file under the catalogue: its lock, pragmas, transactions and configuration.

One process writes (a lock beside the file: SQLite's own would be dropped by any second
descriptor of the file in this process); any number may read meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable, Iterable
from contextlib import closing
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from pyarchiver.cas.durable import sync_folder
from pyarchiver.formats.errors import ArchiverError, BusyError, CatalogueError, FormatError

VERSION = 2
APPLICATION_ID = 0x50594152
# Larger than any entry or index: what is larger was not put there by this program.
_VALUE_MAX = 128 << 20


class Transaction:
    """All or nothing; SQLite's errors come out as CatalogueError."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:
            raise _cannot_write(error) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._db.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.DatabaseError as failure:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise _cannot_write(failure) from None
        if isinstance(error, sqlite3.DatabaseError):
            raise _cannot_write(error) from None


class Database:
    """An open .archive, apart from what it means.

    Used as a context manager, it closes the file, and lets SQLite's errors out as CatalogueError.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: filelock.BaseFileLock | None
    ) -> None:
        self.path = path
        self._db = connection
        self._lock = lock
        self._config: dict[str, bytes] = dict(connection.execute("SELECT name, value FROM config"))

    @classmethod
    def make(cls, path: Path, values: dict[str, bytes], replaces: Callable[[Path], bool]) -> Self:
        """A new .archive at `path`, mode 0600, with configuration `values`.

        One that is there already stays, unless `replaces` says yes to it. The new one is made
        beside and renamed, so that an .archive is always a whole one.
        """
        path = _real(path)
        lock = _lock(path)
        new = _beside(path, ".new")
        try:
            if path.exists() and not replaces(path):
                raise CatalogueError(f"{path} is already there: pyarchiver resume continues it")
            # A log left by a killed process would be replayed into the new file.
            for old in (*_files(path), new):
                old.unlink(missing_ok=True)
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            connection = _connect(new, "rw")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_schema())
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            cls(new, connection, None).configure(**values)
            connection.close()
            new.rename(path)
            sync_folder(path.parent)
            return cls(path, _connect(path, "rw"), lock)
        except BaseException as error:
            lock.release()
            if isinstance(error, sqlite3.DatabaseError | OSError):
                raise CatalogueError(f"cannot create {path}: {error}") from None
            raise

    @classmethod
    def open(cls, path: Path, *, write: bool, older: bool = False) -> Self:
        """The .archive at `path`; with `write`, as its only writer; with `older`, of any version.

        Raises CatalogueError where it is none, damaged, too new or too old, or to be written under
        one of several names; BusyError where another process writes.
        """
        path = _real(path)
        if not path.is_file():
            raise CatalogueError(f"no archive {path}: pyarchiver start makes one")
        if write and not os.access(path, os.W_OK):
            raise CatalogueError(f"{path} is read-only: make it writable")
        lock = _lock(path) if write else None
        try:
            _check(path)
            if write:
                _refuse_names(path)
            connection = _connect(path, _mode(path))
            try:
                _check_version(path, connection, older)
                _check_schema(path, connection, older)
                return cls(path, connection, lock)
            except BaseException:
                connection.close()
                raise
        except BaseException as error:
            if lock:
                lock.release()
            if isinstance(error, sqlite3.DatabaseError | UnicodeDecodeError | OSError):
                raise CatalogueError(f"{path} is damaged or cannot be read: {error}") from None
            raise

    def discard(self) -> None:
        """Remove the file; what is open of it can still be used, and leads nowhere."""
        for file in _files(self.path):
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it is then one file that can be copied."""
        self._db.close()
        if self._lock:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            damage = self._damage(error)
        finally:
            self.close()
        if damage:
            raise CatalogueError(
                f"{self.path} is damaged ({damage}): use a copy of it, or get the files back with "
                "pyarchiver decrypt"
            ) from None

    def _damage(self, error: BaseException | None) -> str:
        """What is wrong with the file that may have led to this error; empty where nothing is."""
        if isinstance(error, sqlite3.DatabaseError):
            return str(error)
        # A damaged page may still hold rows, of which nothing has the type that it should.
        if not isinstance(error, Exception) or (
            isinstance(error, ArchiverError) and not isinstance(error, FormatError)
        ):
            return ""
        try:
            found = str(self._db.execute("PRAGMA quick_check(1)").fetchone()[0])
        except (sqlite3.DatabaseError, UnicodeDecodeError) as failure:
            return str(failure)
        return "" if found == "ok" else found.replace("\n", " ")

    def transaction(self) -> Transaction:
        """All that is written within it is committed together, or not at all."""
        return Transaction(self._db)

    def configure(self, **values: bytes) -> None:
        """Set configuration values durably."""
        with self.transaction():
            self._configure(values)

    @property
    def version(self) -> int:
        """The version of the schema."""
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def migrate(self, version: int, statements: Iterable[str]) -> None:
        """Bring the schema to `version`, all or nothing."""
        with self.transaction():
            for statement in statements:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {version}")

    def copy_to(self, path: Path) -> None:
        """A durable copy of the file as it stands, mode 0600; `path` must not exist."""
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with closing(_connect(path, "rw")) as copy:
                # What a killed copy leaves is one file, of which nothing is used.
                copy.execute("PRAGMA journal_mode = OFF")
                self._db.backup(copy)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        except (sqlite3.DatabaseError, OSError) as error:
            raise CatalogueError(f"cannot write the copy {path}: {error}") from None

    def _configure(self, values: dict[str, bytes]) -> None:
        self._db.executemany("REPLACE INTO config VALUES (?, ?)", values.items())
        self._config.update(values)

    def config(self, name: str) -> bytes:
        """A configuration value, empty where it was never set."""
        return self._config.get(name, b"")


def _real(path: Path) -> Path:
    """What a symbolic link leads to: the lock and the log are beside that, and of one name."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _files(path: Path) -> tuple[Path, ...]:
    return path, _beside(path, "-wal"), _beside(path, "-shm")


def _cannot_write(error: sqlite3.DatabaseError) -> CatalogueError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        return CatalogueError(
            f"cannot write to the .archive: {error}; it and its folder must be writable, run again"
        )
    return CatalogueError(
        f"cannot write to the .archive: {error}; free space or mend it, run again"
    )


def _lock(path: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(f"{path}.lock", mode=0o600)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise BusyError(f"{path} is in use by another pyarchiver: wait for it to end") from None
    except OSError as error:
        raise CatalogueError(f"cannot lock {path}: {error.strerror}") from None
    return lock


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_MAX)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    # NORMAL would lose the last commits at a power failure, after objects were sent.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -32768")
    return connection


def _names(path: Path) -> int:
    return path.stat().st_nlink


def _refuse_names(path: Path) -> None:
    """Of a file with hard links, each name has a lock and a -wal of its own.

    "How To Corrupt An SQLite Database File", multiple links to the same file, on sqlite.org.
    """
    if (names := _names(path)) > 1:
        raise CatalogueError(
            f"{path} has {names} names (hard links), and would be damaged by writing under two of "
            f"them: remove the others, or make it a file of its own: cp {path} {path}.copy, then "
            f"mv {path}.copy {path}"
        )


def _mode(path: Path) -> str:
    """How to open the file: on a read-only disk SQLite must be told that nothing will change."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) and _names(path) == 1:
        return "rw"
    return "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"


def _check(path: Path) -> None:
    """Look at the file's header before SQLite does, which would make a database of any file.

    Offsets: "Database File Format", section 1.3, on sqlite.org.
    """
    if not is_catalogue(path):
        raise CatalogueError(f"{path} is no pyarchiver archive")


def is_catalogue(path: Path) -> bool:
    """Whether a file's header says that it is one; raises OSError where it cannot be read."""
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        return False
    (application,) = struct.unpack_from(">I", header, 68)
    return bool(application == APPLICATION_ID)


def _check_version(path: Path, connection: sqlite3.Connection, older: bool) -> None:
    """Ask SQLite: the file's header does not know yet what an update left in the -wal file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise CatalogueError(f"{path} was written by a newer pyarchiver: install that one")
    if version < VERSION and not older:
        raise CatalogueError(f"{path} is of an older version: run pyarchiver update {path}")


def _schema() -> str:
    return resources.files(__package__).joinpath("schema.sql").read_text()


_PARTS = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT GLOB 'sqlite_*'"


def _check_schema(path: Path, connection: sqlite3.Connection, older: bool) -> None:
    """Refuse other parts than ours: triggers and views would run with our statements."""
    found = set(connection.execute(_PARTS))
    if older:
        strange = {part for part in found if part[0] not in ("table", "index")}
    else:
        with closing(sqlite3.connect(":memory:")) as ours:
            ours.executescript(_schema())
            strange = found ^ set(ours.execute(_PARTS))
    if strange:
        names = ", ".join(sorted({str(part[1]) for part in strange}))
        raise CatalogueError(f"{path} was tampered with ({names}): use a copy of it")
