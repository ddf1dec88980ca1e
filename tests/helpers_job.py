"""For tests of the whole job: a user, an archive of small packs, and the storage it is in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import servers_s3 as s3
from helpers_cli import differences
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run

PACK = 1 << 20
"""Bytes of a pack."""


@dataclass
class Far:
    """A storage: what the ini says of it, what is in it, and how its thaws come to an end."""

    url: str
    profile: str
    names: Callable[[], set[str]]
    options: dict[str, str] = field(default_factory=dict)
    thaw: Callable[[], None] | None = None
    server: object = None


def in_bucket(server: s3.Server, profile: str) -> Far:
    """A prefix in the bucket of an S3 server."""
    server.make_bucket()

    def names() -> set[str]:
        found = server.client.list_objects_v2(Bucket=s3.BUCKET, Prefix="photos/job/")
        return {entry["Key"] for entry in found.get("Contents", ())}

    url = f"s3://{s3.BUCKET}/photos/job"
    return Far(url, profile, names, server.options, server=server)


def program(words: list[str], password: str) -> None:
    """The program in a process of its own."""
    os.environ[secrets.PASSWORD_VARIABLE] = password
    sys.exit(run(words))


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
        """Write the ini, and archive."""
        ini = self.home / "photos.ini"
        words = ["--name", "photos", "--source", "source", "--storage", self.far.url]
        self.done("init", ini, *words, "--profile", self.far.profile)
        lines = ini.read_text().replace("chunk size = 512 KiB", "chunk size = 64 KiB").splitlines()
        for name, value in self.far.options.items():
            at = next(at for at, line in enumerate(lines) if line.startswith(f"{name} ="))
            lines[at] = f"{name} = {value}"
        ini.write_text("\n".join(lines))
        return self.done("start", ini)

    def recover(self) -> None:
        """Throw the .archive away, and make it anew from the storage."""
        self.archive.unlink()
        asked = [self.far.url, self.archive, "--config", self.home / "photos.ini"]
        result = self.run("recover", *asked)
        if result["exit"] == Exit.WAITING and self.far.thaw:
            self.far.thaw()
            result = self.run("recover", *asked)
        assert result["exit"] == Exit.DONE, (result, self.err)

    def restore(self, into: str, *words: object, archive: Path | None = None) -> None:
        """A folder equal to the source, whatever must be thawed on the way."""
        destination = self.home / into
        asked = [archive or self.archive, destination, "--exact", *words]
        if self.far.thaw:
            assert self.run("restore", *asked)["exit"] == Exit.WAITING, self.err
            self.far.thaw()
        self.done("restore", *asked)
        assert differences(self.source, destination) == ""
