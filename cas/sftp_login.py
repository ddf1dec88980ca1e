"""Opens SFTP sessions: through the system's ssh where there is one, else through paramiko.

The system's ssh is faster, and brings the user's configuration, agent and known hosts. Password
logins and machines without ssh use paramiko's transport. Host keys are verified in both.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import paramiko

from pyarchiver.cas.sftp_client import Client
from pyarchiver.formats.errors import StorageError, TransientError

_TIMEOUT = 30
# A connection that says nothing for a minute is given up.
_ALIVE_EVERY, _ALIVE_COUNT = 15, 4
# paramiko has a window of its own, which is not OpenSSH's 2 MiB: 16 MiB in a round trip.
_WINDOW, _PACKET = 16 << 20, 1 << 18
# What is sent is sealed already, and AES in hardware is twice as fast as the default. Where ssh's
# own configuration names ciphers, those count.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
_SOCKET_BUFFER = 4 << 20


@dataclass(frozen=True)
class Login:
    """Where to log in, and with what. None and empty: as ssh's own configuration says."""

    host: str
    port: int | None = None
    user: str | None = None
    key: Path | None = None
    known_hosts: Path | None = None
    accept_new: bool = False
    password: str | None = None
    client: str = "auto"

    @property
    def place(self) -> str:
        """The host, as messages name it."""
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}" + (f":{self.port}" if self.port else "")

    @property
    def _entry(self) -> str:
        """The host, as known_hosts names it."""
        return f"[{self.host}]:{self.port}" if self.port not in (None, 22) else self.host

    def connect(self) -> Client:
        """A new session. TransientError where it may work later, StorageError where not."""
        ssh = None if self.password is not None else shutil.which("ssh")
        if self.client == "paramiko" or (ssh is None and self.client == "auto"):
            return self._by_paramiko()
        if ssh is None:
            raise StorageError("the system has no ssh: set client = paramiko in [sftp]")
        return self._by_ssh(ssh)

    # The system's ssh

    def _by_ssh(self, ssh: str) -> Client:
        ours, its = socket.socketpair()
        for end in (ours, its):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
        carrier = ExitStack()
        said: IO[bytes] = carrier.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        with its:
            process = subprocess.Popen(
                self._command(ssh),
                stdin=its.fileno(),
                stdout=its.fileno(),
                stderr=said,
                # Ctrl-C is for us to handle: it must not cut what is under way.
                start_new_session=True,
            )
        carrier.callback(process.wait)
        try:
            client = Client(ours, carrier.close)
        except (EOFError, OSError, paramiko.SSHException):
            ours.close()
            process.wait()
            error = self._explained(said)
            carrier.close()
            raise error from None
        except BaseException:
            ours.close()
            process.terminate()
            carrier.close()
            raise
        carrier.callback(process.terminate)
        return client

    def _command(self, ssh: str) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new" if self.accept_new else "yes",
            "Compression": "no",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
            "RequestTTY": "no",
            "ConnectTimeout": str(_TIMEOUT),
            "ServerAliveInterval": str(_ALIVE_EVERY),
            "ServerAliveCountMax": str(_ALIVE_COUNT),
        }
        if self.known_hosts:
            options["UserKnownHostsFile"] = f'"{self.known_hosts}"'
        where = ["-p", str(self.port)] if self.port else []
        where += ["-l", self.user] if self.user else []
        if not _has_own_ciphers(ssh, *where, "--", self.host):
            options["Ciphers"] = _CIPHERS
        if self.key:
            options["IdentitiesOnly"] = "yes"
            where += ["-i", str(self.key)]
        settings = (f"-o{name}={value}" for name, value in options.items())
        return [ssh, "-s", *settings, *where, "--", self.host, "sftp"]

    def _explained(self, said: IO[bytes]) -> StorageError:
        """Why ssh could not open a session, from what it said."""
        said.seek(0)
        text = said.read(1 << 16).decode("utf-8", "replace")
        if "IDENTIFICATION HAS CHANGED" in text:
            return self._changed_key()
        if "Host key verification failed" in text:
            return self._unknown_key()
        if "Permission denied" in text or "Too many authentication" in text:
            return self._refused()
        if "subsystem request failed" in text:
            return StorageError(f"{self.place} offers no SFTP to this user")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        # The last line alone is often only `Connection closed`.
        why = "; ".join(lines[-2:]) or "it hung up"
        kind = StorageError if "bad configuration option" in text.lower() else TransientError
        return kind(f"cannot connect to {self.place}: {why}")

    # paramiko's transport

    def _by_paramiko(self) -> Client:
        ssh = paramiko.SSHClient()
        ssh.set_missing_host_key_policy(
            _AcceptNew(self._known_hosts()) if self.accept_new else paramiko.RejectPolicy()
        )
        try:
            with suppress(FileNotFoundError):
                ssh.load_system_host_keys(str(self._known_hosts()))
            self._log_in(ssh)
            transport = ssh.get_transport()
            assert transport is not None
            transport.set_keepalive(_ALIVE_EVERY)
            channel = transport.open_session(window_size=_WINDOW, max_packet_size=_PACKET)
            channel.settimeout(_ALIVE_EVERY * _ALIVE_COUNT)
            channel.invoke_subsystem("sftp")
            return Client(channel, ssh.close)
        except BaseException as error:
            ssh.close()
            match error:
                case paramiko.BadHostKeyException():
                    raise self._changed_key() from None
                case paramiko.AuthenticationException():
                    raise self._refused() from None
                case paramiko.SSHException() if "not found in known_hosts" in str(error):
                    raise self._unknown_key() from None
                case paramiko.ChannelException():
                    raise StorageError(f"{self.place} offers no SFTP to this user") from None
                case OSError() | EOFError() | paramiko.SSHException():
                    why = error.strerror if isinstance(error, OSError) else str(error)
                    raise TransientError(
                        f"cannot connect to {self.place}: {why or error or 'it hung up'}"
                    ) from None
            raise

    def _log_in(self, ssh: paramiko.SSHClient) -> None:
        own = paramiko.SSHConfigDict()
        path = Path.home() / ".ssh" / "config"
        if path.is_file():
            own = paramiko.SSHConfig.from_path(str(path)).lookup(self.host)
        by_key = self.password is None
        keys: Any = [str(self.key)] if self.key else own.get("identityfile")
        ssh.connect(
            own.get("hostname", self.host),
            self.port or int(own.get("port", 22)),
            self.user or own.get("user"),
            self.password,
            key_filename=keys if by_key else None,
            allow_agent=by_key and not self.key,
            look_for_keys=by_key and not self.key,
            timeout=_TIMEOUT,
            banner_timeout=_TIMEOUT,
            auth_timeout=_TIMEOUT,
        )

    def _known_hosts(self) -> Path:
        return self.known_hosts or Path.home() / ".ssh" / "known_hosts"

    # Words

    def _changed_key(self) -> StorageError:
        return StorageError(
            f"the host key of {self.place} is not the one in {self._known_hosts()}: somebody may "
            f"be in between. If the server was set up anew: ssh-keygen -f {self._known_hosts()} "
            f"-R '{self._entry}', and log in once"
        )

    def _unknown_key(self) -> StorageError:
        return StorageError(
            f"the host key of {self.place} is not in {self._known_hosts()}: log in once with sftp "
            "and compare it, or set new hosts = accept in [sftp]"
        )

    def _refused(self) -> StorageError:
        how = "this password" if self.password is not None else "any key that was offered"
        return StorageError(f"login refused: {self.place} does not take {how}")


@cache
def _has_own_ciphers(ssh: str, *where: str) -> bool:
    """Whether ssh's configuration says which ciphers to take: those of a command line would win."""
    own, default = (_ciphers(ssh, *more, "-G", *where) for more in ((), ("-F", "none")))
    return own != default


def _ciphers(*command: str) -> str:
    """The ciphers in what ssh would do; empty where it cannot tell, as before OpenSSH 6.8."""
    told = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        check=False,
    )  # fmt: skip
    return next((line for line in told.stdout.splitlines() if line.startswith("ciphers ")), "")


class _AcceptNew(paramiko.MissingHostKeyPolicy):
    """Takes the key of a host that is not known yet, and keeps it; a changed one is refused."""

    def __init__(self, known_hosts: Path) -> None:
        self._path = known_hosts

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(
            os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w"
        ) as file:
            file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")


def valid_host(host: str) -> bool:
    """Whether it can be a host, or an alias of ssh's configuration, and no option of ssh."""
    return re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.:%-]*", host) is not None
