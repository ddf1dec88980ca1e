"""Surveys a storage by one listing: what of an archive is there that its catalogue does not know.

A name is in the catalogue before its first byte leaves, so such an object was sent by another
copy of the .archive, a newer one: whoever goes on with the old one forks the log.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.storage import Storage, Stored
from pyarchiver.cas.units import count_text
from pyarchiver.formats.errors import CatalogueError, StorageError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import parse_name, tag_of


def unknown_objects(catalogue: Catalogue, storage: Storage) -> Iterator[Stored]:
    """Objects of the archive in the storage that the catalogue never named."""
    tag = tag_of(catalogue.keys.archive_id)
    for stored in storage.list():
        if not stored.name.startswith(tag) or catalogue.state_of(stored.name) is not None:
            continue
        name = parse_name(stored.name)
        # A kit is of no run, so that one too many says nothing of the log.
        if name and name.kind != Kind.KIT:
            yield stored


def refuse_old_copy(catalogue: Catalogue, storage: Storage, observer: Observer) -> None:
    """Raise CatalogueError where the storage shows that this .archive is not the newest copy."""
    if not catalogue.has_objects():
        return
    try:
        unknown = sorted(stored.name for stored in unknown_objects(catalogue, storage))
    except StorageError as error:
        # A key that may only write is a good idea.
        observer.notice(
            f"the storage does not say what it holds ({error}): not checked whether this .archive "
            "is the newest copy"
        )
        return
    if unknown:
        raise CatalogueError(old_copy(catalogue, unknown))


def old_copy(catalogue: Catalogue, unknown: list[str]) -> str:
    """What to say of objects that the catalogue does not know, and what to do."""
    numbers = [name.number for name in map(parse_name, unknown) if name]
    newest = max(numbers, default=0)
    told = f"its log reaches manifest {catalogue.head.number}"
    if newest:
        told += f", the storage has manifest {newest}"
    return (
        f"{catalogue.path} is an old copy: it does not know "
        f"{count_text(len(unknown), 'object')} of its archive in the storage, such as {unknown[0]} "
        f"({told}). use the newest copy, or make one: "
        f"pyarchiver recover {catalogue.url} NEW.archive"
    )
