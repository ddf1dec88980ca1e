"""Forwards loopback connections with a delay each way, as a line of that round trip would.

    python bench/delay.py TARGET-PORT MILLISECONDS

Prints the port that it listens on. The delay is half the round trip; the rate is not limited.
"""

from __future__ import annotations

import asyncio
import sys

# What may be on its way in one direction: more than any window of SSH lets through.
_ON_THE_WAY = 64 << 20


class Line(asyncio.Protocol):
    """One end of a connection; what arrives goes to the other end, later."""

    def __init__(self, target: int, delay: float, other: Line | None = None) -> None:
        self._target = target
        self._delay = delay
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(_ON_THE_WAY)
        if self.other is None:
            self._task = asyncio.ensure_future(self._connect())
        for data in self._early:
            transport.write(data)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self.other = Line(self._target, self._delay, self)
        await loop.create_connection(lambda: self.other or self, "127.0.0.1", self._target)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self._delay, self._pass_on, data)

    def _pass_on(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            (self.other or self)._early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        asyncio.get_running_loop().call_later(self._delay, self._hang_up)

    def _hang_up(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.close()


async def forward(target: int, delay: float) -> None:
    """Until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Line(target, delay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(forward(int(sys.argv[1]), float(sys.argv[2]) / 2000))
