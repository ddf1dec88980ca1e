"""paramiko's SFTPClient with pipelines of its own: writes in flight, reads ahead, both bounded.

paramiko's own files send 32 KiB at a time, lose the errors of pipelined writes, and copy every
byte three or four times; its prefetch is unlimited or slow. So data goes through `pour` and
`Download`, everything else through paramiko.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paramiko
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_DATA,
    CMD_EXTENDED,
    CMD_EXTENDED_REPLY,
    CMD_HANDLE,
    CMD_OPEN,
    CMD_READ,
    CMD_STATUS,
    CMD_VERSION,
    CMD_WRITE,
    SFTP_EOF,
    SFTP_FLAG_CREATE,
    SFTP_FLAG_EXCL,
    SFTP_FLAG_READ,
    SFTP_FLAG_TRUNC,
    SFTP_FLAG_WRITE,
    SFTP_OK,
)

PROTOCOL = 3
# What every server must take; more only where it says so. 255 KiB is OpenSSH's own limit.
_STEP = 32 << 10
_STEP_MIN = 4 << 10
_STEP_MAX = 255 << 10
# Of one file, sent and not yet answered, or asked for and not yet wanted: 2.5 times what the
# window of an OpenSSH connection lets through at once.
IN_FLIGHT = 5 << 20
_FSYNC, _LIMITS = b"fsync@openssh.com", b"limits@openssh.com"
_WRITE_HEAD = struct.Struct(">IBII")
_PACKET = struct.Struct(">IBI")


class Refused(Exception):
    """The server answered, with an error of the protocol."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Garbled(EOFError):
    """The server sent what the protocol does not allow."""


