"""Restore and decrypt ended at calls of the system; run again, it is as if nothing was."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from helpers_cli import Place, Sizes, differences, noise, patched, small, write
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.progress import Quiet
from pyarchiver.formats.errors import ArchiverError, DestinationError, StorageError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
SIZES = Sizes(block=64 << 10, segment=64 << 10)
STRIDE = 1 if "PYARCHIVER_CRASH" in os.environ else 5
Action = Callable[[], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An archive of files in pieces, whole ones, links, holes, attributes."""
    place = Place(tmp_path_factory.mktemp("made"))
    for number in range(4):
        write(place.source / f"d{number % 2}" / f"{number}.raw", noise(number, 150_000))
        write(place.source / f"d{number % 2}" / f"{number}.txt", noise(number, 100))
    os.setxattr(place.source / "d0" / "0.txt", "user.note", b"note")
    os.link(place.source / "d0" / "0.txt", place.source / "d1" / "other name")
    (place.source / "link").symlink_to("nowhere")
    with (place.source / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    with small(SIZES):
        place.start(SIZES)
    return place


@contextmanager
def ending(call: str, number: int, error: BaseException, torn: bool = False) -> Iterator[list[int]]:
    """Make the `number`-th call fail; yields a list with how many there were."""
    owner = os if hasattr(os, call) else LocalStorage
    original = getattr(owner, call)
    count = [0]

    def failing(*arguments: Any, **named: Any) -> Any:
        count[0] += 1
        if count[0] != number:
            return original(*arguments, **named)
        if torn:
            descriptor, data = arguments
            original(descriptor, memoryview(data)[: len(data) // 2])
        raise error

    if original in os.supports_follow_symlinks:
        os.supports_follow_symlinks.add(failing)
    with patched((owner, call, failing)):
        yield count
    os.supports_follow_symlinks.discard(failing)


def _every(call: str, action: Action, reset: Action, error: BaseException, torn: bool) -> int:
    """Have `action` fail at every call in turn, and then run again; returns how often it did."""
    number, fired = 1, 0
    while True:
        reset()
        with (
            ending(call, number, error, torn) as count,
            suppress(KeyboardInterrupt, ArchiverError),
        ):
            action()
        if count[0] < number:
            print(f"{call}: {fired} faults")
            return fired
        fired += 1
        action()
        number += STRIDE


CALLS = [
    "open",
    "write",
    "mkdir",
    "symlink",
    "link",
    "utime",
    "chmod",
    "replace",
    "ftruncate",
    "rmdir",
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("way", ["restore", "decrypt"])
def test_reading_ended_at_every_call(made: Place, tmp_path: Path, call: str, way: str) -> None:
    """Interrupted at any call, the next restore completes it."""
    out = tmp_path / "out"

    def action() -> None:
        observer = Quiet()
        with small(SIZES):
            if way == "restore":
                made.restore(out, observer)
            else:
                made.decrypt(made.storage, out, observer)
        assert not observer.problems
        assert differences(made.source, out) == ""

    fired = _every(call, action, lambda: shutil.rmtree(out, True), KeyboardInterrupt(), False)
    assert fired


@pytest.mark.parametrize(
    ("call", "torn"),
    [("write", False), ("write", True), ("mkdir", False), ("ftruncate", False),
     ("replace", False), ("symlink", False)],
)  # fmt: skip
def test_full_destination_at_every_call(made: Place, tmp_path: Path, call: str, torn: bool) -> None:
    """A disk that is full at any call: said, and nothing half has the name of a file."""
    out = tmp_path / "out"
    failed = 0

    def action() -> None:
        nonlocal failed
        observer = Quiet()
        try:
            with small(SIZES):
                made.restore(out, observer)
        except DestinationError as error:
            failed += 1
            assert "No space left" in str(error)
            _assert_nothing_half(made, out)
            raise
        assert not observer.problems
        assert differences(made.source, out) == ""

    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fired = _every(call, action, lambda: shutil.rmtree(out, True), error, torn)
    assert fired == failed > 0


@pytest.mark.parametrize(
    ("way", "call"), [("restore", "get_into"), ("decrypt", "get_into"), ("decrypt", "size")]
)
def test_storage_that_fails_at_every_call(made: Place, tmp_path: Path, call: str, way: str) -> None:
    """What it did not give is named, what it gave is right, and the next time gives the rest."""
    out = tmp_path / "out"
    counts = [0, 0]

    def action() -> None:
        observer = Quiet()
        with small(SIZES):
            if way == "restore":
                made.restore(out, observer)
            else:
                made.decrypt(made.storage, out, observer)
        _assert_nothing_half(made, out)
        whole = differences(made.source, out) == ""
        counts[whole] += 1
        assert whole or observer.problems

    error = StorageError("the disk makes noises")
    fired = _every(call, action, lambda: shutil.rmtree(out, True), error, False)
    assert fired
    # As often as it failed, it was whole the next time.
    assert counts[True] > fired


def _assert_nothing_half(made: Place, out: Path) -> None:
    for path in out.rglob("*"):
        if path.is_file() and not path.parent.name.startswith(".pyarchiver-parts"):
            original = made.source / path.relative_to(out)
            assert path.read_bytes() == original.read_bytes()
