"""Changes what opens an archive, in the headers of all objects that are written from now on.

The keys stay: a slot is another wrapping of the same seed and archive key. So every slot that
ever was, in whatever object, opens all objects of the archive, and goes on doing so.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.formats import keys, recovery
from pyarchiver.formats.keys import ReadKeys, Slot


def change_password(catalogue: Catalogue, own: ReadKeys, password: str) -> None:
    """Commit a slot of `password` in place of that of the password before."""
    _replace(catalogue, keys.password_slot(own, password))


def change_recovery_code(
    catalogue: Catalogue, own: ReadKeys, announce: Callable[[str], None]
) -> str:
    """Commit a slot of a new recovery code, which nothing keeps, and return the code.

    `announce` is given it once it counts; where that fails, the one before counts again.
    """
    secret, before = os.urandom(recovery.SECRET_SIZE), catalogue.slots
    code = recovery.encode(secret)
    _replace(catalogue, keys.recovery_slot(own, secret))
    try:
        announce(code)
    except Exception:
        catalogue.set_slots(before)
        raise
    return code


def _replace(catalogue: Catalogue, new: Slot) -> None:
    others = (slot for slot in catalogue.slots if slot.get("type") != new["type"])
    catalogue.set_slots(tuple(sorted((new, *others), key=_order)))


def _order(slot: Slot) -> int:
    kind = slot.get("type")
    return kind if isinstance(kind, int) else 0
