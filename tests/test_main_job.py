"""The main job over every storage, through the commands: archive, change, resume, restore, verify,
recover, delete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import servers_s3 as s3
from helpers_cas import tuned
from helpers_cli import PASSWORD, make_tree, noise, write
from helpers_job import PACK, Far, Job, in_bucket
from pyarchiver.cmd import secrets


def local(_: pytest.FixtureRequest, home: Path) -> Far:
    folder = home / "storage"
    return Far(folder.as_uri(), "local-disk", lambda: set(os.listdir(folder)))


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
    job.done("delete", job.archive, "--yes")
    assert job.far.names() == set()
