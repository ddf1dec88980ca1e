"""A fake cold gateway: SFTP in front of an object store, as some providers of tape offer it.

An upload becomes an object when its file is closed, and is sealed at once. Reading a sealed object
fails and starts its unsealing, which takes `delay` on a clock that the test moves; it can be read
for `window`, then it is sealed again. No rename, no append, no utime; sizes may be shown as 0.
What a dropped session had uploaded becomes an object too, a short one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.sftp import (
    SFTP_EOF,
    SFTP_FAILURE,
    SFTP_NO_SUCH_FILE,
    SFTP_OK,
    SFTP_OP_UNSUPPORTED,
)

from helpers_cold import HOUR, FakeClock
from servers_sftp import LOGIN, USER, Keys, Server


class Gateway:
    """What the gateway knows: states, counts of what was asked for, and when to drop a session.

    `requests` counts the unsealings that began, by name; `overwritten` the objects that an upload
    replaced; `drop` the bytes after which the next sessions are dropped, in order.
    """

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.folder = folder
        self.clock = clock
        self.delay = 4 * HOUR
        self.window = 24 * HOUR
        self.sizes = True
        self.seals = True
        self.full = False
        self.requests: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.overwritten: list[str] = []
        self.drop: list[int] = []
        self.dropped = 0
        self.lock = threading.Lock()
        self._asked: dict[str, float] = {}

    def readable(self, name: str) -> bool:
        """Whether an object can be read now; if not, its unsealing begins."""
        if not self.seals:
            return True
        with self.lock:
            since = self.clock.now() - self._asked.get(name, -1e12)
            if since >= self.delay + self.window:
                self.requests[name] += 1
                self._asked[name] = self.clock.now()
                return False
            return since >= self.delay

    def seal(self, name: str) -> None:
        """An upload has ended."""
        with self.lock:
            self._asked.pop(name, None)


class _Login(paramiko.ServerInterface):
    """USER with the tests' key, or with LOGIN."""

    def __init__(self, key: paramiko.PKey) -> None:
        self._key = key

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = username == USER and key.asbytes() == self._key.asbytes()
        return AUTH_SUCCESSFUL if good else AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        good = username == USER and password == LOGIN
        return AUTH_SUCCESSFUL if good else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED


class _Session(paramiko.SFTPServerInterface):
    """One client's view of the gateway."""

    def __init__(
        self, server: paramiko.ServerInterface, gateway: Gateway, transport: paramiko.Transport
    ) -> None:
        super().__init__(server)
        self.gateway = gateway
        self._transport = transport
        with gateway.lock:
            self._left = gateway.drop.pop(0) if gateway.drop else None

    def count(self, size: int) -> None:
        """Drop the session when it has moved what it may."""
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                self._left = None
                self.gateway.dropped += 1
                self._transport.close()
                raise ConnectionResetError

    def _where(self, path: str) -> Path:
        return self.gateway.folder / path.strip("/")

    def _attributes(self, path: Path) -> paramiko.SFTPAttributes:
        attributes = paramiko.SFTPAttributes.from_stat(path.stat(), path.name)
        if path.is_file() and not self.gateway.sizes:
            attributes.st_size = 0
        return attributes

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        try:
            found = list(self._where(path).iterdir())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        self.count(100 * len(found))
        return [self._attributes(item) for item in found]

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return self._attributes(self._where(path))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    lstat = stat

    def open(
        self, path: str, flags: int, attr: paramiko.SFTPAttributes
    ) -> paramiko.SFTPHandle | int:
        where = self._where(path)
        try:
            if not flags & (os.O_WRONLY | os.O_RDWR):
                if not where.is_file():
                    return SFTP_NO_SUCH_FILE
                if not self.gateway.readable(where.name):
                    return SFTP_FAILURE
                return _Download(self, where)
            if flags & (os.O_APPEND | os.O_RDWR):
                self.gateway.refused["append"] += 1
                return SFTP_OP_UNSUPPORTED
            if where.exists():
                if flags & os.O_EXCL:
                    return SFTP_FAILURE
                self.gateway.overwritten.append(where.name)
            return _Upload(self, where)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def remove(self, path: str) -> int:
        try:
            self._where(path).unlink()
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return SFTP_OK

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        try:
            self._where(path).mkdir()
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return SFTP_OK

    def rename(self, oldpath: str, newpath: str) -> int:
        self.gateway.refused["rename"] += 1
        return SFTP_OP_UNSUPPORTED

    posix_rename = rename

    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        self.gateway.refused["utime"] += 1
        return SFTP_OP_UNSUPPORTED


class _Download(paramiko.SFTPHandle):
    """An unsealed object that is being read. No file stays open: sessions end without notice."""

    def __init__(self, session: _Session, path: Path) -> None:
        super().__init__()
        self._session = session
        self._path = path

    def read(self, offset: int, length: int) -> bytes | int:
        self._session.count(length)
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(length) or SFTP_EOF


class _Upload(paramiko.SFTPHandle):
    """An object that is being sent: bytes in order, and nothing but bytes."""

    def __init__(self, session: _Session, path: Path) -> None:
        super().__init__()
        self._session = session
        self._path = path
        path.write_bytes(b"")

    def write(self, offset: int, data: Any) -> int:
        self._session.count(len(data))
        if self._session.gateway.full or offset != self._path.stat().st_size:
            return SFTP_FAILURE
        with self._path.open("ab") as file:
            file.write(data)
        return SFTP_OK

    def close(self) -> None:
        self._session.gateway.seal(self._path.name)


def _serve(client: socket.socket, gateway: Gateway, keys: Keys) -> None:
    with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
        transport = paramiko.Transport(client)
        transport.daemon = True
        transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(keys.host)))
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Session, gateway, transport)
        user = paramiko.Ed25519Key.from_private_key_file(str(keys.user))
        transport.start_server(event=threading.Event(), server=_Login(user))
        transport.join()


@contextlib.contextmanager
def cold_gateway(work: Path, clock: FakeClock | None = None) -> Iterator[tuple[Server, Gateway]]:
    """The gateway, and what it knows; the first part of a path is the container."""
    work.mkdir()
    keys, folder = Keys.make(work / "keys"), work / "served"
    folder.mkdir()
    gateway = Gateway(folder, clock or FakeClock())
    clients: list[socket.socket] = []
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            clients.append(client)
            thread = threading.Thread(target=_serve, args=(client, gateway, keys))
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield keys.server(listener.getsockname()[1], folder, USER, ""), gateway
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        listener.close()
        for client in clients:
            client.close()
