"""What only S3 has: storage classes, thaws, lost answers, and what its servers refuse."""

from __future__ import annotations

import hashlib
import pickle
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.auth
import pytest
from botocore.exceptions import ConnectionClosedError

import servers_s3 as s3
from pyarchiver.cas import s3 as s3_module
from pyarchiver.cas.figures import PROFILES
from pyarchiver.cas.s3 import S3Storage
from pyarchiver.cas.settings import Settings
from pyarchiver.cas.storage import Heat, open_storage
from pyarchiver.cas.wrappers import Patient
from pyarchiver.formats.errors import (
    ColdError,
    MissingError,
    SettingsError,
    StorageError,
    TransientError,
)
from servers_sftp import CuttingProxy, free_port

PACK = "0123456789ab-p-" + "a" * 32
MANIFEST = "0123456789ab-m-00000001-" + "b" * 32
CHECKPOINT = "0123456789ab-c-00000001-" + "c" * 32
DATA = random.Random(1).randbytes(30_000)
MD5 = (("md5", hashlib.md5(DATA).hexdigest()),)
DAY = 86_400


class Place:
    """A storage in a bucket of its own, and spool files for it."""

    def __init__(self, server: s3.Server, folder: Path, profile: str) -> None:
        server.make_bucket()
        self.server = server
        self.folder = folder
        self.profile = profile
        self.storage = self.through(server.endpoint)

    def through(self, endpoint: str, **options: str) -> S3Storage:
        """The same place, by another way."""
        given = {"endpoint": endpoint, "region": "us-east-1", **options}
        return S3Storage(f"s3://{s3.BUCKET}/photos", given, PROFILES[self.profile])

    def spooled(self, data: bytes = DATA, name: str = PACK) -> Path:
        path = self.folder / f"{name}.part"
        path.write_bytes(data)
        return path

    def get(self, start: int = 0, length: int = len(DATA), name: str = PACK) -> bytes:
        into = bytearray(length)
        return bytes(into[: self.storage.get_into(name, start, memoryview(into))])

    def heats(self) -> dict[str, Heat]:
        """As the listing has them; looking at each says the same."""
        found = {stored.name: stored for stored in self.storage.list()}
        assert found == {name: self.storage.look(name) for name in found}
        return {name: stored.heat for name, stored in found.items()}


@pytest.fixture
def plain(moto_server: s3.Moto, tmp_path: Path) -> Iterator[Place]:
    """On moto, without storage classes."""
    place = Place(moto_server, tmp_path, "s3-standard")
    yield place
    place.storage.close()


@pytest.fixture
def deep(moto_server: s3.Moto, tmp_path: Path) -> Iterator[Place]:
    """On moto, with packs in DEEP_ARCHIVE."""
    place = Place(moto_server, tmp_path, "aws-deep-archive")
    yield place
    place.storage.close()


@pytest.fixture
def strict(rclone_s3_server: s3.Server, tmp_path: Path) -> Iterator[Place]:
    """On rclone, which checks keys, clocks and MD5."""
    place = Place(rclone_s3_server, tmp_path, "s3-standard")
    for found in place.storage.list():
        place.storage.delete(found.name)
    yield place
    place.storage.close()


def moto_of(place: Place) -> s3.Moto:
    assert isinstance(place.server, s3.Moto)
    return place.server


# Settings


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///folder", "s3://key:secret@bucket/x", "s3://bucket:9000/x", "s3://bucket/x?y",
     "s3://bucket/x#y", "s3://-bucket/", "s3://b"],
)  # fmt: skip
def test_impossible_urls(url: str) -> None:
    with pytest.raises(SettingsError, match="'url'"):
        open_storage(Settings("photos", Path("/source"), url))


@pytest.mark.parametrize(
    ("option", "value"), [("addressing", "sideways"), ("endpoint", "no address")]
)
def test_impossible_options(s3_credentials: None, option: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"'{option}'"):
        S3Storage("s3://bucket", {option: value}, PROFILES["s3-standard"]).check()


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pyarchiver.cas.s3")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SettingsError, match=r"pip install 'pyarchiver\[s3\]'"):
        open_storage(Settings("photos", Path("/source"), "s3://bucket/prefix"))


