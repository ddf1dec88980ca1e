"""sftp:// storage: a folder of a server, or an object store behind an SFTP gateway.

Where files can be renamed, an object is sent as NAME.part, made durable and renamed. Where they
cannot (profiles of gateways), it is sent under its name, which serves once: what a cut leaves
there is neither overwritten nor trusted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any
from urllib.parse import unquote, urlsplit

import paramiko

from pyarchiver.cas import asking
from pyarchiver.cas.pace import Pace
from pyarchiver.cas.profiles import Profile, Way
from pyarchiver.cas.sftp_client import Client, Download, Refused
from pyarchiver.cas.sftp_login import Login, valid_host
from pyarchiver.cas.storage import PART, PROBE, Checksums, Heat, Stored
from pyarchiver.formats.errors import (
    ColdError,
    MissingError,
    SettingsError,
    StorageError,
    TransientError,
    UncertainError,
)

PASSWORD_VARIABLE = "PYARCHIVER_SFTP_PASSWORD"
_MISSING, _DENIED, _FAILURE, _UNSUPPORTED = 2, 3, 4, 8
# SSH_FX_NO_SPACE_ON_FILESYSTEM and SSH_FX_QUOTA_EXCEEDED, of later versions of the protocol.
_FULL = {14, 15}
_LOST = (EOFError, OSError, paramiko.SSHException)


class SftpStorage:
    """Objects as files of one folder of a server. One session, used by one thread at a time.

    A copy that is pickled to another process opens a session of its own.
    """

    spool: Path | None = None

    def __init__(self, url: str, options: Mapping[str, str], profile: Profile) -> None:
        self.url = url
        self.options = dict(options)
        self.profile = profile
        self.uploads = _checked(self.options)
        self.atomic = profile.rename
        self.pace = Pace(0)
        self._host, self._port, self._user, self._folder = _parts(url)
        self._session: Client | None = None
        self._open: tuple[str, Download] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return SftpStorage, (self.url, self.options, self.profile), {"pace": self.pace}

    # The place

    def prepare(self) -> None:
        """Make the folder and those above it, and a file in it."""
        with self._errors(f"storage {self.url}") as session:
            for path in _upwards(self._folder):
                try:
                    session.stat(path)
                except Refused as error:
                    if error.code != _MISSING:
                        raise
                    session.mkdir(path)
            probe = self._path(PROBE)
            session.close_handle(session.open_write(probe, new=False))
            session.remove(probe)

    def check(self) -> None:
        """The folder must be there."""
        with self._errors(f"storage {self.url}") as session:
            if not S_ISDIR(session.stat(self._folder).st_mode or 0):
                raise StorageError(f"storage {self.url} is no folder")

    # Writing

    def put(self, name: str, spooled: Path) -> Checksums:
        """Send the file; UncertainError where the name cannot be renamed to and is spent."""
        if not spooled.exists():
            self.look(name)
            return ()
        size = spooled.stat().st_size
        there = self._size_there(name)
        if there is None:
            if self.atomic:
                self._put_and_rename(name, spooled, size)
            else:
                self._put_directly(name, spooled, size)
        elif there != size or not self.profile.sizes:
            kind = StorageError if self.atomic else UncertainError
            raise kind(f"object {name} is there already: it is not overwritten")
        spooled.unlink()
        return ()

    def _size_there(self, name: str) -> int | None:
        try:
            with self._errors(f"object {name}") as session:
                return session.stat(self._path(name)).st_size or 0
        except MissingError:
            return None

    def _put_and_rename(self, name: str, spooled: Path, size: int) -> None:
        part, path = self._path(name + PART), self._path(name)
        with self._errors(f"object {name}") as session:
            handle = session.open_write(part, new=False)
            self._pour(session, name, handle, spooled, size)
            if not session.syncs:
                # Some servers store a file as it is closed, and only then can it be renamed.
                session.close_handle(handle)
                session.rename(part, path)
                return
            session.fsync(handle)
            session.rename(part, path)
            # On journalling file systems this makes the rename durable too.
            session.fsync(handle)
            session.close_handle(handle)

    def _put_directly(self, name: str, spooled: Path, size: int) -> None:
        path = self._path(name)
        try:
            with self._errors(f"object {name}") as session:
                handle = session.open_write(path, new=True)
                self._pour(session, name, handle, spooled, size)
                session.close_handle(handle)
                if self.profile.sizes and session.stat(path).st_size != size:
                    raise UncertainError(f"object {name} did not arrive whole")
        except TransientError as error:
            raise UncertainError(str(error)) from None

    def _pour(self, session: Client, name: str, handle: bytes, spooled: Path, size: int) -> None:
        try:
            with _opened(spooled) as read:
                session.pour(handle, self.pace.reading(read), size)
        except Refused as error:
            if error.code not in {_FAILURE, *_FULL}:
                raise
            raise StorageError(
                f"object {name}: the storage takes no more ({error}): free some space in "
                f"{self.url} and run resume"
            ) from None

    def delete(self, name: str) -> None:
        """Remove the file, and what an unfinished put left."""
        with self._errors(f"object {name}") as session:
            for path in (self._path(name), self._path(name + PART))[: 1 + self.atomic]:
                try:
                    session.remove(path)
                except Refused as error:
                    if error.code != _MISSING:
                        raise

    # Reading

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """Read a range; the last object stays open for the next one, and is read ahead of."""
        with self._errors(f"object {name}", cold=True) as session:
            if self._open is None or self._open[0] != name:
                self._let_go()
                self._open = name, Download(session, self._path(name))
            return self._open[1].fill(start, into)

    def size(self, name: str) -> int:
        """From the server; StorageError where it tells no sizes."""
        size = self.look(name).size
        if size is None:
            raise StorageError(f"object {name}: the storage does not tell its size")
        return size

    def list(self) -> Iterator[Stored]:
        """Regular files directly in the folder."""
        with self._errors(f"storage {self.url}") as session:
            found = session.listdir_attr(self._folder)
        for item in found:
            if item.st_mode is None or S_ISREG(item.st_mode):
                yield self._stored(item.filename, item.st_size)

    def look(self, name: str) -> Stored:
        """From the server."""
        with self._errors(f"object {name}") as session:
            return self._stored(name, session.stat(self._path(name)).st_size)

    def thaw(self, name: str, days: int, tier: str) -> None:
        """Where reading is the way to ask: try to open it."""
        if self.profile.terms.way == Way.READING:
            with suppress(ColdError):
                self.get_into(name, 0, memoryview(bytearray(1)))

    def close(self) -> None:
        """End the session."""
        self._open = None
        session, self._session = self._session, None
        if session:
            session.close()

    # The session

    def _stored(self, name: str, size: int | None) -> Stored:
        heat = Heat.WARM if self.profile.terms.way == Way.NONE else Heat.COLD
        return Stored(name, size if self.profile.sizes else None, heat)

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"

    def _let_go(self) -> None:
        if self._open:
            _, download = self._open
            self._open = None
            download.close()

    @contextmanager
    def _errors(self, what: str, cold: bool = False) -> Iterator[Client]:
        """The session; what goes wrong with it becomes a StorageError about `what`."""
        if self._session is None:
            self._session = self._login().connect()
        try:
            yield self._session
        except Refused as error:
            raise self._explained(what, error, cold) from None
        except _LOST as error:
            self.close()
            why = f" ({error})" if str(error) else ""
            raise TransientError(f"{what}: the connection to {self._host} was lost{why}") from None
        except BaseException:
            # An interrupt may have come in the middle of a packet.
            self.close()
            raise

    def _explained(self, what: str, error: Refused, cold: bool) -> StorageError:
        match error.code:
            case code if code == _MISSING:
                return MissingError(f"{what}: not there")
            case code if code == _DENIED:
                return StorageError(f"{what}: the server does not permit it")
            case code if code == _UNSUPPORTED:
                return StorageError(f"{what}: the server cannot do it: choose another profile")
        if cold and self.profile.terms.way == Way.READING:
            return ColdError(f"{what} is cold: its thaw has begun")
        return StorageError(f"{what}: the server says: {error}")

    def _login(self) -> Login:
        options = self.options
        by_password = options.get("login") == "password" or options.get("password")
        if by_password and not options.get("password"):
            options["password"] = os.environ.get(PASSWORD_VARIABLE) or asking.ask(
                f"password of {self._user or ''}@{self._host}", PASSWORD_VARIABLE
            )
        return Login(
            self._host,
            self._port,
            self._user,
            key=_file(options.get("key", "")),
            known_hosts=_file(options.get("known hosts", "")),
            accept_new=options.get("new hosts") == "accept",
            password=options["password"] if by_password else None,
            client=options.get("client", "auto"),
        )


@contextmanager
def _opened(spooled: Path) -> Iterator[Callable[[memoryview], int]]:
    """A function that reads the next bytes of a file: our disk's errors are not the server's."""

    def read(into: memoryview) -> int:
        try:
            return file.readinto(into) or 0
        except OSError as error:
            raise StorageError(f"cannot read {spooled}: {error.strerror}") from None

    try:
        file = spooled.open("rb", buffering=0)
    except OSError as error:
        raise StorageError(f"cannot read {spooled}: {error.strerror}") from None
    with file:
        yield read


def _checked(options: Mapping[str, str]) -> int:
    """The number of uploads; SettingsError where an option is none of those that it can be."""
    known = {
        "login": ("key", "password"),
        "new hosts": ("refuse", "accept"),
        "client": ("auto", "ssh", "paramiko"),
    }
    for name, values in known.items():
        if options.get(name, values[0]) not in values:
            raise SettingsError(f"setting {name!r} in [sftp] must be one of {', '.join(values)}")
    for name in ("key", "known hosts"):
        if (path := _file(options.get(name, ""))) and not path.is_absolute():
            raise SettingsError(f"setting {name!r} in [sftp] must be an absolute path, or ~/...")
    text = options.get("uploads", "3")
    if not re.fullmatch(r"[1-9]|1[0-6]", text):
        raise SettingsError("setting 'uploads' in [sftp] must be a number from 1 to 16")
    return int(text)


def _file(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _upwards(folder: str) -> list[str]:
    """A folder and those above it, the highest first."""
    names = folder.split("/")
    return [path for number in range(len(names)) if (path := "/".join(names[: number + 1]))]


def _parts(url: str) -> tuple[str, int | None, str | None, str]:
    """(host, port, user, folder) of an sftp:// URL; a folder below /~/ is in the user's home."""
    wrong = SettingsError(
        f"setting 'url': {url} should be sftp://user@host:port/folder, or /~/folder in the "
        "user's home (# is %23, ? is %3F)"
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.password is not None:
        raise SettingsError(
            "setting 'url': a password does not belong there: set login = password in [sftp]"
        )
    # Not `hostname`, which is in lower case: it may be an alias in ssh's configuration.
    host = parts.netloc.rpartition("@")[2]
    if port is not None or host.endswith(":"):
        host = host.rpartition(":")[0]
    host = host.strip("[]")
    path = unquote(parts.path)
    if not valid_host(host) or parts.query or parts.fragment or not path.startswith("/"):
        raise wrong
    folder = path.removeprefix("/~/") if path.startswith("/~/") else path
    user = unquote(parts.username) if parts.username else None
    if any(ord(character) < 32 for character in path + (user or "")) or "//" in path:
        raise wrong
    return host, port, user, folder.rstrip("/") or ("." if path.startswith("/~/") else "/")
