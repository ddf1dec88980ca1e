"""s3:// storage: a bucket of AWS, or of anything that speaks its protocol.

Credentials come from where all AWS programs take them (environment, ~/.aws, roles); none are kept.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from pyarchiver.cas.pace import Pace, PacedFile
from pyarchiver.cas.profiles import Profile, Way
from pyarchiver.cas.s3_errors import BROKEN, code_of, s3_errors, status_of
from pyarchiver.cas.storage import PROBE, Checksums, Heat, Stored
from pyarchiver.cas.version import VERSION
from pyarchiver.formats.errors import SettingsError, StorageError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import parse_name

# Storage classes whose objects must be restored before they can be read.
COLD_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_ADDRESSING = ("auto", "path", "virtual")
# What a PUT with a condition says where there is such an object.
_TAKEN = "PreconditionFailed"
# What one reads in a row is asked for in growing portions: one request for much, little in vain.
_AHEAD_MAX = 64 << 20
# Connections that may break one after another without a byte in between.
_BREAKS_MAX = 5


class S3Storage:
    """Objects of one bucket, directly below a prefix."""

    def __init__(self, url: str, options: Mapping[str, str], profile: Profile) -> None:
        self.spool: Path | None = None
        self.uploads = 3
        self.atomic = True
        self.pace = Pace(0)
        self._url = url
        self._bucket, self._prefix = _taken_apart(url)
        self._options = options
        self._profile = profile
        self._stream: _Stream | None = None
        if options.get("addressing", "auto") not in _ADDRESSING:
            raise SettingsError(f"setting 'addressing' must be one of {', '.join(_ADDRESSING)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Storage, (self._url, self._options, self._profile), {"pace": self.pace}

    @cached_property
    def _client(self) -> Any:
        options = self._options
        config = Config(
            user_agent_extra=f"pyarchiver/{VERSION}",
            connect_timeout=20,
            read_timeout=60,
            tcp_keepalive=True,
            # Whoever calls is patient (wrappers.py).
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": options.get("addressing", "auto")},
            # Each put carries its MD5; trailers are unknown to many servers that are not AWS.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with self._errors():
            session = boto3.session.Session(profile_name=options.get("credentials") or None)
            try:
                return session.client(
                    "s3",
                    config=config,
                    endpoint_url=options.get("endpoint") or None,
                    region_name=options.get("region") or session.region_name or "us-east-1",
                )
            except ValueError as error:
                raise SettingsError(f"setting 'endpoint' or 'region': {error}") from None

    def _errors(self, name: str = "") -> AbstractContextManager[None]:
        endpoint = self._options.get("endpoint") or "AWS"
        place = f"bucket {self._bucket} at {endpoint}"
        return s3_errors(f"object {name} in {place}" if name else place)

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def prepare(self) -> None:
        """Prove that packs would be accepted; the bucket itself must be there.

        What is sent is meant to be refused for its wrong checksum, after permissions and storage
        class were found good: so nothing is left behind for credentials that cannot delete.
        """
        self.check()
        with self._errors():
            try:
                self._put_new(
                    self._at(PROBE) | self._class_of(Kind.PACK), bytes(16), BytesIO(b"probe")
                )
            except ClientError as error:
                if code_of(error) in (_TAKEN, "BadDigest", "InvalidDigest"):
                    return
                raise
            # A server that verifies nothing.
            self._client.delete_object(**self._at(PROBE))

    def check(self) -> None:
        """List the first object, if any: the bucket is there and the credentials are good."""
        with self._errors():
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def put(self, name: str, spooled: Path) -> Checksums:
        """One PUT, which the server checks against its MD5."""
        with self._errors(name):
            if not spooled.exists():
                self.look(name)
                return ()
            digest = _md5(spooled)
            answer = None if self._is_there(name) else self._upload(name, spooled, digest)
            told = self._check_same(name, spooled, digest) if answer is None else _checksums(answer)
            spooled.unlink()
            # Some servers encrypt, and have other ETags.
            mine = (("md5", digest.hex()),)
            return mine if told == mine else ()

    def _is_there(self, name: str) -> bool:
        """Whether to send at all; some servers overwrite whatever they are told."""
        try:
            self._client.head_object(**self._at(name))
        except ClientError as error:
            # 403: credentials that may write and not read.
            if status_of(error) in (403, 404):
                return False
            self.check()
            raise
        return True

    def _upload(self, name: str, spooled: Path, digest: bytes) -> dict[str, Any] | None:
        """The answer; None where an object of that name is there already."""
        parsed = parse_name(name)
        sent = self._at(name) | self._class_of(parsed.kind if parsed else Kind.MANIFEST)
        try:
            with PacedFile(spooled, self.pace) as body:
                return self._put_new(sent, digest, body)
        except ClientError as error:
            if code_of(error) == _TAKEN:
                return None
            raise

    def _put_new(self, where: dict[str, str], digest: bytes, body: BinaryIO) -> dict[str, Any]:
        """PUT with its MD5 and, where the server knows that, only if there is no such object."""
        put = partial(
            self._client.put_object, **where, ContentMD5=base64.b64encode(digest).decode()
        )
        try:
            answer: dict[str, Any] = put(IfNoneMatch="*", Body=body)
        except ClientError as error:
            if code_of(error) != "NotImplemented":
                raise
            body.seek(0)
            answer = put(Body=body)
        return answer

    def _check_same(self, name: str, spooled: Path, digest: bytes) -> Checksums:
        """An earlier put whose answer was lost is as good as this one; what the storage tells."""
        found = self.look(name)
        same = not found.checksums or ("md5", digest.hex()) in found.checksums
        if found.size != spooled.stat().st_size or not same:
            raise StorageError(f"object {name} is there already: it is not overwritten")
        return found.checksums

    def _class_of(self, kind: Kind) -> dict[str, str]:
        chosen = self._profile.storage_class(kind == Kind.PACK)
        return {"StorageClass": chosen} if chosen else {}

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        """By ranges, a new one where the connection breaks."""
        filled = breaks = 0
        with self._errors(name):
            while filled < len(into):
                stream = self._stream_at(name, start + filled, len(into) - filled)
                if stream is None:
                    break
                try:
                    count = stream.read_into(into[filled:])
                except BROKEN:
                    self.close()
                    breaks += 1
                    if breaks > _BREAKS_MAX:
                        raise
                else:
                    filled += count
                    breaks = 0
        return filled

    def _stream_at(self, name: str, start: int, wanted: int) -> _Stream | None:
        """A stream of the object at that position; None at its end or beyond."""
        ahead = wanted
        before = self._stream
        if before is not None and (before.name, before.position) == (name, start):
            if before.position < before.end:
                return before
            if before.end >= before.size:
                return None
            ahead = min(max(2 * before.length, wanted), _AHEAD_MAX)
        self.close()
        try:
            found = self._client.get_object(
                **self._at(name), Range=f"bytes={start}-{start + ahead - 1}"
            )
        except ClientError as error:
            if status_of(error) == 416:
                return None
            raise
        self._stream = _Stream(name, start, found)
        return self._stream

    def close(self) -> None:
        """Drop the stream kept open for reading."""
        if self._stream is not None:
            self._stream.body.close()
            self._stream = None

    def size(self, name: str) -> int:
        """From a HEAD."""
        return self._look(name)[0]

    def look(self, name: str) -> Stored:
        """From a HEAD."""
        size, found = self._look(name)
        return Stored(name, size, *_heat_of_head(found), _checksums(found))

    def _look(self, name: str) -> tuple[int, dict[str, Any]]:
        with self._errors(name):
            try:
                found = self._client.head_object(**self._at(name))
            except ClientError:
                # Answers to HEAD have no body to say why.
                self.check()
                raise
            return int(found["ContentLength"]), found

    def list(self) -> Iterator[Stored]:
        """By pages of 1,000; what lies in further "folders" is not ours."""
        asked: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix, "Delimiter": "/"}
        if self._profile.terms.way == Way.REQUEST:
            asked["OptionalObjectAttributes"] = ["RestoreStatus"]
        with self._errors():
            pages = iter(self._client.get_paginator("list_objects_v2").paginate(**asked))
        while True:
            with self._errors():
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Contents", ()):
                name = found["Key"].removeprefix(self._prefix)
                if name:
                    heat = _heat_of_listing(found)
                    yield Stored(name, int(found["Size"]), *heat, _checksums(found))

    def thaw(self, name: str, days: int, tier: str) -> None:
        """RestoreObject, where the object is cold."""
        if self.look(name).heat != Heat.COLD:
            return
        request: dict[str, Any] = {"Days": days}
        if tier:
            request["GlacierJobParameters"] = {"Tier": tier}
        with self._errors(name):
            try:
                self._client.restore_object(**self._at(name), RestoreRequest=request)
            except ClientError as error:
                if code_of(error) != "RestoreAlreadyInProgress":
                    raise

    def delete(self, name: str) -> None:
        """DeleteObject, which does not mind what is missing."""
        with self._errors(name):
            self._client.delete_object(**self._at(name))


class _Stream:
    """The body of one ranged GET, and where it stands in an object of `size` bytes."""

    def __init__(self, name: str, start: int, found: dict[str, Any]) -> None:
        self.name = name
        self.position = start
        self.body = found["Body"]
        self.length = int(found["ContentLength"])
        self.end = start + self.length
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", found.get("ContentRange", ""))
        if (int(given[1]) if given else 0) != start:
            self.body.close()
            raise StorageError(f"object {name}: the storage sends other ranges than asked for")
        self.size = int(given[2]) if given else self.length

    def read_into(self, into: memoryview) -> int:
        """What the connection has next; more than 0."""
        count = int(self.body.readinto(into[: self.end - self.position]))
        self.position += count
        return count


def _taken_apart(url: str) -> tuple[str, str]:
    """(bucket, prefix with its slash) of an s3:// URL."""
    parts = urlsplit(url)
    if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise SettingsError(
            f"setting 'url': {url} should be s3://bucket/prefix; 'endpoint' and 'region' are set "
            "in [s3], credentials in the environment or ~/.aws/credentials"
        )
    prefix = unquote(parts.path).strip("/")
    return parts.netloc, f"{prefix}/" if prefix else ""


