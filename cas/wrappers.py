"""Wrappers of a storage: each is a storage itself, and changes one thing of the one in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from pyarchiver.cas.pace import Pace
from pyarchiver.cas.storage import Checksums, Storage, Stored
from pyarchiver.formats.errors import StorageError, TransientError

# Attempts at one call: with the pauses between them it may take a quarter of an hour.
ATTEMPTS = 20
# Attempts before anything has begun: whoever mistyped a host wants to know soon.
FIRST_ATTEMPTS = 6
_PAUSE_MAX = 60.0
# Read at once under a limit: long reads would come in bursts.
_SLICE = 256 << 10
# Read at once where all of an object is.
_WHOLE = 4 << 20


class Wrapper:
    """Passes everything on."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.spool = inner.spool
        self.uploads = inner.uploads
        self.atomic = inner.atomic
        self.pace = inner.pace

    def prepare(self) -> None:
        """Pass on."""
        self.inner.prepare()

    def check(self) -> None:
        """Pass on."""
        self.inner.check()

    def put(self, name: str, spooled: Path) -> Checksums:
        """Pass on."""
        return self.inner.put(name, spooled)

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """Pass on."""
        return self.inner.get_into(name, start, into)

    def size(self, name: str) -> int:
        """Pass on."""
        return self.inner.size(name)

    def list(self) -> Iterator[Stored]:
        """Pass on."""
        return self.inner.list()

    def look(self, name: str) -> Stored:
        """Pass on."""
        return self.inner.look(name)

    def thaw(self, name: str, days: int, tier: str) -> None:
        """Pass on."""
        self.inner.thaw(name, days, tier)

    def delete(self, name: str) -> None:
        """Pass on."""
        self.inner.delete(name)

    def close(self) -> None:
        """Pass on."""
        self.inner.close()


class Patient(Wrapper):
    """Calls again, after longer and longer pauses, where a connection was lost.

    Every method of a storage may be called again: what an earlier call did is found done.
    """

    def __init__(
        self,
        inner: Storage,
        tell: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(inner)
        self._tell = tell
        self._retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=1, max=_PAUSE_MAX),
            before_sleep=self._before_pause,
            sleep=sleep,
            reraise=True,
        )
        self._retrying_briefly = self._retrying.copy(stop=stop_after_attempt(FIRST_ATTEMPTS))

    def __reduce__(self) -> tuple[type[Patient], tuple[Storage]]:
        return Patient, (self.inner,)

    def prepare(self) -> None:
        """Until it is done, or fails again and again."""
        self._retrying_briefly(self.inner.prepare)

    def check(self) -> None:
        """Until it is answered, or fails again and again."""
        self._retrying_briefly(self.inner.check)

    def put(self, name: str, spooled: Path) -> Checksums:
        """Until it is there: a put of unknown outcome is found there, or made again."""
        return self._retrying(self.inner.put, name, spooled)

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """Until it is read."""
        return self._retrying(self.inner.get_into, name, start, into)

    def size(self, name: str) -> int:
        """Until it is answered."""
        return self._retrying(self.inner.size, name)

    def list(self) -> Iterator[Stored]:
        """From the beginning where it broke, so nothing is given before all of it came."""
        yield from self._retrying(lambda: [*self.inner.list()])

    def look(self, name: str) -> Stored:
        """Until it is answered."""
        return self._retrying(self.inner.look, name)

    def thaw(self, name: str, days: int, tier: str) -> None:
        """Until it is asked for."""
        self._retrying(self.inner.thaw, name, days, tier)

    def delete(self, name: str) -> None:
        """Until it is gone."""
        self._retrying(self.inner.delete, name)

    def _before_pause(self, state: RetryCallState) -> None:
        if self._tell and state.outcome and state.next_action:
            self._tell(
                f"{state.outcome.exception()}: again in {max(0.1, state.next_action.sleep):.1f} s"
            )


class Limited(Wrapper):
    """Reads no faster than a number of bytes a second; what is sent paces itself (`pace.py`)."""

    def __init__(self, inner: Storage, pace: Pace) -> None:
        super().__init__(inner)
        self._pace = pace

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """In slices, with pauses."""
        filled = 0
        while filled < len(into):
            part = into[filled : filled + _SLICE]
            count = self.inner.get_into(name, start + filled, part)
            self._pace.spend(count)
            filled += count
            if count < len(part):
                break
        return filled


class Whole(Wrapper):
    """For storages that give whole objects only: fetches one to a temporary file, reads there."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self._name = ""
        self._file: IO[bytes] | None = None

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """From the temporary file, which holds the object that was read last."""
        if self._file is None or self._name != name:
            self.close()
            self._file, self._name = self._fetch(name), name
        self._file.seek(start)
        filled = 0
        while filled < len(into) and (data := self._file.read(len(into) - filled)):
            into[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def close(self) -> None:
        """Forget the temporary file too."""
        if self._file:
            self._file.close()
            self._file = None
        super().close()

    def _fetch(self, name: str) -> IO[bytes]:
        buffer, at = memoryview(bytearray(_WHOLE)), 0
        with ExitStack() as stack:
            try:
                file = stack.enter_context(TemporaryFile())
                while count := self.inner.get_into(name, at, buffer):
                    file.write(buffer[:count])
                    at += count
            except OSError as error:
                raise StorageError(f"object {name}: cannot keep it meanwhile: {error}") from None
            stack.pop_all()
            return file


class ReadOnly(Wrapper):
    """Can be read, and asked for thaws, and is never changed."""

    def prepare(self) -> None:
        """Refused."""
        raise StorageError("the storage is open for reading only")

    def put(self, name: str, spooled: Path) -> Checksums:
        """Refused."""
        raise StorageError(f"object {name}: the storage is open for reading only")

    def delete(self, name: str) -> None:
        """Refused."""
        raise StorageError(f"object {name}: the storage is open for reading only")
