"""A sealed object: header | segment 0 | ... | last segment | header again.

The payload is cut into segments of 1 MiB; each is sealed with the object's key under the nonce
`segment number (8) | 1 if it is the last, else 0 (1) | zeros`, with the header's hash as
associated data (the STREAM construction: Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015).
So segments cannot be reordered, dropped, cut off or moved between objects unnoticed, and any
one can be read alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pyarchiver.formats import header as headers
from pyarchiver.formats.aead import Buffer, Suite
from pyarchiver.formats.errors import DamagedError, FormatError, StorageError
from pyarchiver.formats.header import Header
from pyarchiver.formats.padme import padme

SEGMENT = 1 << 20
# Enough of a header to be recognised: magic, length of the fields, and some of them.
_TRACE = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in an object whose header has `header` bytes, and tags `tag` bytes."""

    header: int
    tag: int

    def sealed_size(self, payload: int) -> int:
        """Size in bytes of the whole object with `payload` bytes in it (at least 1)."""
        return 2 * self.header + payload + -(-payload // SEGMENT) * self.tag

    def payload_size(self, size: int) -> int:
        """Payload bytes of an object of `size` bytes; DamagedError where no payload fits."""
        body = size - 2 * self.header
        segments = -(-body // (SEGMENT + self.tag))
        payload = body - segments * self.tag
        if payload < 1 or -(-payload // SEGMENT) != segments:
            raise DamagedError(f"{size} bytes are no possible size of an object: it was cut")
        return payload

    def segment_at(self, number: int) -> int:
        """Offset of segment `number` in the object."""
        return self.header + number * (SEGMENT + self.tag)

    def padding(self, payload: int, least: int) -> tuple[int, int]:
        """(padding bytes to add, size of the object) so that the size is a Padmé value.

        The padding is 0, or at least `least`, the overhead of its own record. A few sizes are
        out of reach (a new segment brings its tag), then the next Padmé value is taken.
        """
        base = 2 * self.header
        size = padme(self.sealed_size(payload))
        while True:
            segments = -(-(size - base) // (SEGMENT + self.tag))
            padded = size - base - segments * self.tag
            reachable = self.sealed_size(padded) == size
            if reachable and (padded == payload or padded >= payload + least):
                return padded - payload, size
            size = padme(size + 1)


def _nonce(suite: Suite, number: int, last: bool) -> bytes:
    return struct.pack("<QB", number, last).ljust(suite.nonce, b"\0")


class Sealer:
    """Seals a payload given piece by piece; hands each sealed piece to `sink`.

    What `sink` is given is overwritten at the next call: it must be written out or copied.
    """

    def __init__(self, header: Header, key: bytes, sink: Callable[[Buffer], object]) -> None:
        self._header = header
        self._aad = header.hash
        self._key = key
        self._sink = sink
        self._plain = memoryview(bytearray(SEGMENT))
        self._sealed = memoryview(bytearray(SEGMENT + header.suite.tag))
        self._filled = 0
        self._number = 0
        sink(header.raw)

    def feed(self, data: Buffer) -> None:
        """Append `data` to the payload."""
        view = memoryview(data)
        while view:
            # Sealed only when more follows: the last segment must be known to be the last.
            if self._filled == SEGMENT:
                self._seal(self._plain, last=False)
                self._filled = 0
            if not self._filled and len(view) > SEGMENT:
                self._seal(view[:SEGMENT], last=False)
                view = view[SEGMENT:]
                continue
            taken = min(SEGMENT - self._filled, len(view))
            self._plain[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]

    def finish(self) -> None:
        """Seal the last segment and repeat the header."""
        self._seal(self._plain[: self._filled], last=True)
        self._sink(self._header.raw)

    def _seal(self, plain: memoryview, *, last: bool) -> None:
        suite = self._header.suite
        nonce = _nonce(suite, self._number, last)
        size = suite.seal(plain, self._aad, nonce, self._key, self._sealed)
        self._sink(self._sealed[:size])
        self._number += 1


def seal_object(header: Header, key: bytes, payload: Iterable[Buffer]) -> bytes:
    """A whole small object in memory."""
    out = bytearray()
    sealer = Sealer(header, key, out.extend)
    for piece in payload:
        sealer.feed(piece)
    sealer.finish()
    return bytes(out)


ReadAt = Callable[[int, memoryview], int]
"""`read_at(offset, into)` fills `into` from `offset` on and returns the bytes read."""


@dataclass(frozen=True)
class Found:
    """The header of an object, and what was wrong with its two copies.

    `whole` is False where the copy at the end is not there or differs: the object may have been
    cut. `other` is the copy at the end where it is another header: which of the two is right,
    their MAC tells.
    """

    header: Header
    whole: bool
    notices: tuple[str, ...]
    other: Header | None = None

    def swapped(self) -> Found | None:
        """The same with the other copy as the one to use."""
        if self.other is None:
            return None
        return Found(self.other, True, ("the header at the front was altered",))


def find_header(read_at: ReadAt, size: int) -> Found:
    """The header of an object of `size` bytes, from either end.

    Raises ForeignError, UnsupportedError or DamagedError where no copy can be used.
    """
    front_error: FormatError | None = None
    front = back = None
    try:
        front = headers.parse_front(_read(read_at, 0, min(size, headers.HEADER_MAX)))
    except FormatError as error:
        front_error = error
    try:
        start = max(0, size - headers.HEADER_MAX)
        back = headers.parse_back(_read(read_at, start, size - start))
    except FormatError:
        pass
    if front is None:
        if back is None:
            assert front_error is not None
            raise front_error
        return Found(back, True, (f"the header at the front is damaged ({front_error})",))
    if back is None:
        return Found(front, False, ("the header at the end is missing or damaged",))
    if front.raw != back.raw:
        return Found(front, False, ("the header at the end differs from the one in front",), back)
    if size < 2 * len(front.raw):
        return Found(front, False, ("nothing follows the header",))
    return Found(front, True, ())


def _read(read_at: ReadAt, offset: int, length: int) -> bytes:
    data = bytearray(length)
    return bytes(data[: read_at(offset, memoryview(data))])


class Opener:
    """Opens the segments of one object, any range of its payload at a time.

    `size` is the object's real size. `whole` tells whether its last segment is there; of an
    object that was cut, the segments that are complete can still be opened.
    """

    def __init__(self, found: Found, key: bytes, read_at: ReadAt, size: int) -> None:
        self._header = found.header
        self._aad = found.header.hash
        self._key = key
        self._read_at = read_at
        self._layout = Layout(len(found.header.raw), found.header.suite.tag)
        self._scratch = memoryview(bytearray(SEGMENT + self._layout.tag))
        self._plain = memoryview(bytearray(SEGMENT))
        self._cached = -1
        self.whole = True
        if found.whole and self._fits(size):
            return
        # The header at the end is damaged, cut or followed by something: the last segment tells.
        if any(self._fits(end) and self._ends_here() for end in self._possible_ends(size)):
            return
        self.whole = False
        step = SEGMENT + self._layout.tag
        self.length = max(0, (size - self._layout.header) // step) * SEGMENT

    def _fits(self, size: int) -> bool:
        try:
            self.length = self._layout.payload_size(size)
        except DamagedError:
            return False
        return True

    def _ends_here(self) -> bool:
        last = (self.length - 1) // SEGMENT
        try:
            self._open(last, self._plain)
        except DamagedError:
            return False
        return True

    def _possible_ends(self, size: int) -> Iterator[int]:
        """Sizes the object may have had, if only its second header was cut or altered.

        The present one; the Padmé value above it; that of a full last segment; and what the last
        trace of the second header says.
        """
        header, step = self._layout.header, SEGMENT + self._layout.tag
        yield size
        yield padme(size)
        yield 2 * header + (size - header) // step * step
        start = max(0, size - 2 * headers.HEADER_MAX)
        tail = _read(self._read_at, start, size - start)
        at = tail.rfind(self._header.raw[:_TRACE])
        if at >= 0:
            yield start + at + header

    def read(self, start: int, length: int) -> memoryview:
        """Payload bytes `start` .. `start + length`, fewer where the object was cut.

        Raises DamagedError if a segment of the range was altered.
        """
        end = min(start + length, self.length)
        out = memoryview(bytearray(max(0, end - start)))
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the payload from `start` on; it must lie within `length`."""
        if start < 0 or start + len(out) > self.length:
            raise DamagedError("a record reaches beyond the object's end")
        filled = 0
        while filled < len(out):
            number, skip = divmod(start + filled, SEGMENT)
            taken = min(self._segment_length(number) - skip, len(out) - filled)
            if taken == SEGMENT:
                self._open(number, out[filled : filled + SEGMENT])
            else:
                if number != self._cached:
                    self._cached = -1
                    self._open(number, self._plain)
                    self._cached = number
                out[filled : filled + taken] = self._plain[skip : skip + taken]
            filled += taken

    def intact_from(self, start: int) -> memoryview:
        """The payload from `start` to the first segment that cannot be opened, at most 16 MiB."""
        out = bytearray()
        while start < self.length and len(out) < 16 << 20:
            length = min(SEGMENT - start % SEGMENT, self.length - start)
            try:
                out += self.read(start, length)
            except (DamagedError, StorageError):
                break
            start += length
        return memoryview(out)

    def sound_segments(self) -> int:
        """How many segments can be opened: which of two damaged copies is the better one."""
        sound = 0
        for number in range(-(-self.length // SEGMENT)):
            self._cached = -1
            try:
                self._open(number, self._plain)
            except (DamagedError, StorageError):
                continue
            sound += 1
        return sound

    def _segment_length(self, number: int) -> int:
        return min(SEGMENT, self.length - number * SEGMENT)

    def _open(self, number: int, out: memoryview) -> None:
        size = self._segment_length(number)
        sealed = self._scratch[: size + self._layout.tag]
        if self._read_at(self._layout.segment_at(number), sealed) != len(sealed):
            raise DamagedError(f"segment {number} is cut off")
        last = self.whole and (number + 1) * SEGMENT >= self.length
        suite = self._header.suite
        try:
            suite.open(sealed, self._aad, _nonce(suite, number, last), self._key, out[:size])
        except DamagedError:
            raise DamagedError(f"segment {number} was altered") from None