class Client(paramiko.SFTPClient):
    """An SFTP session over a socket (of a process that carries it) or a paramiko channel.

    Raises Refused for the server's errors; EOFError, OSError or SSHException where the connection
    is lost. Used by one thread at a time.
    """

    def __init__(self, sock: Any, hang_up: Callable[[], None]) -> None:
        self.extensions: dict[bytes, bytes] = {}
        self._hang_up = hang_up
        super().__init__(sock)
        self.read_step, self.write_step = self._limits()

    def close(self) -> None:
        """End the session, and what carries it."""
        super().close()
        self._hang_up()

    # Files

    def open_read(self, path: str) -> bytes:
        """A handle."""
        return self._open(path, SFTP_FLAG_READ)

    def open_write(self, path: str, *, new: bool) -> bytes:
        """A handle of an empty file; `new`: refused where there is one already."""
        how = SFTP_FLAG_EXCL if new else SFTP_FLAG_TRUNC
        return self._open(path, SFTP_FLAG_WRITE | SFTP_FLAG_CREATE | how)

    def close_handle(self, handle: bytes) -> None:
        """Close a file; for some servers this is what stores it."""
        self._call(CMD_CLOSE, _string(handle))

    def fsync(self, handle: bytes) -> None:
        """Make a file durable, where the server offers to."""
        if _FSYNC in self.extensions:
            self._call(CMD_EXTENDED, _string(_FSYNC), _string(handle))

    @property
    def syncs(self) -> bool:
        """Whether the server offers fsync."""
        return _FSYNC in self.extensions

    def pour(self, handle: bytes, read: Callable[[memoryview], int], size: int) -> None:
        """Write `size` bytes, which `read` puts where it is told, returning how many it has."""
        step, head = self.write_step, _WRITE_HEAD.size + len(handle) + 12
        packet = bytearray(head + step)
        view = memoryview(packet)
        waiting: set[int] = set()
        at = 0
        while at < size or waiting:
            if at < size and len(waiting) * step < IN_FLIGHT:
                count = read(view[head : head + min(step, size - at)])
                if not count:
                    raise Refused(SFTP_EOF, "the spooled file became shorter")
                number = self._next_number()
                length = head + count
                _WRITE_HEAD.pack_into(packet, 0, length - 4, CMD_WRITE, number, len(handle))
                struct.pack_into(f">{len(handle)}sQI", packet, _WRITE_HEAD.size, handle, at, count)
                self._write_all(view[:length])
                waiting.add(number)
                at += count
            else:
                number, kind, body = self._answer()
                if number in waiting:
                    waiting.remove(number)
                    _check_status(kind, body)

    def _open(self, path: str, flags: int) -> bytes:
        attributes = struct.pack(">I", 0)
        kind, body = self._call(
            CMD_OPEN, _string(path.encode()), struct.pack(">I", flags), attributes
        )
        if kind != CMD_HANDLE:
            raise Garbled("no handle")
        return _take_string(body)

    def _limits(self) -> tuple[int, int]:
        """Bytes of one read and of one write."""
        if _LIMITS not in self.extensions:
            return _STEP, _STEP
        kind, body = self._call(CMD_EXTENDED, _string(_LIMITS))
        if kind != CMD_EXTENDED_REPLY or len(body) < 32:
            raise Garbled("no limits")
        packet, read, write, _ = struct.unpack_from(">4Q", body)
        most = min(packet - 1024, _STEP_MAX) if packet > 2 * _STEP else _STEP
        # Smaller steps than any server needs would be as many answers to keep in mind.
        return max(_STEP_MIN, min(read or _STEP, most)), max(_STEP_MIN, min(write or _STEP, most))

    # Packets

    def post_read(self, handle: bytes, offset: int, length: int) -> int:
        """Ask for bytes of a file; returns the number of the answer."""
        return self._post(CMD_READ, _string(handle), struct.pack(">QI", offset, length))

    def answer_into(self, wanted: Callable[[int], memoryview | None]) -> tuple[int, int | None]:
        """Read one answer, its data straight to where `wanted` says that the number's goes.

        Returns its number and how many bytes came; None: the end of the file. Raises Refused.
        """
        length, kind, number = self._head()
        into = wanted(number)
        if into is None or kind != CMD_DATA:
            body = self._read_all(length)
            if into is None:
                return number, 0
            _check_status(kind, body, end=True)
            return number, None
        (count,) = struct.unpack(">I", self._read_all(4))
        if count > len(into) or count + 4 > length:
            raise Garbled("more data than was asked for")
        self._exactly(into[:count])
        self._read_all(length - 4 - count)
        return number, count

    def _call(self, kind: int, *fields: bytes) -> tuple[int, bytes]:
        number = self._post(kind, *fields)
        while True:
            answered, answer, body = self._answer()
            if answered == number:
                if answer == CMD_STATUS:
                    _check_status(answer, body)
                return answer, body

    def _post(self, kind: int, *fields: bytes) -> int:
        number = self._next_number()
        payload = b"".join(fields)
        self._write_all(_PACKET.pack(5 + len(payload), kind, number) + payload)
        return number

    def _answer(self) -> tuple[int, int, bytes]:
        length, kind, number = self._head()
        return number, kind, self._read_all(length)

    def _head(self) -> tuple[int, int, int]:
        """Length of what follows, kind and number of the next packet."""
        length, kind, number = _PACKET.unpack(self._read_all(_PACKET.size))
        if not 5 <= length <= 1 << 24:
            raise Garbled("no SFTP packet")
        return length - 5, kind, number

    def _next_number(self) -> int:
        self.request_number = (self.request_number + 1) & 0xFFFFFFFF
        return self.request_number

    # What paramiko calls

    def _send_version(self) -> int:
        self._write_all(struct.pack(">IBI", 5, 1, PROTOCOL))
        length, kind = struct.unpack(">IB", self._read_all(5))
        if kind != CMD_VERSION or not 5 <= length <= 1 << 18:
            raise Garbled("no SFTP server")
        body = self._read_all(length - 1)
        pairs = body[4:]
        while pairs:
            name = _take_string(pairs)
            value = _take_string(pairs[4 + len(name) :])
            self.extensions[name] = value
            pairs = pairs[8 + len(name) + len(value) :]
        version: int = struct.unpack_from(">I", body)[0]
        return version

    def _read_all(self, n: int) -> bytes:
        data = bytearray(n)
        self._exactly(memoryview(data))
        return bytes(data)

    def _exactly(self, into: memoryview) -> None:
        sock: Any = self.sock
        while into:
            if isinstance(sock, socket.socket):
                count = sock.recv_into(into, len(into), socket.MSG_WAITALL)
            else:
                data = sock.recv(len(into))
                count = len(data)
                into[:count] = data
            if not count:
                raise EOFError
            into = into[count:]

    def _write_all(self, out: Any) -> None:
        sock: Any = self.sock
        sock.sendall(out if isinstance(sock, socket.socket) else bytes(out))

    def _convert_status(self, msg: paramiko.Message) -> None:
        code, text = msg.get_int(), msg.get_text()
        if code == SFTP_EOF:
            raise EOFError
        if code != SFTP_OK:
            raise Refused(code, text)

    def _log(self, *_: object) -> None:
        """Sockets have no name to log."""


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _take_string(data: bytes) -> bytes:
    if len(data) < 4 or len(data) < 4 + (length := struct.unpack_from(">I", data)[0]):
        raise Garbled("a string is cut")
    return data[4 : 4 + length]


