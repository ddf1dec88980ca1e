"""S3 through the commands: what goes wrong is said in one line, and what was begun is completed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

import servers_s3 as s3
from helpers_cas import tuned
from helpers_cli import PASSWORD, make_tree
from helpers_job import PACK, Job, in_bucket
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit


@pytest.fixture
def job(
    moto_server: s3.Moto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Job:
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    make_tree(tmp_path / "source", files=20, size=100_000)
    return Job(tmp_path, in_bucket(moto_server, "s3-standard"), capsys)


def refused(job: Job, command: str, *words: object) -> str:
    """The one line that a command says before it fails."""
    result = job.run(command, *words)
    assert result["exit"] == Exit.FAILED
    assert "Traceback" not in job.err
    (line,) = [line for line in job.err.splitlines() if line.startswith("pyarchiver: ")]
    return line


def begin(job: Job) -> str:
    """The one line that `start` says where something is wrong; no .archive, no object is made."""
    with pytest.raises(AssertionError):
        job.start()
    (line,) = [line for line in job.err.splitlines() if line.startswith("pyarchiver: ")]
    assert "Traceback" not in job.err
    assert not job.archive.exists()
    assert job.far.names() == set()
    return line


def test_no_bucket(job: Job) -> None:
    job.far.url = "s3://nowhere/photos"
    said = begin(job)
    assert "bucket nowhere at http" in said
    assert said.endswith("there is no such bucket: create it, or correct 'url'")


def test_no_keys(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    said = begin(job)
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said


def test_the_keys_are_kept_nowhere(job: Job) -> None:
    with tuned(pack_size=PACK, block_size=1 << 18):
        job.start()
    job.done("status", job.archive)
    moto: Any = job.far.server
    kept = [job.archive.read_bytes(), *(found.value for found in moto.objects().values())]
    assert len(kept) >= 4
    for data in kept:
        assert s3.SECRET.encode() not in data
        assert s3.KEY.encode() not in data


def test_a_full_storage_is_said_and_then_completed(job: Job) -> None:
    """The quota ends at the second pack; once it is raised, resume sends what is missing."""
    moto: Any = job.far.server
    packs: list[str] = []

    def full(asked: s3.Request) -> tuple[int, str] | None:
        if asked.method != "PUT" or "-p-" not in asked.key:
            return None
        packs.append(asked.key)
        return (403, "QuotaExceeded") if len(packs) > 1 else None

    moto.refuse = full
    with tuned(pack_size=PACK, block_size=1 << 18):
        with pytest.raises(AssertionError):
            job.start()
        assert "no space left: raise the quota or free some, and run resume" in job.err
        assert "Traceback" not in job.err
        assert "no space left" in refused(job, "resume", job.archive)
        there = {key for key in moto.objects() if "-p-" in key}
        assert len(there) == 1
        with sqlite3.connect(job.archive) as database:
            ((stored,),) = database.execute(
                "SELECT count(*) FROM objects WHERE state = 1 AND kind = 1"
            )
        database.close()
        assert stored == 1, "recorded what is not there"
        moto.refuse = lambda asked: None
        job.done("resume", job.archive)
    assert there < {key for key in moto.objects() if "-p-" in key}
    puts = [asked.key for asked in moto.requests if asked.method == "PUT" and "-p-" in asked.key]
    assert puts.count(next(iter(there))) == 1, "sent twice"
    job.done("verify", job.archive)
    job.restore("restored")
