"""sftp://: what goes wrong is said, and what it says leads on."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import servers_sftp as sftp
from gateway import Gateway
from helpers_cli import PASSWORD, noise, on_terminal, write
from pyarchiver.cas import asking
from pyarchiver.cas.figures import PROFILES
from pyarchiver.cas.sftp import PASSWORD_VARIABLE, SftpStorage
from pyarchiver.cas.storage import Heat
from pyarchiver.cas.uploads import Uploads
from pyarchiver.formats.errors import (
    ColdError,
    SettingsError,
    StorageError,
    TransientError,
    UncertainError,
)

SFTP = PROFILES["sftp"]
GATEWAY = PROFILES["ovh-cloud-archive"]
CLIENTS = pytest.mark.parametrize("client", ["ssh", "paramiko"])


@pytest.fixture
def opened(sshd_server: sftp.Server, tmp_path: Path) -> Callable[..., SftpStorage]:
    """A storage in a folder of its own, with some options changed."""

    def storage(**options: str) -> SftpStorage:
        named = {name.replace("_", " "): value for name, value in options.items()}
        return SftpStorage(sshd_server.url(tmp_path.name), sshd_server.options | named, SFTP)

    return storage


def other_key(folder: Path) -> Path:
    path = folder / "other"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@CLIENTS
def test_a_wrong_host_key(
    opened: Callable[..., SftpStorage], sshd_server: sftp.Server, tmp_path: Path, client: str
) -> None:
    kind, key = other_key(tmp_path).with_suffix(".pub").read_text().split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd_server.port} {kind} {key}\n")
    for new_hosts in ("refuse", "accept"):
        storage = opened(client=client, known_hosts=str(known), new_hosts=new_hosts)
        with pytest.raises(StorageError, match="somebody may be in between") as caught:
            storage.prepare()
        assert not isinstance(caught.value, TransientError)
        assert "ssh-keygen" in str(caught.value)


@CLIENTS
def test_a_host_that_is_not_known(
    opened: Callable[..., SftpStorage], tmp_path: Path, client: str
) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    with pytest.raises(StorageError, match="new hosts = accept"):
        opened(client=client, known_hosts=str(known)).prepare()
    assert not known.read_text()
    for new_hosts in ("accept", "refuse"):
        storage = opened(client=client, known_hosts=str(known), new_hosts=new_hosts)
        storage.prepare()
        storage.close()
    assert known.read_text().count("\n") == 1


@CLIENTS
def test_a_refused_login(opened: Callable[..., SftpStorage], tmp_path: Path, client: str) -> None:
    with pytest.raises(StorageError, match=r"login refused: .* does not take any key") as caught:
        opened(client=client, key=str(other_key(tmp_path))).check()
    assert not isinstance(caught.value, TransientError)


def test_passwords(
    rclone_sftp_server: sftp.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the environment, from a prompt, from nowhere; and a wrong one."""
    options = {"login": "password", "known hosts": str(rclone_sftp_server.known_hosts)}
    url = rclone_sftp_server.url(tmp_path.name)
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(SettingsError, match=PASSWORD_VARIABLE):
        SftpStorage(url, options, SFTP).check()
    asked = []

    def ask(what: str, _: str) -> str:
        asked.append(what)
        return sftp.LOGIN

    monkeypatch.setattr(asking, "ask", ask)
    storage = SftpStorage(url, options, SFTP)
    storage.prepare()
    storage.close()
    copy: SftpStorage = pickle.loads(pickle.dumps(storage))
    copy.check()
    copy.close()
    assert asked == [f"password of {sftp.USER}@127.0.0.1"]
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(StorageError, match="does not take this password"):
        SftpStorage(url, options, SFTP).check()


def test_a_password_is_asked_for_once(rclone_sftp_server: sftp.Server, tmp_path: Path) -> None:
    ini = tmp_path / "photos.ini"
    ini.write_text(
        f"[archive]\nname = photos\nsource = source\n[storage]\nkit = no\n"
        f"url = {rclone_sftp_server.url(tmp_path.name)}\n[sftp]\nlogin = password\n"
        f"known hosts = {rclone_sftp_server.known_hosts}\n"
    )
    write(tmp_path / "source" / "file", b"data")
    terminal = on_terminal("start", ini, PYARCHIVER_PASSWORD=PASSWORD)
    terminal.answer(f"password of {sftp.USER}@127.0.0.1", sftp.LOGIN)
    assert terminal.wait() == 0, terminal.output
    assert sftp.LOGIN not in terminal.output


@CLIENTS
def test_nobody_listens(opened: Callable[..., SftpStorage], client: str) -> None:
    storage = SftpStorage(f"sftp://127.0.0.1:{sftp.free_port()}/x", {"client": client}, SFTP)
    with pytest.raises(TransientError, match=r"cannot connect to 127\.0\.0\.1:\d+"):
        storage.check()


