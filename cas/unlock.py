"""From a password or a recovery code to the keys that read."""

from __future__ import annotations

from collections.abc import Iterable

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.formats import wire
from pyarchiver.formats.errors import CodeError, DamagedError, FormatError, PasswordError
from pyarchiver.formats.header import Header
from pyarchiver.formats.keys import SLOT_PASSWORD, ReadKeys, Slot, open_slot

# Each slot that is tried costs a key derivation; objects of unknown origin may bring many, and
# costly ones. In bytes times passes: 64 of our own, or half a minute.
_TRIALS_MAX = 64
_WORK_MAX = _TRIALS_MAX * (3 << 28)

Secret = str | bytes
"""A password, or the secret that a recovery code stands for."""


def unlock(catalogue: Catalogue, secret: Secret) -> ReadKeys:
    """The keys of an archive; PasswordError or CodeError where the secret opens no slot."""
    keys = _open_any(catalogue.slots, catalogue.keys.archive_id, secret)
    if keys is None or keys.archive_key != catalogue.keys.archive_key:
        raise refusal(secret, str(catalogue.path))
    return keys


def refusal(secret: Secret, what: str) -> CodeError | PasswordError:
    """The error for a secret that does not open `what`."""
    if isinstance(secret, bytes):
        return CodeError(f"the recovery code does not open {what}: it belongs to another archive")
    return PasswordError(f"wrong password for {what}")


def _open_any(slots: Iterable[Slot], archive_id: bytes, secret: Secret) -> ReadKeys | None:
    for slot in slots:
        try:
            keys = open_slot(slot, archive_id, secret)
        except FormatError:
            continue
        if keys is not None:
            return keys
    return None


class Keyring:
    """Opens objects of unknown origin with one secret, deriving a key once per slot at most."""

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        self._keys: dict[bytes, ReadKeys] = {}
        self._tried: set[bytes] = set()
        self._work = 0

    def keys(self, header: Header) -> ReadKeys | None:
        """The keys of the header's archive, None where the secret does not open it.

        Raises DamagedError for a header of a known archive that the owner did not write.
        """
        known = self._keys.get(header.archive_id)
        if known is not None:
            if not header.authentic(known):
                raise DamagedError("its header was altered or forged")
            return known
        for slot in header.slots:
            if (slot.get("type") == SLOT_PASSWORD) != isinstance(self.secret, str):
                continue
            mark = header.archive_id + wire.pack(slot)
            if mark in self._tried or len(self._tried) >= _TRIALS_MAX:
                continue
            self._tried.add(mark)
            if self._work + _work(slot) > _WORK_MAX:
                continue
            self._work += _work(slot)
            keys = _open_any([slot], header.archive_id, self.secret)
            if keys is not None:
                self._keys[header.archive_id] = keys
                return self.keys(header)
        return None


def _work(slot: Slot) -> int:
    """What a password slot costs to try; nothing where it is not even tried."""
    passes, memory = slot.get("ops"), slot.get("mem")
    if not isinstance(passes, int) or not isinstance(memory, int):
        return 0
    return max(0, passes * memory)
