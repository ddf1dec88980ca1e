"""Blocks are compressed where that gains something, and not even tried where it does not."""

from __future__ import annotations

import pytest

from helpers_cli import noise, words
from pyarchiver.cas.press import press_block
from pyarchiver.formats.block import compressor
from pyarchiver.formats.payload import BLOCK_RAW_MAX

MIB = 1 << 20


class Counted:
    """A compressor that counts what it is given."""

    def __init__(self) -> None:
        self.tried = 0
        self._inner = compressor(3, BLOCK_RAW_MAX)

    def stream_reader(self, data: memoryview, size: int) -> object:
        self.tried += 1
        return self._inner.stream_reader(data, size=size)


def pressed(*chunks: bytes) -> tuple[int, int]:
    """(how often it was tried, bytes of data) of a block."""
    counted, plain = Counted(), memoryview(b"".join(chunks))
    out = memoryview(bytearray(len(plain)))
    _, data = press_block(counted, plain, [len(chunk) for chunk in chunks], out)  # type: ignore[arg-type]
    return counted.tried, len(data)


def test_photographs_are_stored_though_their_metadata_would_shrink() -> None:
    photo = [words(0, 48 << 10), noise(1, 100 << 10), *(noise(n, MIB) for n in range(2, 8))]
    assert pressed(*photo) == (0, sum(map(len, photo)))


@pytest.mark.parametrize("share", [1, 2, 6])
def test_a_block_of_which_a_part_shrinks_is_compressed(share: int) -> None:
    chunks = [words(n, MIB) if n < share else noise(n, MIB) for n in range(7)]
    tried, size = pressed(*chunks)
    assert tried == 1
    assert size < (7 - share) * MIB + share * MIB * 3 // 4


def test_many_small_chunks_are_always_tried() -> None:
    assert pressed(*(noise(n, 100) for n in range(65))) == (1, 6500)