def test_a_full_server(
    opened: Callable[..., SftpStorage], sshd_server: sftp.Server, tmp_path: Path
) -> None:
    """The part file is a link to a device that is always full."""
    storage = opened()
    storage.prepare()
    (sshd_server.folder / tmp_path.name / "object.part").symlink_to("/dev/full")
    spooled = tmp_path / "spooled"
    spooled.write_bytes(noise("full", 600_000))
    with pytest.raises(StorageError, match=r"takes no more .*: free some space"):
        storage.put("object", spooled)
    assert spooled.exists()
    assert not (sshd_server.folder / tmp_path.name / "object").exists()
    storage.close()


def test_a_folder_that_is_gone(
    opened: Callable[..., SftpStorage], sshd_server: sftp.Server, tmp_path: Path
) -> None:
    storage = opened()
    storage.prepare()
    (sshd_server.folder / tmp_path.name).rmdir()
    with pytest.raises(StorageError, match=f"storage sftp://.*{tmp_path.name}: not there"):
        storage.check()
    storage.close()


def test_paramikos_transport(opened: Callable[..., SftpStorage], tmp_path: Path) -> None:
    storage = opened(client="paramiko")
    storage.prepare()
    data = noise("paramiko", 3_000_000)
    spooled = tmp_path / "spooled"
    spooled.write_bytes(data)
    storage.put("object", spooled)
    into = bytearray(len(data))
    for at in range(0, len(data), 700_000):
        part = memoryview(into)[at : at + 700_000]
        assert storage.get_into("object", at, part) == len(part)
    assert into == data
    storage.close()


@pytest.mark.parametrize("own", ["Ciphers aes256-ctr", "", "nonsense here"])
def test_ciphers_of_the_users_configuration_count(
    opened: Callable[..., SftpStorage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """An ssh in front of the real one brings a configuration, and notes what it was told."""
    real = shutil.which("ssh")
    bin_, config, told = tmp_path / "bin", tmp_path / "config", tmp_path / "told"
    write(config, f"Host *\n  {own}\n".encode())
    script = f'#!/bin/sh\necho "$@" >> {told}\nexec {real} -F {config} "$@"\n'
    write(bin_ / "ssh", script.encode())
    (bin_ / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    storage = opened(client="ssh")
    if own.startswith("nonsense"):
        with pytest.raises(StorageError, match="Bad configuration option: nonsense"):
            storage.prepare()
        return
    storage.prepare()
    storage.close()
    [session] = [line for line in told.read_text().splitlines() if line.startswith("-s")]
    assert ("Ciphers" in session) == (not own)


def test_what_is_sealed(sealing_gateway: tuple[sftp.Server, Gateway], tmp_path: Path) -> None:
    server, gateway = sealing_gateway
    storage = SftpStorage(server.url(), server.options, GATEWAY)
    storage.prepare()
    spooled = tmp_path / "spooled"
    spooled.write_bytes(b"data")
    storage.put("object", spooled)
    assert (storage.look("object").heat, storage.look("object").size) == (Heat.COLD, None)
    into = memoryview(bytearray(4))
    for _ in range(2):
        storage.thaw("object", 1, "")
        with pytest.raises(ColdError):
            storage.get_into("object", 0, into)
    gateway.clock.time += gateway.delay
    assert storage.get_into("object", 0, into) == 4
    assert gateway.requests == {"object": 1}
    storage.close()


def test_a_full_gateway_and_a_spent_name(
    sealing_gateway: tuple[sftp.Server, Gateway], tmp_path: Path
) -> None:
    server, gateway = sealing_gateway
    storage = SftpStorage(server.url(), server.options, GATEWAY)
    storage.prepare()
    spooled = tmp_path / "spooled"
    spooled.write_bytes(b"data")
    gateway.full = True
    with pytest.raises(StorageError, match="takes no more"):
        storage.put("object", spooled)
    gateway.full = False
    with pytest.raises(UncertainError):
        storage.put("object", spooled)
    assert spooled.exists()
    storage.close()


def test_uploads_end_with_their_pool(opened: Callable[..., SftpStorage], tmp_path: Path) -> None:
    """A put that can never end is cut, and its process and ssh are gone."""
    storage = opened()
    storage.prepare()
    storage.close()
    pipe = tmp_path / "spooled"
    os.mkfifo(pipe)
    uploads = Uploads(storage)
    put = uploads.submit("object", pipe)
    # Opening the other end waits for the process to open its own: the put is under way.
    with pipe.open("wb"):
        [process] = uploads._processes
        uploads.close()
    with pytest.raises(StorageError, match="ended"):
        put.result()
    with pytest.raises(ValueError, match="closed"):
        process.is_alive()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"login": "magic"}, "'login'"),
        ({"new hosts": "maybe"}, "'new hosts'"),
        ({"client": "putty"}, "'client'"),
        ({"uploads": "0"}, "'uploads'"),
        ({"uploads": "17"}, "'uploads'"),
        ({"key": "relative"}, "'key'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SftpStorage("sftp://host/folder", options, SFTP)


@pytest.mark.parametrize(
    "url",
    [
        "sftp:///folder",
        "sftp://host",
        "sftp://-oProxyCommand=x/folder",
        "sftp://user:secret@host/folder",
        "sftp://host:port/folder",
        "sftp://host/folder?x",
        "sftp://host/a//b",
        "sftp://host/a%0Ab",
    ],
)
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(SettingsError, match="'url'"):
        SftpStorage(url, {}, SFTP)
