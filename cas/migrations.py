"""Brings an .archive of an older version up to date: a durable copy first, then step by step.

Each step is one transaction, so that an update which is ended at any moment is completed by the
next: the copy that is there already is the same, and only the steps that are left are taken.
"""

from __future__ import annotations

import filecmp
from dataclasses import dataclass
from pathlib import Path

from pyarchiver.cas.database import VERSION, Database
from pyarchiver.cas.durable import sync_folder
from pyarchiver.cas.progress import Observer
from pyarchiver.formats.errors import CatalogueError

MIGRATIONS: dict[int, tuple[str, ...]] = {
    # Also: objects may be DELETED, which a program that does not know it would send again.
    2: (
        "CREATE INDEX sizes ON objects (run, kind, state, size)",
        "CREATE INDEX log ON objects (kind, number, size)",
        """CREATE TABLE checksums (
    object INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (object, algorithm)
) STRICT, WITHOUT ROWID""",
        """CREATE TABLE checks (
    object INTEGER PRIMARY KEY,
    checked REAL NOT NULL
) STRICT""",
        """CREATE TABLE abandoned (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID""",
        """CREATE TABLE thaws (
    object INTEGER PRIMARY KEY,
    asked REAL NOT NULL,
    ready REAL NOT NULL,
    until REAL,
    confirmed INTEGER NOT NULL
) STRICT""",
        "UPDATE chunks SET id = substr(id, 1, 16)",
    ),
}
"""The statements that lead to each version from the one before; schema.sql has their sum."""


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """The versions before and after; `copy` is None where there was nothing to do."""

    before: int
    after: int
    copy: Path | None


def update(path: Path, observer: Observer) -> UpdateResult:
    """Bring the .archive at `path` to this program's version, keeping a copy NAME.archive.vN.

    Raises CatalogueError where the .archive is none, damaged or too new, where it or its copy
    cannot be written, or another copy has that name; BusyError where another process writes.
    """
    with Database.open(path, write=True, older=True) as database:
        before = database.version
        if before == VERSION:
            return UpdateResult(before, VERSION, None)
        if before + 1 not in MIGRATIONS:
            raise CatalogueError(f"{path} is of version {before}, which never was: use a copy")
        copy = database.path.with_name(f"{database.path.name}.v{before}")
        observer.begin("copying", None, None)
        _keep(database, copy)
        observer.begin("updating", None, None)
        for version in range(before + 1, VERSION + 1):
            database.migrate(version, MIGRATIONS[version])
        return UpdateResult(before, VERSION, copy)


def _keep(database: Database, copy: Path) -> None:
    new = copy.with_name(copy.name + ".new")
    try:
        new.unlink(missing_ok=True)
        database.copy_to(new)
        if not copy.exists():
            new.rename(copy)
        elif not filecmp.cmp(new, copy, shallow=False):
            raise CatalogueError(
                f"{copy} is there already, and is no copy of {database.path} as it is now: "
                "move it away, and run update again"
            )
        sync_folder(copy.parent)
    except OSError as error:
        raise CatalogueError(f"cannot keep the copy {copy}: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
