"""How fast the parts are, alone on one core, of which archiving is made."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from blake3 import blake3

from pyarchiver.cas.cutter import Cutter
from pyarchiver.formats.aead import SUITES, Suite
from pyarchiver.formats.block import compressor

_SIZE = 8 << 20
_SEGMENT = 1 << 20
_SECONDS = 0.5


def speeds() -> dict[str, float]:
    """MB/s of each primitive, on 8 MiB that lie in memory, buffers reused."""
    noise = memoryview(random.Random(1).randbytes(_SIZE))
    words = memoryview(
        b" ".join(b"%d" % (k * 2654435761 % 99991) for k in range(_SIZE // 5))[:_SIZE]
    )
    out = memoryview(bytearray(_SIZE + 4096))
    found = {
        "BLAKE3": _rate(lambda: blake3(noise).digest()),
        "FastCDC": _rate(lambda: list(Cutter(512 << 10, 1).cut(noise, 1 << 20, True))),
    }
    for level in (1, 3, 9):
        found[f"zstd -{level}, digits"] = _rate(partial(_press, level, words, out))
    for suite in SUITES.values():
        found[suite.name] = _rate(partial(_seal, suite, noise, out))
    found |= _file_speeds(noise, out)
    return found


def _press(level: int, plain: memoryview, out: memoryview) -> None:
    compressor(level, _SIZE).stream_reader(plain, size=len(plain)).readinto(out)


def _seal(suite: Suite, plain: memoryview, out: memoryview) -> None:
    for at in range(0, len(plain), _SEGMENT):
        suite.seal(plain[at : at + _SEGMENT], b"", bytes(suite.nonce), bytes(32), out)


def _file_speeds(data: memoryview, out: memoryview) -> dict[str, float]:
    with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as file:
        descriptor = file.fileno()

        def write() -> None:
            os.pwrite(descriptor, data, 0)

        def write_durably() -> None:
            os.pwrite(descriptor, data, 0)
            os.fsync(descriptor)

        return {
            "write to the page cache": _rate(write),
            "write and fsync": _rate(write_durably),
            "read from the page cache": _rate(lambda: os.preadv(descriptor, [out[:_SIZE]], 0)),
        }


def _rate(work: Callable[[], object]) -> float:
    work()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        at = time.perf_counter()
        work()
        times.append(time.perf_counter() - at)
    return _SIZE / min(times) / 1e6