@pytest.mark.parametrize("prefix", ["", "/", "/a", "/a/", "/a/b c/%C3%BC", "/a%23b"])
def test_prefixes(plain: Place, prefix: str) -> None:
    """Objects of one prefix only; what lies deeper is another's."""
    url = f"s3://{s3.BUCKET}{prefix}"
    storage = S3Storage(url, plain.server.options, PROFILES["s3-standard"])
    storage.put(PACK, plain.spooled())
    deeper = S3Storage(f"{url.rstrip('/')}/deeper", plain.server.options, PROFILES["s3-standard"])
    deeper.put(MANIFEST, plain.spooled())
    assert [found.name for found in storage.list()] == [PACK]
    assert [found.name for found in deeper.list()] == [MANIFEST]


def test_a_copy_for_another_process(plain: Place) -> None:
    plain.storage.put(PACK, plain.spooled())
    copy: S3Storage = pickle.loads(pickle.dumps(plain.storage))
    assert copy.look(PACK) == plain.storage.look(PACK)


# Put


def test_each_kind_has_its_class(deep: Place) -> None:
    for name in (PACK, MANIFEST, CHECKPOINT):
        deep.storage.put(name, deep.spooled(name=name))
    classes = {key: found.storage_class for key, found in moto_of(deep).objects().items()}
    assert classes == {
        f"photos/{PACK}": "DEEP_ARCHIVE",
        f"photos/{MANIFEST}": "STANDARD",
        f"photos/{CHECKPOINT}": "STANDARD",
    }


def test_prepare_leaves_nothing(plain: Place, strict: Place) -> None:
    for place in (plain, strict):
        place.storage.prepare()
        assert list(place.storage.list()) == []


def test_prepare_finds_out_that_nothing_may_be_written(plain: Place) -> None:
    moto_of(plain).refuse = lambda asked: (403, "AccessDenied") if asked.method == "PUT" else None
    with pytest.raises(StorageError, match="do not allow it"):
        plain.storage.prepare()


