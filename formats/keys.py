"""Keys: from a password or a recovery code to what seals and opens objects.

::

    password --Argon2id--> slot key --opens--> seed (32) + archive key (32)
    recovery code --BLAKE3--> slot key --opens--'
    seed --SHAKE256--> ML-KEM-768 d||z (64) + X25519 secret (32) = X-Wing key pair
    public key --HPKE--> seals each object's random key; only the seed opens it
    archive key --BLAKE3 derive_key--> chunk ids, file hashes, chunker seed, header MAC

Writing needs `WriteKeys` (public key and archive key); reading needs the seed as well.
Sources: X-Wing, draft-connolly-cfrg-xwing-kem; HPKE, RFC 9180; Argon2id, RFC 9106;
BLAKE3 derive_key, section 2.3 of its paper.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import nacl.exceptions
import nacl.pwhash
from blake3 import blake3

from pyarchiver.formats import wire
from pyarchiver.formats.aead import KEY_SIZE, XCHACHA20POLY1305
from pyarchiver.formats.errors import AccessError, DamagedError

ID_SIZE = 16
SEED_SIZE = 32
SEALED_KEY_SIZE = 1168
PUBLIC_KEY_SIZE = 1216
_MLKEM_SEED_SIZE = 64
_MLKEM_PUBLIC_SIZE = 1184

SLOT_PASSWORD = 1
SLOT_RECOVERY = 2

# libsodium's MODERATE: 0.5 s and 256 MiB, once per reading, never while archiving.
ARGON2_OPS = 3
ARGON2_MEMORY = 256 << 20
# What a reader is willing to spend for a slot it finds: an object is untrusted input.
ARGON2_OPS_MAX = 16
ARGON2_MEMORY_MAX = 2 << 30

_SLOT_FIELDS = ("type", "salt", "ops", "mem", "nonce", "sealed")
_CHUNK_ID = "pyarchiver v1 2026 chunk id"
_FILE_HASH = "pyarchiver v1 2026 file hash"
_CHUNKER_SEED = "pyarchiver v1 2026 chunker seed"
_HEADER_MAC = "pyarchiver v1 2026 header mac"
_RECOVERY_SLOT = "pyarchiver v1 2026 recovery slot"
_OBJECT_KEY_INFO = b"pyarchiver v1 object key\0"
_SLOT_LABEL = b"pyarchiver v1 slot\0"

Slot = dict[str, Any]


@dataclass(frozen=True)
class ArchiveKeys:
    """What comes from the archive key: names chunks and files, authenticates headers."""

    archive_id: bytes
    archive_key: bytes

    @cached_property
    def chunk_key(self) -> bytes:
        """Key of the keyed BLAKE3 that makes chunk ids."""
        return self._derive(_CHUNK_ID)

    @cached_property
    def file_key(self) -> bytes:
        """Key of the keyed BLAKE3 that makes file hashes."""
        return self._derive(_FILE_HASH)

    @cached_property
    def chunker_seed(self) -> int:
        """63 bits that move every chunk boundary, so that chunk sizes identify no known file."""
        return int.from_bytes(self._derive(_CHUNKER_SEED)[:8], "little") >> 1

    @cached_property
    def _mac_key(self) -> bytes:
        return self._derive(_HEADER_MAC)

    def header_mac(self, data: bytes | memoryview) -> bytes:
        """The 32-byte MAC of a header's bytes before it."""
        return blake3(data, key=self._mac_key).digest()

    def chunk_id(self, data: bytes | bytearray | memoryview) -> bytes:
        """The 32-byte id of a chunk's bytes."""
        return blake3(data, key=self.chunk_key).digest()

    def _derive(self, context: str) -> bytes:
        return blake3(self.archive_key, derive_key_context=context).digest()


@dataclass(frozen=True)
class WriteKeys(ArchiveKeys):
    """What the .archive holds: enough to seal objects, not to open one."""

    public_key: bytes

    def seal_object_key(self, object_key: bytes, fields: bytes) -> bytes:
        """`object_key` sealed to the archive's owner: 1,168 bytes bound to the header fields."""
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
        from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey

        public = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.public_key[:_MLKEM_PUBLIC_SIZE]),
            X25519PublicKey.from_public_bytes(self.public_key[_MLKEM_PUBLIC_SIZE:]),
        )
        sealed: bytes = _hpke().encrypt(object_key, public, info=_OBJECT_KEY_INFO + fields)
        return sealed


