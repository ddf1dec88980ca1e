"""A storage with scripted faults: each comes at one call, before or after its effect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pyarchiver.cas.storage import Checksums, Storage, Stored
from pyarchiver.cas.wrappers import Wrapper

T = TypeVar("T")


class Fault(NamedTuple):
    """At the `number`th call of `method`, counted from 1; `late`: when all of it was done."""

    method: str
    number: int
    error: BaseException
    late: bool = False


class Faulty(Wrapper):
    """Raises what the script says. Check `fired`: a fault that never came tests nothing."""

    def __init__(self, inner: Storage, *script: Fault) -> None:
        super().__init__(inner)
        self.calls: Counter[str] = Counter()
        self._script = {(fault.method, fault.number): fault for fault in script}

    def fired(self) -> None:
        """All faults came."""
        assert not self._script

    def _call(self, method: str, action: Callable[[], T]) -> T:
        self.calls[method] += 1
        fault = self._script.pop((method, self.calls[method]), None)
        if fault and not fault.late:
            raise fault.error
        done = action()
        if fault:
            raise fault.error
        return done

    def prepare(self) -> None:
        self._call("prepare", super().prepare)

    def check(self) -> None:
        self._call("check", super().check)

    def put(self, name: str, spooled: Path) -> Checksums:
        return self._call("put", lambda: self.inner.put(name, spooled))

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        return self._call("get_into", lambda: self.inner.get_into(name, start, into))

    def size(self, name: str) -> int:
        return self._call("size", lambda: self.inner.size(name))

    def list(self) -> Iterator[Stored]:
        return iter(self._call("list", lambda: [*self.inner.list()]))

    def look(self, name: str) -> Stored:
        return self._call("look", lambda: self.inner.look(name))

    def thaw(self, name: str, days: int, tier: str) -> None:
        self._call("thaw", lambda: self.inner.thaw(name, days, tier))

    def delete(self, name: str) -> None:
        self._call("delete", lambda: self.inner.delete(name))