def test_what_arrives_damaged_is_refused(strict: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_md5", lambda path: bytes(16))
    spooled = strict.spooled()
    with pytest.raises(StorageError, match="arrived damaged"):
        strict.storage.put(PACK, spooled)
    assert spooled.read_bytes() == DATA
    assert list(strict.storage.list()) == []


def losing_answers(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on what is put arrives, and the answer does not; returns what was put."""
    put, lost = storage._client.put_object, []

    def lose(**given: Any) -> None:
        put(**given)
        lost.append(given["Key"])
        raise ConnectionClosedError(endpoint_url="http://lost")

    monkeypatch.setattr(storage._client, "put_object", lose)
    return lost


def test_a_lost_answer_is_found_done(
    plain: Place, strict: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (plain, strict):
        lost = losing_answers(place.storage, monkeypatch)
        spooled = place.spooled()
        with pytest.raises(TransientError):
            place.storage.put(PACK, spooled)
        assert spooled.exists()
        assert place.storage.put(PACK, spooled) == MD5
        assert lost == [f"photos/{PACK}"], "sent twice"
        assert not spooled.exists()
        assert place.get() == DATA


def test_somebody_puts_it_meanwhile(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and sending: the condition of the PUT holds it back."""
    plain.storage.put(PACK, plain.spooled(b"theirs"))
    monkeypatch.setattr(S3Storage, "_is_there", lambda storage, name: False)
    spooled = plain.spooled()
    with pytest.raises(StorageError, match="not overwritten"):
        plain.storage.put(PACK, spooled)
    assert plain.get() == b"theirs"
    assert spooled.read_bytes() == DATA


def test_a_server_without_conditions(plain: Place) -> None:
    def refuse(asked: s3.Request) -> tuple[int, str] | None:
        return (501, "NotImplemented") if "HTTP_IF_NONE_MATCH" in asked.headers else None

    moto_of(plain).refuse = refuse
    assert plain.storage.put(PACK, plain.spooled()) == MD5
    assert plain.get() == DATA


def test_credentials_that_write_and_cannot_read(plain: Place) -> None:
    moto_of(plain).refuse = lambda asked: (403, "AccessDenied") if asked.method == "HEAD" else None
    assert plain.storage.put(PACK, plain.spooled()) == MD5
    moto_of(plain).refuse = lambda asked: None
    assert plain.get() == DATA


def test_an_etag_that_is_no_md5_is_not_taken_for_one(
    plain: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of buckets that encrypt with keys of KMS: the size must do."""
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    plain.server.client.put_bucket_encryption(
        Bucket=s3.BUCKET, ServerSideEncryptionConfiguration={"Rules": [rule]}
    )
    losing_answers(plain.storage, monkeypatch)
    spooled = plain.spooled()
    with pytest.raises(TransientError):
        plain.storage.put(PACK, spooled)
    moto_of(plain).objects()[f"photos/{PACK}"]._etag = "0" * 32
    assert plain.storage.put(PACK, spooled) == ()
    assert plain.storage.look(PACK).checksums == ()


# Get and list


def reads(place: Place) -> int:
    return sum(asked.method == "GET" and bool(asked.key) for asked in moto_of(place).requests)


def test_reading_in_a_row_takes_few_requests(plain: Place) -> None:
    plain.storage.put(PACK, plain.spooled())
    got = b"".join(plain.get(start, 100) for start in range(0, len(DATA) + 100, 100))
    assert got == DATA
    assert reads(plain) <= 10


def test_reading_here_and_there_takes_what_is_wanted(plain: Place) -> None:
    plain.storage.put(PACK, plain.spooled())
    for start in (20_000, 500, 7_000):
        assert plain.get(start, 100) == DATA[start : start + 100]
    ranges = [asked.headers["HTTP_RANGE"] for asked in moto_of(plain).requests if asked.key
              and asked.method == "GET"]  # fmt: skip
    assert ranges == ["bytes=20000-20099", "bytes=500-599", "bytes=7000-7099"]


def test_more_than_a_page(plain: Place) -> None:
    """Servers list 1,000 at a time."""
    put = moto_of(plain).backend().put_object
    wanted = {f"object-{number}" for number in range(1_100)}
    for name in wanted:
        put(s3.BUCKET, f"photos/{name}", b"")
    found = [stored.name for stored in plain.storage.list()]
    assert len(found) == len(wanted)
    assert set(found) == wanted


# Thaw


def test_thaw_from_cold_to_cold(deep: Place) -> None:
    """Asked for once, seen under way, read, and cold again."""
    moto, key = moto_of(deep), f"photos/{PACK}"
    for name in (PACK, MANIFEST):
        deep.storage.put(name, deep.spooled(name=name))
    with pytest.raises(ColdError, match=PACK):
        deep.get()
    assert deep.heats() == {PACK: Heat.COLD, MANIFEST: Heat.WARM}
    for _ in range(2):
        for name in (PACK, MANIFEST):
            deep.storage.thaw(name, 5, "Bulk")
        assert deep.heats() == {PACK: Heat.THAWING, MANIFEST: Heat.WARM}
        with pytest.raises(ColdError):
            deep.get()
    moto.open(days=5)
    deep.storage.thaw(PACK, 5, "Bulk")
    assert deep.heats() == {PACK: Heat.THAWED, MANIFEST: Heat.WARM}
    until = deep.storage.look(PACK).until
    assert until is not None
    assert abs(until - time.time() - 5 * DAY) < 60
    assert deep.get() == DATA
    assert moto.thaws == {key: 1}
    moto.lapse()
    assert deep.heats() == {PACK: Heat.COLD, MANIFEST: Heat.WARM}
    deep.storage.thaw(PACK, 5, "Bulk")
    assert moto.thaws == {key: 2}


@pytest.mark.parametrize(("tier", "named"), [("Bulk", b"<Tier>Bulk</Tier>"), ("", b"")])
def test_what_is_asked_for(deep: Place, tier: str, named: bytes) -> None:
    """OVH's Cold Archive refuses requests with GlacierJobParameters."""
    deep.storage.put(PACK, deep.spooled())
    bodies: list[bytes] = []
    deep.storage._client.meta.events.register(
        "before-sign.s3.RestoreObject", lambda request, **_: bodies.append(request.data)
    )
    deep.storage.thaw(PACK, 3, tier)
    (body,) = bodies
    assert b"<Days>3</Days>" in body
    assert named in body
    assert bool(tier) == (b"GlacierJobParameters" in body)


def test_asked_for_by_somebody_else_meanwhile(deep: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    deep.storage.put(PACK, deep.spooled())
    cold = deep.storage.look(PACK)
    deep.storage.thaw(PACK, 1, "Bulk")
    monkeypatch.setattr(S3Storage, "look", lambda storage, name: cold)
    deep.storage.thaw(PACK, 1, "Bulk")
    assert [asked.method for asked in moto_of(deep).requests].count("POST") == 2
    assert moto_of(deep).thaws.total() == 1


def test_cold_again_while_it_is_read(deep: Place) -> None:
    deep.storage.put(PACK, deep.spooled())
    deep.storage.thaw(PACK, 1, "Bulk")
    moto_of(deep).open()
    assert deep.get(0, 100) == DATA[:100]
    moto_of(deep).lapse()
    with pytest.raises(ColdError):
        deep.get(100, 1_000)


# Refusals


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (404, "NoSuchBucket", StorageError, "no such bucket: create it, or correct 'url'"),
        (403, "InvalidAccessKeyId", StorageError, "the access key is not known there"),
        (403, "SignatureDoesNotMatch", StorageError, "the secret key is not that of"),
        (400, "ExpiredToken", StorageError, "has expired: log in again"),
        (403, "AccessDenied", StorageError, "do not allow it: give them the permissions"),
        (403, "RequestTimeTooSkewed", StorageError, "this machine's clock .*: set it right"),
        (301, "PermanentRedirect", StorageError, "another region: set 'region'"),
        (400, "AuthorizationHeaderMalformed", StorageError, "another region: set 'region'"),
        (403, "QuotaExceeded", StorageError, "no space left: raise the quota"),
        (507, "InsufficientStorage", StorageError, "no space left: raise the quota"),
        (400, "InvalidStorageClass", StorageError, "no such storage class: correct 'profile'"),
        (400, "EntityTooLarge", StorageError, "choose a smaller 'pack size'"),
        (503, "SlowDown", TransientError, "busy or disturbed"),
        (500, "InternalError", TransientError, "busy or disturbed"),
        (418, "SomethingNew", StorageError, r"refused \(SomethingNew\): somethingNew"),
    ],
)
def test_refusals(
    plain: Place, status: int, code: str, kind: type[StorageError], words: str
) -> None:
    """Whatever is called, the same words; what was to be sent stays."""
    plain.storage.put(MANIFEST, plain.spooled())
    spooled = plain.spooled()
    # boto looks for the bucket's region by itself, where it is redirected.
    moto_of(plain).refuse = lambda asked: (status, code) if asked.query or asked.key else None
    for call in (
        plain.storage.check,
        plain.storage.prepare,
        lambda: plain.storage.put(PACK, spooled),
        lambda: plain.get(name=MANIFEST),
        lambda: plain.storage.size(MANIFEST),
        lambda: plain.storage.look(MANIFEST),
        lambda: list(plain.storage.list()),
        lambda: plain.storage.thaw(MANIFEST, 1, ""),
        lambda: plain.storage.delete(MANIFEST),
    ):
        with pytest.raises(kind, match=words) as caught:
            call()
        assert type(caught.value) is kind
        assert s3.BUCKET in str(caught.value)
    assert spooled.read_bytes() == DATA


def test_expedited_thaws_are_sold_out(deep: Place) -> None:
    deep.storage.put(PACK, deep.spooled())
    moto_of(deep).refuse = lambda asked: (
        (503, "GlacierExpeditedRetrievalNotAvailable") if asked.method == "POST" else None
    )
    with pytest.raises(StorageError, match="sold out: choose the tier Standard") as caught:
        deep.storage.thaw(PACK, 1, "Expedited")
    assert not isinstance(caught.value, TransientError), "another attempt is as vain"


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_off(strict: Place, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    strict.storage.put(PACK, strict.spooled())
    real, off = time.time, timedelta(hours=hours)
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda *_, **__: datetime.now(UTC) + off
    )
    monkeypatch.setattr(time, "time", lambda: real() + off.total_seconds())
    words = f"this machine's clock is 180 minutes {'ahead of' if hours > 0 else 'behind'}"
    for call in (strict.storage.check, lambda: strict.storage.look(PACK), strict.get):
        with pytest.raises(StorageError, match=words):
            call()


@pytest.mark.parametrize(
    ("variable", "words"),
    [("AWS_SECRET_ACCESS_KEY", "secret key is not that"), ("AWS_ACCESS_KEY_ID", "is not known")],
)
def test_wrong_keys(
    strict: Place, monkeypatch: pytest.MonkeyPatch, variable: str, words: str
) -> None:
    monkeypatch.setenv(variable, "wrong")
    storage = strict.through(strict.server.endpoint)
    for call in (storage.check, storage.prepare, lambda: storage.look(PACK)):
        with pytest.raises(StorageError, match=words):
            call()


def test_no_keys(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"):
        plain.through(plain.server.endpoint).check()


def test_keys_of_a_named_profile(
    strict: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text(f"[cold]\naws_access_key_id = {s3.KEY}\naws_secret_access_key = {s3.SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    strict.through(strict.server.endpoint, credentials="cold").check()
    with pytest.raises(StorageError, match="warm"):
        strict.through(strict.server.endpoint, credentials="warm").check()


def test_a_bucket_that_is_not_there(strict: Place) -> None:
    storage = S3Storage("s3://nowhere/x", strict.server.options, PROFILES["s3-standard"])
    spooled = strict.spooled()
    for call in (
        storage.check,
        storage.prepare,
        lambda: storage.put(PACK, spooled),
        lambda: storage.look(PACK),
        lambda: list(storage.list()),
    ):
        with pytest.raises(StorageError, match=r"bucket nowhere at http.*no such bucket") as caught:
            call()
        assert not isinstance(caught.value, MissingError)


def test_no_server_there(plain: Place) -> None:
    storage = plain.through(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TransientError, match="no server answers: check the network, and 'endp"):
        storage.check()


def test_something_else_answers(plain: Place) -> None:
    """Not HTTP at all."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        CuttingProxy(listener.getsockname()[1], allowance=lambda: 10) as proxy,
    ):
        with pytest.raises(TransientError, match="the connection was lost"):
            plain.through(f"http://127.0.0.1:{proxy.port}").check()
        assert proxy.cuts


# Cuts

_CUTS = 67


def test_connections_cut_at_random(strict: Place) -> None:
    """In put, get and list, each again and again: nothing lost, and nothing there twice."""
    chance = random.Random(7)
    port = urlsplit(strict.server.endpoint).port
    assert port is not None
    size = 1_000_000
    data = chance.randbytes(size)
    pauses: list[float] = []
    with CuttingProxy(port) as proxy:
        through = strict.through(f"http://127.0.0.1:{proxy.port}")
        storage = Patient(through, sleep=pauses.append)
        put: dict[str, bytes] = {}

        def send() -> None:
            name = f"{chance.getrandbits(48):012x}-p-{chance.getrandbits(128):032x}"
            assert storage.put(name, strict.spooled(data, name)) == (
                ("md5", hashlib.md5(data).hexdigest()),
            )
            put[name] = data

        def fetch() -> None:
            into = memoryview(bytearray(size))
            assert storage.get_into(chance.choice([*put]), 0, into) == size
            assert into == data

        def see() -> None:
            assert {found.name: found.size for found in storage.list()} == dict.fromkeys(put, size)

        send()
        for work, most in ((send, 2 * size), (fetch, size), (see, 4_000)):
            proxy.cuts = 0
            proxy.allowance = allowances(chance, most)
            while proxy.cuts < _CUTS:
                before = proxy.cuts
                work()
                if work != fetch:
                    assert len(pauses) >= proxy.cuts - before
                proxy.cut_all()
                for name in [*put][3:]:
                    strict.storage.delete(name)
                    del put[name]
        through.close()
    assert {stored.name for stored in strict.storage.list()} == put.keys()
    for name in put:
        assert strict.get(0, size, name) == data


def allowances(chance: random.Random, most: int) -> Callable[[], int | None]:
    """Three connections of four are cut."""
    return lambda: chance.randrange(most) if chance.random() < 0.75 else None