@dataclass(frozen=True)
class ReadKeys(ArchiveKeys):
    """What the password opens: everything."""

    seed: bytes

    def open_object_key(self, sealed: bytes, fields: bytes) -> bytes:
        """The object key that `WriteKeys.seal_object_key` sealed; DamagedError if altered."""
        from cryptography.exceptions import InvalidTag

        try:
            key: bytes = _hpke().decrypt(sealed, self._private_key, info=_OBJECT_KEY_INFO + fields)
        except (InvalidTag, ValueError):
            raise DamagedError("the object key was altered") from None
        if len(key) != KEY_SIZE:
            raise DamagedError(f"object key of {len(key)} bytes")
        return key

    def writer(self) -> WriteKeys:
        """The half of the keys that archiving needs."""
        mlkem, x25519 = self._private_halves
        public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        return WriteKeys(self.archive_id, self.archive_key, public)

    @cached_property
    def _private_halves(self) -> tuple[Any, Any]:
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        expanded = hashlib.shake_256(self.seed).digest(_MLKEM_SEED_SIZE + 32)
        return (
            MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_SIZE]),
            X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_SIZE:]),
        )

    @cached_property
    def _private_key(self) -> Any:
        from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

        return MLKEM768X25519PrivateKey(*self._private_halves)


def new_keys() -> ReadKeys:
    """Fresh random keys of a new archive."""
    return ReadKeys(os.urandom(ID_SIZE), os.urandom(KEY_SIZE), os.urandom(SEED_SIZE))


def password_slot(keys: ReadKeys, password: str) -> Slot:
    """A slot that `password` opens."""
    slot: Slot = {
        "type": SLOT_PASSWORD,
        "salt": os.urandom(16),
        "ops": ARGON2_OPS,
        "mem": ARGON2_MEMORY,
    }
    return _wrap(slot, _password_key(slot, password), keys)


def recovery_slot(keys: ReadKeys, secret: bytes) -> Slot:
    """A slot that the recovery code of `secret` (16 random bytes) opens."""
    slot: Slot = {"type": SLOT_RECOVERY, "salt": os.urandom(16)}
    return _wrap(slot, _recovery_key(slot, secret), keys)


def open_slot(slot: Slot, archive_id: bytes, secret: str | bytes) -> ReadKeys | None:
    """The keys in `slot`, if a password (`str`) or recovery secret (`bytes`) opens it.

    None where it is not for this slot: another type, a wrong secret, or a slot type of a later
    version. Raises DamagedError for fields outside their bounds, before any work is done.
    """
    kind = slot.get("type")
    if type(kind) is not int or kind not in (SLOT_PASSWORD, SLOT_RECOVERY):
        return None
    if isinstance(secret, str) != (kind == SLOT_PASSWORD):
        return None
    fields = wire.fields(slot, _SLOT_FIELDS)
    wire.sized(fields, "salt", 16)
    nonce = wire.sized(fields, "nonce", XCHACHA20POLY1305.nonce)
    sealed = wire.sized(fields, "sealed", SEED_SIZE + KEY_SIZE + XCHACHA20POLY1305.tag)
    if isinstance(secret, str):
        wire.number(fields, "ops", 1, ARGON2_OPS_MAX)
        wire.number(fields, "mem", 8192, ARGON2_MEMORY_MAX)
        key = _password_key(slot, secret)
    else:
        key = _recovery_key(slot, secret)
    plain = bytearray(SEED_SIZE + KEY_SIZE)
    try:
        XCHACHA20POLY1305.open(sealed, _slot_aad(archive_id, kind), nonce, key, plain)
    except DamagedError:
        return None
    return ReadKeys(archive_id, bytes(plain[SEED_SIZE:]), bytes(plain[:SEED_SIZE]))


def same(one: bytes, other: bytes) -> bool:
    """Equality in constant time, for MACs."""
    return hmac.compare_digest(one, other)


def _wrap(slot: Slot, key: bytes, keys: ReadKeys) -> Slot:
    nonce = os.urandom(XCHACHA20POLY1305.nonce)
    sealed = bytearray(SEED_SIZE + KEY_SIZE + XCHACHA20POLY1305.tag)
    aad = _slot_aad(keys.archive_id, slot["type"])
    XCHACHA20POLY1305.seal(keys.seed + keys.archive_key, aad, nonce, key, sealed)
    return {**slot, "nonce": nonce, "sealed": bytes(sealed)}


def _slot_aad(archive_id: bytes, kind: int) -> bytes:
    return _SLOT_LABEL + archive_id + bytes([kind])


def _password_key(slot: Slot, password: str) -> bytes:
    text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogateescape")
    try:
        key: bytes = nacl.pwhash.argon2id.kdf(
            KEY_SIZE, text, slot["salt"], opslimit=slot["ops"], memlimit=slot["mem"]
        )
    except nacl.exceptions.RuntimeError:
        raise AccessError(
            f"the password's key derivation needs {slot['mem'] >> 20} MiB of memory: free some"
        ) from None
    return key


def _recovery_key(slot: Slot, secret: bytes) -> bytes:
    return blake3(slot["salt"] + secret, derive_key_context=_RECOVERY_SLOT).digest()


def _hpke() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
