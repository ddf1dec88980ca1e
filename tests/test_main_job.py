"""The main job over every storage, through the commands: archive, change, resume, restore, verify,
recover, delete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import servers_s3 as s3
from helpers_cas import tuned
from helpers_cli import PASSWORD, differences, make_tree, noise, write
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run

PACK = 1 << 20


@dataclass
class Far:
    """A storage: what the ini says of it, what is in it, and how its thaws come to an end."""

    url: str
    profile: str
    names: Callable[[], set[str]]
    options: dict[str, str] = field(default_factory=dict)
    thaw: Callable[[], None] | None = None


def local(_: pytest.FixtureRequest, home: Path) -> Far:
    folder = home / "storage"
    return Far(folder.as_uri(), "local-disk", lambda: set(os.listdir(folder)))


def rclone_s3(request: pytest.FixtureRequest, _: Path) -> Far:
    server: s3.Server = request.getfixturevalue("rclone_s3_server")
    return in_bucket(server, "s3-standard")


def in_bucket(server: s3.Server, profile: str) -> Far:
    server.make_bucket()

    def names() -> set[str]:
        found = server.client.list_objects_v2(Bucket=s3.BUCKET, Prefix="photos/job/")
        return {entry["Key"] for entry in found.get("Contents", ())}

    return Far(f"s3://{s3.BUCKET}/photos/job", profile, names, server.options)


STORAGES: dict[str, Callable[[pytest.FixtureRequest, Path], Far]] = {
    "file": local,
    "rclone-s3": rclone_s3,
}


class Job:
    """A user, his source, and an archive of it in a storage."""

    def __init__(self, home: Path, far: Far, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.far = far
        self.source = home / "source"
        self.archive = home / "photos.archive"
        self.err = ""
        self._capsys = capsys

    def run(self, command: str, *words: object) -> dict[str, Any]:
        """A command's result, its exit code among it."""
        code = run([command, *map(str, words), "--json"])
        out, self.err = self._capsys.readouterr()
        result: dict[str, Any] = json.loads(out)
        assert result["exit"] == code, self.err
        return result

    def done(self, command: str, *words: object) -> dict[str, Any]:
        """The same, and nothing went wrong."""
        result = self.run(command, *words)
        assert result["exit"] == Exit.DONE, (result, self.err)
        return result

    def start(self) -> dict[str, Any]:
        ini = self.home / "photos.ini"
        words = ["--name", "photos", "--source", "source", "--storage", self.far.url]
        self.done("init", ini, *words, "--profile", self.far.profile)
        lines = ini.read_text().replace("chunk size = 512 KiB", "chunk size = 64 KiB").splitlines()
        for name, value in self.far.options.items():
            at = next(at for at, line in enumerate(lines) if line.startswith(f"{name} ="))
            lines[at] = f"{name} = {value}"
        ini.write_text("\n".join(lines))
        return self.done("start", ini)

    def restore(self, into: str, *words: object, archive: Path | None = None) -> None:
        """A folder equal to the source, whatever must be thawed on the way."""
        destination = self.home / into
        asked = [archive or self.archive, destination, "--exact", *words]
        if self.far.thaw:
            assert self.run("restore", *asked)["exit"] == Exit.WAITING, self.err
            self.far.thaw()
        self.done("restore", *asked)
        assert differences(self.source, destination) == ""


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