def _check_status(kind: int, body: bytes, end: bool = False) -> None:
    """Raise Refused unless the status is OK, or with `end` the end of the file."""
    if kind != CMD_STATUS or len(body) < 4:
        raise Garbled("no status")
    code = struct.unpack_from(">I", body)[0]
    if code not in (SFTP_OK, SFTP_EOF if end else SFTP_OK):
        text = _take_string(body[4:]) if len(body) > 8 else b""
        raise Refused(code, text.decode("utf-8", "replace"))


@dataclass(slots=True)
class _Block:
    """A stretch of the file that was asked for; less than `length` is filled where it ends."""

    start: int
    length: int
    data: memoryview
    filled: int = 0
    ended: bool = False

    @property
    def done(self) -> bool:
        return self.ended or self.filled == self.length

    @property
    def rest(self) -> memoryview:
        return self.data[self.filled : self.length]


class Download:
    """An open file, read in ranges; of one that begins where the last one ended, more is asked for.

    What is read ahead doubles with each such range, and never exceeds IN_FLIGHT bytes.
    """

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._handle = client.open_read(path)
        self._blocks: deque[_Block] = deque()
        self._flying: dict[int, _Block] = {}
        self._spare: list[memoryview] = []
        self._at = self._next = self._ahead = 0

    def close(self) -> None:
        """Close the file; answers that are under way are skipped."""
        self._seek(0)
        self._client.close_handle(self._handle)

    def fill(self, start: int, into: memoryview) -> int:
        """Fill `into` from `start` on; returns how many bytes there were."""
        if start != self._at:
            self._seek(start)
        elif start:
            self._ahead = min(max(2 * self._ahead, self._client.read_step), IN_FLIGHT)
        filled = 0
        while filled < len(into):
            self._ask(start + len(into) + self._ahead)
            block = self._blocks[0]
            while not block.done:
                self._receive()
            skip = start + filled - block.start
            part = block.data[skip : min(block.filled, skip + len(into) - filled)]
            into[filled : filled + len(part)] = part
            filled += len(part)
            if skip + len(part) == block.filled:
                if block.filled < block.length:
                    self._seek(start + filled)
                    break
                self._spare.append(self._blocks.popleft().data)
        self._at = start + filled
        return filled

    def _seek(self, start: int) -> None:
        self._blocks.clear()
        self._flying.clear()
        self._spare.clear()
        self._at = self._next = start
        self._ahead = 0

    def _ask(self, until: int) -> None:
        step = self._client.read_step
        while self._next < until and len(self._blocks) * step < IN_FLIGHT:
            length = step if self._ahead else min(step, until - self._next)
            data = self._spare.pop() if self._spare else memoryview(bytearray(step))
            block = _Block(self._next, length, data)
            self._blocks.append(block)
            self._next += length
            self._post(block)

    def _post(self, block: _Block) -> None:
        at, length = block.start + block.filled, block.length - block.filled
        self._flying[self._client.post_read(self._handle, at, length)] = block

    def _receive(self) -> None:
        number, count = self._client.answer_into(self._where)
        block = self._flying.pop(number, None)
        if block is None:
            return
        block.filled += count or 0
        block.ended = not count
        if not block.done:
            self._post(block)

    def _where(self, number: int) -> memoryview | None:
        block = self._flying.get(number)
        return block.rest if block else None