def _md5(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_md5).digest()


def _new_md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _checksums(found: dict[str, Any]) -> Checksums:
    """The MD5, which the ETag of a single PUT is, unless the server encrypts with keys of KMS."""
    etag = str(found.get("ETag", "")).strip('"')
    encrypted = "kms" in found.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in found
    return (("md5", etag),) if re.fullmatch(r"[0-9a-f]{32}", etag) and not encrypted else ()


def _heat_of_head(found: dict[str, Any]) -> tuple[Heat, float | None]:
    if found.get("StorageClass") not in COLD_CLASSES:
        return Heat.WARM, None
    restore = found.get("Restore", "")
    if 'ongoing-request="true"' in restore:
        return Heat.THAWING, None
    if 'ongoing-request="false"' in restore:
        expiry = re.search(r'expiry-date="([^"]*)"', restore)
        try:
            return Heat.THAWED, parsedate_to_datetime(expiry[1]).timestamp() if expiry else None
        except (ValueError, OverflowError):
            return Heat.THAWED, None
    return Heat.COLD, None


def _heat_of_listing(found: dict[str, Any]) -> tuple[Heat, float | None]:
    if found.get("StorageClass") not in COLD_CLASSES:
        return Heat.WARM, None
    status = found.get("RestoreStatus", {})
    if status.get("IsRestoreInProgress"):
        return Heat.THAWING, None
    if "RestoreExpiryDate" in status:
        return Heat.THAWED, status["RestoreExpiryDate"].timestamp()
    return Heat.COLD, None
