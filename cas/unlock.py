"""From a password or a recovery code to the keys that read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.units import count_text
from pyarchiver.formats import wire
from pyarchiver.formats.errors import (
    AccessError,
    CodeError,
    DamagedError,
    FormatError,
    PasswordError,
)
from pyarchiver.formats.header import Header
from pyarchiver.formats.keys import (
    ARGON2_MEMORY_MAX,
    ARGON2_OPS_MAX,
    ID_SIZE,
    SLOT_PASSWORD,
    ReadKeys,
    Slot,
    open_slot,
)

# Each password that is tried costs a key derivation; objects of unknown origin may bring many, and
# costly ones. In bytes times passes: 64 of our own, or half a minute. The cheapest is not free.
_WORK_MAX = 64 * (3 << 28)
_WORK_MIN = 1 << 20
_TOO_MUCH = "its key slots were not tried, for all together would take too long: try it alone"

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


def nothing_opens(secret: Secret, locked: Mapping[str, AccessError | None]) -> AccessError:
    """The error where the secret opens none of these objects; some of them could not be tried."""
    untried = {name: error for name, error in locked.items() if error}
    if not untried:
        return refusal(secret, "any object there")
    name, error = next(iter(untried.items()))
    count = count_text(len(untried), "object")
    return AccessError(f"no object there opens, of those tried: {count} not, as {name}: {error}")


def _open_any(slots: Iterable[Slot], archive_id: bytes, secret: Secret) -> ReadKeys | None:
    unable: AccessError | None = None
    for slot in slots:
        try:
            keys = open_slot(slot, archive_id, secret)
        except FormatError:
            continue
        except AccessError as error:
            unable = error
            continue
        if keys is not None:
            return keys
    if unable:
        raise unable
    return None


class Keyring:
    """Opens objects of unknown origin with one secret, deriving a key once per slot at most.

    Slots are tried as they come, which half of the work is for; the other half is for those that
    were left, when it is known how many objects have each (`try_rest`).
    """

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        self._keys: dict[bytes, ReadKeys] = {}
        self._seen: Counter[bytes] = Counter()
        self._left: dict[bytes, AccessError] = {}
        self._work = 0

    def keys(self, header: Header) -> ReadKeys | None:
        """The keys of the header's archive, None where the secret does not open it.

        Raises DamagedError for a header of a known archive that the owner did not write,
        AccessError where slots of it were not tried, or could not be.
        """
        marks = [header.archive_id + wire.pack(slot) for slot in header.slots if self._fits(slot)]
        for mark in marks:
            if header.archive_id not in self._keys and not self._seen[mark]:
                self._try(mark, _WORK_MAX // 2)
            self._seen[mark] += 1
        known = self._keys.get(header.archive_id)
        if known is not None:
            if not header.authentic(known):
                raise DamagedError("its header was altered or forged")
            return known
        for mark in marks:
            if mark in self._left:
                raise self._left[mark]
        return None

    def try_rest(self) -> bool:
        """Try the slots that were left, those of most objects first; whether there were any."""
        left = sorted(self._left, key=lambda mark: (-self._seen[mark], _work(mark)))
        tried = [self._try(mark, _WORK_MAX) for mark in left if mark[:ID_SIZE] not in self._keys]
        return any(tried)

    def _fits(self, slot: Slot) -> bool:
        return (slot.get("type") == SLOT_PASSWORD) == isinstance(self.secret, str)

    def _try(self, mark: bytes, most: int) -> bool:
        """Try a slot, unless it takes the work beyond `most`: then it is left."""
        work = _work(mark)
        if self._work + work > most:
            self._left[mark] = AccessError(_TOO_MUCH)
            return False
        self._work += work
        self._left.pop(mark, None)
        archive_id = mark[:ID_SIZE]
        try:
            keys = _open_any([wire.unpack(mark[ID_SIZE:])], archive_id, self.secret)
        except AccessError as error:
            self._left[mark] = error
            return True
        if keys is not None:
            self._keys[archive_id] = keys
        return True


def _work(mark: bytes) -> int:
    """What a slot costs to try: nothing where no password is, or its fields are impossible."""
    slot = wire.unpack(mark[ID_SIZE:])
    passes, memory = slot.get("ops"), slot.get("mem")
    if slot.get("type") != SLOT_PASSWORD or type(passes) is not int or type(memory) is not int:
        return 0
    if not (0 < passes <= ARGON2_OPS_MAX and 0 < memory <= ARGON2_MEMORY_MAX):
        return 0
    return max(_WORK_MIN, passes * memory)
