"""For all tests: key derivation that takes a millisecond, not half a second; servers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from botocore.loaders import JSONFileLoader

import servers_s3 as s3
import servers_sftp as sftp
from gateway import Gateway, cold_gateway
from pyarchiver.formats import keys


@pytest.fixture(autouse=True, scope="session")
def cheap_passwords() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "ARGON2_OPS", 1)
        patch.setattr(keys, "ARGON2_MEMORY", 1 << 20)
        yield


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """What boto takes from the environment, of this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.ENVIRONMENT.items():
            patch.setenv(name, value)
        # Each client reads half a megabyte of JSON about S3.
        load_once = cache(JSONFileLoader().load_file)
        patch.setattr(JSONFileLoader, "load_file", lambda loader, path: load_once(path))
        yield


@pytest.fixture(scope="session")
def rclone_s3_server(
    tmp_path_factory: pytest.TempPathFactory, s3_credentials: None
) -> Iterator[s3.Server]:
    """`rclone serve s3`, one for all tests: each makes a bucket of its own."""
    with s3.rclone_s3(tmp_path_factory.mktemp("rclone") / "s3") as server:
        yield server


@pytest.fixture(scope="session")
def moto_process(s3_credentials: None) -> Iterator[s3.Moto]:
    """moto's server."""
    with s3.moto_s3() as server:
        yield server


@pytest.fixture
def moto_server(moto_process: s3.Moto) -> s3.Moto:
    """moto's server, empty."""
    moto_process.reset()
    return moto_process


@pytest.fixture(scope="session")
def sshd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sftp.Server]:
    """OpenSSH's sshd; each test takes a folder of its own in it."""
    with sftp.sshd(tmp_path_factory.mktemp("sshd") / "server") as server:
        yield server


@pytest.fixture(scope="session")
def rclone_sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sftp.Server]:
    """`rclone serve sftp`; each test takes a folder of its own in it."""
    with sftp.rclone(tmp_path_factory.mktemp("rclone") / "sftp") as server:
        yield server


@pytest.fixture(scope="session")
def warm_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sftp.Server]:
    """The fake gateway, which cannot rename, and here seals nothing."""
    with cold_gateway(tmp_path_factory.mktemp("gateway") / "server") as (server, gateway):
        gateway.seals = False
        yield server
        assert not gateway.refused
        assert not gateway.overwritten


@pytest.fixture
def sealing_gateway(tmp_path: Path) -> Iterator[tuple[sftp.Server, Gateway]]:
    """The fake gateway as it is: sealed at once, no sizes, and a clock that the test moves."""
    with cold_gateway(tmp_path / "gateway") as (server, gateway):
        gateway.sizes = False
        yield server, gateway
        assert not gateway.refused
        assert not gateway.overwritten
