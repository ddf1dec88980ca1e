"""Makes a new archive: checks first, then keys, slots and the .archive."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from pyarchiver.cas.catalogue import SUFFIX, Catalogue
from pyarchiver.cas.local import folder_of
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.storage import open_storage
from pyarchiver.cas.walk import Walker
from pyarchiver.formats import keys, recovery
from pyarchiver.formats.errors import CatalogueError, SettingsError


def archive_path(settings: Settings, folder: Path) -> Path:
    """Where the .archive goes: beside the ini file."""
    return folder / (settings.name + SUFFIX)


def check(settings: Settings, archive: Path) -> Settings:
    """All that can be checked without writing; returns the settings with the source resolved."""
    if archive.exists() and not Catalogue.unfinished(archive):
        with Catalogue.open(archive, write=False) as there:
            there.refuse_deleted()
        raise CatalogueError(
            f"{archive} is already there: pyarchiver resume {archive} continues it"
        )
    settings = checked(settings)
    if not os.access(archive.parent, os.W_OK):
        raise CatalogueError(f"cannot write to {archive.parent}: move the ini file elsewhere")
    return settings


def checked(settings: Settings, *, look_at_source: bool = True) -> Settings:
    """Settings whose source is there, unless nobody looks, and apart from the storage; resolved."""
    settings = replace(settings, source=settings.source.resolve())
    if look_at_source:
        Walker(settings.source, settings.exclude, set(), Quiet()).root_stat()
    open_storage(settings)
    folder = folder_of(settings.url)
    if folder and folder.is_relative_to(settings.source):
        raise SettingsError(
            f"setting 'url': {folder} lies in the source, the archive would archive itself"
        )
    return settings


def create(
    settings: Settings, archive: Path, password: str, announce: Callable[[str], None] | None = None
) -> tuple[Catalogue, str]:
    """A new .archive, open for writing, and its recovery code, which nothing else keeps.

    The password's key takes a second of one core to derive, as it should: the caller may read and
    compress meanwhile. `announce` is given the code as soon as it opens what is durable in the
    .archive, at the latest when that is closed; where it fails there is none any more.
    """
    with closing(open_storage(settings)) as storage:
        storage.prepare()
    secret = os.urandom(recovery.SECRET_SIZE)
    own = keys.new_keys()
    code = recovery.encode(secret)

    def derive() -> tuple[keys.Slot, ...]:
        return keys.password_slot(own, password), keys.recovery_slot(own, secret)

    pool = ThreadPoolExecutor(1, "keys")
    slots = pool.submit(derive)
    pool.shutdown(wait=False)
    told = partial(announce, code) if announce else None
    return Catalogue.create(archive, own.writer(), slots, settings.values(), told), code
