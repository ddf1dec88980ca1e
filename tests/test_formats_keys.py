"""Slots, key derivation and the recovery code."""

from __future__ import annotations

import unicodedata
from typing import Any

import nacl.exceptions
import nacl.pwhash
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers_formats import PASSWORD, SECRET, cheap_slots, examples, read_keys, slots, write_keys
from pyarchiver.formats import keys, recovery
from pyarchiver.formats.errors import AccessError, CodeError, DamagedError, FormatError
from pyarchiver.formats.keys import (
    ARGON2_MEMORY_MAX,
    ARGON2_OPS_MAX,
    PUBLIC_KEY_SIZE,
    SEALED_KEY_SIZE,
    ReadKeys,
    Slot,
    WriteKeys,
    new_keys,
    open_slot,
)

ARCHIVE = read_keys().archive_id
PASSWORD_SLOT, RECOVERY_SLOT = slots()
CODE = recovery.encode(SECRET)
# Taken when this module is imported, before any fixture makes passwords cheap.
SHIPPED = (keys.ARGON2_OPS, keys.ARGON2_MEMORY)
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any key derivation from a password fails the test."""

    def refuse(*_: object, **__: object) -> bytes:
        raise AssertionError("a key was derived")

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", refuse)


# --- slots --------------------------------------------------------------------------------


def test_password_opens_its_slot() -> None:
    assert open_slot(PASSWORD_SLOT, ARCHIVE, PASSWORD) == read_keys()


def test_recovery_secret_opens_its_slot() -> None:
    assert open_slot(RECOVERY_SLOT, ARCHIVE, SECRET) == read_keys()


@pytest.mark.parametrize("password", ["", "Cold storage", "cold storage ", " cold storage", "x"])
def test_wrong_password_opens_nothing(password: str) -> None:
    assert open_slot(PASSWORD_SLOT, ARCHIVE, password) is None


def test_wrong_recovery_secret_opens_nothing() -> None:
    for wrong in (bytes(16), SECRET[::-1], SECRET[:-1] + b"\0", b"", SECRET + b"\0"):
        assert open_slot(RECOVERY_SLOT, ARCHIVE, wrong) is None


def test_a_secret_is_tried_on_slots_of_its_own_type_only(no_work: None) -> None:
    assert open_slot(PASSWORD_SLOT, ARCHIVE, SECRET) is None
    assert open_slot(RECOVERY_SLOT, ARCHIVE, PASSWORD) is None


def test_slot_belongs_to_its_archive() -> None:
    assert open_slot(PASSWORD_SLOT, bytes(16), PASSWORD) is None
    assert open_slot(RECOVERY_SLOT, bytes(16), SECRET) is None


def test_sealed_keys_of_one_type_are_none_of_another() -> None:
    """The type is authenticated: relabelling a slot whose key is known opens nothing."""
    assert open_slot({**RECOVERY_SLOT, "type": 1, "ops": 1, "mem": 8192}, ARCHIVE, "x") is None


@pytest.mark.parametrize("password", ["", "\0", "a" * 10_000, "Ünï ☃ 🗄", "new\nline"])
def test_any_text_is_a_password(password: str) -> None:
    slot, _ = cheap_slots(read_keys(), password)
    assert open_slot(slot, ARCHIVE, password) == read_keys()
    assert open_slot(slot, ARCHIVE, password + "?") is None


@given(st.text(max_size=20))
@examples(20)
def test_password_is_taken_as_nfkc(password: str) -> None:
    slot, _ = cheap_slots(read_keys(), password)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        typed = unicodedata.normalize(form, password)
        assume(unicodedata.normalize("NFKC", typed) == unicodedata.normalize("NFKC", password))
        assert open_slot(slot, ARCHIVE, typed) == read_keys()


def test_new_slots_cost_what_the_constants_say(monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[tuple[int, int]] = []

    def kdf(size: int, _password: bytes, _salt: bytes, opslimit: int, memlimit: int) -> bytes:
        spent.append((opslimit, memlimit))
        return bytes(size)

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", kdf)
    monkeypatch.setattr(keys, "ARGON2_OPS", SHIPPED[0])
    monkeypatch.setattr(keys, "ARGON2_MEMORY", SHIPPED[1])
    slot = keys.password_slot(read_keys(), "x")
    assert open_slot(slot, ARCHIVE, "x") == read_keys()
    assert spent == [(3, 256 << 20)] * 2


def test_slots_are_fresh() -> None:
    one, other = cheap_slots(read_keys())[0], cheap_slots(read_keys())[0]
    assert one["salt"] != other["salt"]
    assert one["nonce"] != other["nonce"]
    assert one["sealed"] != other["sealed"]


@pytest.mark.parametrize(
    "fields",
    [
        {"ops": 0},
        {"ops": ARGON2_OPS_MAX + 1},
        {"ops": 1 << 63},
        {"ops": -1},
        {"ops": True},
        {"ops": None},
        {"mem": 8191},
        {"mem": 0},
        {"mem": ARGON2_MEMORY_MAX + 1},
        {"mem": 1 << 63},
        {"mem": "1"},
        {"salt": bytes(15)},
        {"salt": bytes(17)},
        {"salt": None},
    ],
    ids=str,
)
def test_bounds_are_checked_before_any_work(fields: dict[str, Any], no_work: None) -> None:
    with pytest.raises(DamagedError):
        open_slot({**PASSWORD_SLOT, **fields}, ARCHIVE, PASSWORD)


@pytest.mark.parametrize(
    "fields", [{"nonce": b""}, {"nonce": None}, {"sealed": bytes(79)}, {"sealed": bytes(81)}]
)
def test_sizes_of_what_is_sealed_are_checked_before_any_work(
    fields: dict[str, Any], no_work: None
) -> None:
    with pytest.raises(DamagedError):
        open_slot({**PASSWORD_SLOT, **fields}, ARCHIVE, PASSWORD)


@pytest.mark.parametrize("secret", [PASSWORD, SECRET])
@pytest.mark.parametrize("kind", [0, 3, 99, -1, 1 << 63])
def test_slot_of_a_later_version_is_none_of_ours(
    secret: str | bytes, kind: int, no_work: None
) -> None:
    assert open_slot({"type": kind, "token": b"", "ops": 99}, ARCHIVE, secret) is None


def test_slot_of_a_later_version_may_have_critical_fields(no_work: None) -> None:
    """They are critical to those who know the type; others skip the slot and try the next."""
    assert open_slot({"type": 3, "Token": b""}, ARCHIVE, PASSWORD) is None


@pytest.mark.parametrize("slot", [{}, {"type": "1"}, {"type": None}, {b"type": 1}, {"type": True}])
def test_slot_without_a_type_is_passed_over(slot: Slot) -> None:
    assert open_slot(slot, ARCHIVE, PASSWORD) is None


@given(
    st.sampled_from(slots()),
    st.sampled_from(["salt", "nonce", "sealed"]),
    st.integers(0, 79),
    st.integers(1, 255),
)
@examples(60)
def test_altered_slot_opens_nothing(slot: Slot, name: str, at: int, mask: int) -> None:
    value = bytearray(slot[name])
    value[at % len(value)] ^= mask
    altered = {**slot, name: bytes(value)}
    for secret in (PASSWORD, SECRET):
        assert open_slot(altered, ARCHIVE, secret) is None


def test_no_memory_for_the_derivation_is_an_access_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise nacl.exceptions.RuntimeError("Key derivation failed")

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", fail)
    with pytest.raises(AccessError, match="1 MiB"):
        open_slot(PASSWORD_SLOT, ARCHIVE, PASSWORD)


def test_password_that_is_no_utf_8_keeps_its_bytes() -> None:
    """As the system hands over bytes that are no text."""
    slot, _ = cheap_slots(read_keys(), "caf\udce9")
    assert open_slot(slot, ARCHIVE, "caf\udce9") == read_keys()
    for other in ("caf\xe9", "caf", "caf\udce8"):
        assert open_slot(slot, ARCHIVE, other) is None


# --- key pairs ------------------------------------------------------------------------------


def test_new_keys_are_fresh_and_complete() -> None:
    made = [new_keys() for _ in range(3)]
    for part in ("archive_id", "archive_key", "seed"):
        assert len({getattr(one, part) for one in made}) == 3
    assert {len(one.archive_id) for one in made} == {16}
    assert {len(one.archive_key) + len(one.seed) for one in made} == {64}


def test_object_key_round_trip() -> None:
    owner = new_keys()
    assert len(owner.writer().public_key) == PUBLIC_KEY_SIZE
    sealed = owner.writer().seal_object_key(bytes(range(32)), b"fields")
    assert len(sealed) == SEALED_KEY_SIZE
    assert owner.open_object_key(sealed, b"fields") == bytes(range(32))
    assert sealed != owner.writer().seal_object_key(bytes(range(32)), b"fields")


def test_object_key_opens_for_its_owner_and_fields_only() -> None:
    sealed = write_keys().seal_object_key(bytes(32), b"fields")
    for owner, fields in ((new_keys(), b"fields"), (read_keys(), b"field"), (read_keys(), b"")):
        with pytest.raises(DamagedError):
            owner.open_object_key(sealed, fields)


@given(st.integers(0, SEALED_KEY_SIZE - 1), st.integers(1, 255))
@examples(60)
def test_altered_object_key_is_refused(at: int, mask: int) -> None:
    sealed = bytearray(SEALED)
    sealed[at] ^= mask
    with pytest.raises(DamagedError):
        read_keys().open_object_key(bytes(sealed), b"fields")


SEALED = write_keys().seal_object_key(bytes(32), b"fields")


def test_derived_keys_differ_by_purpose_and_archive() -> None:
    one = read_keys()
    other = ReadKeys(one.archive_id, bytes(32), one.seed)
    for owner in (one, other):
        assert owner.chunk_key != owner.file_key
        assert 0 <= owner.chunker_seed < 1 << 63
    assert one.chunk_id(b"x") != other.chunk_id(b"x")
    assert one.chunker_seed != other.chunker_seed
    assert one.header_mac(b"x") != other.header_mac(b"x")
    assert len({one.header_mac(b""), one.chunk_id(b""), one.file_key, one.chunk_key}) == 4


def test_writer_cannot_read() -> None:
    assert not hasattr(write_keys(), "seed")
    assert not hasattr(WriteKeys, "open_object_key")


def test_chunk_id_takes_any_buffer() -> None:
    data = bytes(range(200))
    expected = read_keys().chunk_id(data)
    assert read_keys().chunk_id(bytearray(data)) == expected
    assert read_keys().chunk_id(memoryview(b"?" + data)[1:]) == expected


# --- recovery code ----------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16))
@examples(200)
def test_recovery_code_round_trip(secret: bytes) -> None:
    code = recovery.encode(secret)
    assert len(code) == 39
    assert set(code) <= set(ALPHABET + "-")
    assert recovery.decode(code) == secret


@given(st.binary(min_size=16, max_size=16), st.randoms())
@examples(100)
def test_recovery_code_as_people_type_it(secret: bytes, chance: Any) -> None:
    typed = ""
    for letter in recovery.encode(secret).replace("-", ""):
        looks_like = {"0": "0Oo", "1": "1IiLl"}.get(letter, letter + letter.lower())
        typed += chance.choice(looks_like) + chance.choice(["", "", "", " ", "-", "\n", " - "])
    assert recovery.decode(f"  {typed}\t") == secret


def test_every_substituted_character_is_noticed_or_means_the_same() -> None:
    letters = CODE.replace("-", "")
    for at, letter in enumerate(letters):
        for other in ALPHABET + "OILU" + "oilu*é1":
            typed = letters[:at] + other + letters[at + 1 :]
            means = {"O": "0", "I": "1", "L": "1"}.get(other.upper(), other.upper())
            if means == letter:
                assert recovery.decode(typed) == SECRET
            else:
                with pytest.raises(CodeError):
                    recovery.decode(typed)


def test_every_swap_is_noticed_or_means_the_same() -> None:
    letters = CODE.replace("-", "")
    for at in range(len(letters)):
        for other in range(at + 1, len(letters)):
            typed = list(letters)
            typed[at], typed[other] = typed[other], typed[at]
            if typed == list(letters):
                assert recovery.decode("".join(typed)) == SECRET
            else:
                with pytest.raises(CodeError):
                    recovery.decode("".join(typed))


@given(st.binary(min_size=16, max_size=16), st.integers(0, 31), st.sampled_from(ALPHABET))
@examples(300)
def test_substitution_in_any_code_is_noticed(secret: bytes, at: int, other: str) -> None:
    letters = recovery.encode(secret).replace("-", "")
    typed = letters[:at] + other + letters[at + 1 :]
    if typed == letters:
        assert recovery.decode(typed) == secret
    else:
        with pytest.raises(CodeError, match="mistyped"):
            recovery.decode(typed)


def test_missing_or_surplus_characters_are_counted() -> None:
    letters = CODE.replace("-", "")
    for typed, count in ((letters[:-1], 31), (letters + "0", 33), ("", 0), ("- -", 0)):
        with pytest.raises(CodeError, match=f"this one {count}"):
            recovery.decode(typed)


@given(st.text(max_size=80) | st.text(ALPHABET + "OIL-", min_size=32, max_size=40))
@examples(300)
def test_any_other_text_is_a_code_error(typed: str) -> None:
    try:
        secret = recovery.decode(typed)
    except CodeError:
        return
    assert recovery.encode(secret).replace("-", "") == CODE.replace("-", "")


def test_code_error_is_no_format_error() -> None:
    """The storage is not to blame for what was typed."""
    assert not issubclass(CodeError, FormatError)
