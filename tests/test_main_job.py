"""The main job over every storage, through the commands: archive, change, resume, restore, verify,
recover, delete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import servers_s3 as s3
import servers_sftp as sftp
from helpers_cas import tuned
from helpers_cli import PASSWORD, differences, make_tree, noise, write
from helpers_job import PACK, Far, Job, in_bucket
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cmd import secrets


def local(_: pytest.FixtureRequest, home: Path) -> Far:
    folder = home / "storage"
    return Far(folder.as_uri(), "local-disk", lambda: set(os.listdir(folder)))


def sshd(request: pytest.FixtureRequest, home: Path) -> Far:
    return in_folder(request.getfixturevalue("sshd_server"), home)


def rclone_sftp(request: pytest.FixtureRequest, home: Path) -> Far:
    return in_folder(request.getfixturevalue("rclone_sftp_server"), home)


def rclone_password(request: pytest.FixtureRequest, home: Path) -> Far:
    far = in_folder(request.getfixturevalue("rclone_sftp_server"), home)
    del far.options["key"]
    return replace(far, options={**far.options, "password": sftp.LOGIN, "login": "password"})


def gateway(request: pytest.FixtureRequest, home: Path) -> Far:
    """What it has is sealed; a first restore asks, and the next comes after it is unsealed."""
    server, state = request.getfixturevalue("sealing_gateway")
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    patch.setattr(SystemClock, "now", lambda _: state.clock.now())

    def thaw() -> None:
        asked = dict(state.requests)
        assert asked
        assert set(asked.values()) == {1}
        state.clock.time += state.delay + 1

    far = in_folder(server, home)
    return replace(far, profile="ovh-cloud-archive", thaw=thaw)


def in_folder(server: sftp.Server, home: Path) -> Far:
    folder = server.folder / home.name
    return Far(server.url(home.name), "sftp", lambda: set(os.listdir(folder)), server.options)


def rclone_s3(request: pytest.FixtureRequest, _: Path) -> Far:
    server: s3.Server = request.getfixturevalue("rclone_s3_server")
    return in_bucket(server, "s3-standard")


def moto_glacier(request: pytest.FixtureRequest, _: Path) -> Far:
    moto: s3.Moto = request.getfixturevalue("moto_server")
    far = in_bucket(moto, "aws-deep-archive")
    far.thaw = moto.open
    return far


STORAGES: dict[str, Callable[[pytest.FixtureRequest, Path], Far]] = {
    "file": local,
    "sshd": sshd,
    "rclone-sftp": rclone_sftp,
    "rclone-sftp-password": rclone_password,
    "gateway": gateway,
    "rclone-s3": rclone_s3,
    "moto-glacier": moto_glacier,
}


@pytest.fixture(params=STORAGES)
def job(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Job]:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    with tuned(pack_size=PACK, block_size=1 << 18):
        far = STORAGES[request.param](request, tmp_path)
        make_tree(tmp_path / "source", files=20, size=100_000)
        capsys.readouterr()
        yield Job(tmp_path, far, capsys)


def change(source: Path) -> None:
    """Something new, something changed, something gone."""
    write(source / "shoot9" / "new.raw", noise("new", 1_500_000))
    write(source / "text" / "long.txt", noise("other words", 50_000))
    shutil.rmtree(source / "shoot0")


def test_main_job(job: Job) -> None:
    job.start()
    first = job.far.names()
    assert len(first) >= 3
    change(job.source)
    assert job.done("resume", job.archive)["snapshot"] == 2
    later = job.far.names()
    assert first < later, "objects are written once and stay"
    again = job.done("resume", job.archive)
    assert job.far.names() == later, again
    job.done("verify", job.archive)
    job.restore("restored")
    job.recover()
    assert not job.done("resume", job.archive)["new"]
    assert job.far.names() == later
    job.done("verify", job.archive)
    # What was thawed for the first restore still is.
    job.done("restore", job.archive, job.home / "again", "--exact")
    assert differences(job.source, job.home / "again") == ""
    job.done("delete", job.archive, "--yes")
    assert job.far.names() == set()
