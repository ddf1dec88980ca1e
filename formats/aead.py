"""The cipher suites: libsodium's AEADs on buffers the caller owns.

PyNaCl's public functions take and return `bytes`; for a 1 MiB message that means two fresh
allocations, whose page faults cost nine times what AEGIS-256 itself does (1.1 against
9.8 GB/s). So the same library functions are called here on given buffers.

Sources: AEGIS-256, RFC 10032; XChaCha20-Poly1305, draft-irtf-cfrg-xchacha-03; BLAKE3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nacl.bindings  # noqa: F401  (initialises libsodium: without it AEGIS runs in software)
from nacl._sodium import ffi, lib

from pyarchiver.formats.errors import DamagedError, UnsupportedError

KEY_SIZE = 32

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Suite:
    """One AEAD: key 32 bytes, `nonce` and `tag` in bytes; the tag follows the ciphertext."""

    name: str
    nonce: int
    tag: int
    _encrypt: Any
    _decrypt: Any

    def seal(
        self, plain: Buffer, aad: bytes, nonce: bytes, key: bytes, out: bytearray | memoryview
    ) -> int:
        """Write ciphertext and tag of `plain` to `out`; returns `len(plain) + tag`."""
        size = len(plain) + self.tag
        self._check(nonce, key)
        if len(out) < size:
            raise ValueError(f"{len(out)} bytes given for a sealed message of {size}")
        self._encrypt(
            ffi.from_buffer(out, require_writable=True),
            ffi.NULL,
            ffi.from_buffer(plain),
            len(plain),
            aad,
            len(aad),
            ffi.NULL,
            nonce,
            key,
        )
        return size

    def open(
        self, sealed: Buffer, aad: bytes, nonce: bytes, key: bytes, out: bytearray | memoryview
    ) -> int:
        """Write the plaintext of `sealed` to `out`; returns its length.

        Raises DamagedError, with `out` holding nothing of use, if anything was altered.
        """
        size = len(sealed) - self.tag
        self._check(nonce, key)
        if size < 0:
            raise DamagedError("sealed bytes shorter than their tag")
        if len(out) < size:
            raise ValueError(f"{len(out)} bytes given for a message of {size}")
        failed = self._decrypt(
            ffi.from_buffer(out, require_writable=True),
            ffi.NULL,
            ffi.NULL,
            ffi.from_buffer(sealed),
            len(sealed),
            aad,
            len(aad),
            nonce,
            key,
        )
        if failed:
            raise DamagedError("sealed bytes were altered or belong elsewhere")
        return size

    def _check(self, nonce: bytes, key: bytes) -> None:
        if len(nonce) != self.nonce or len(key) != KEY_SIZE:
            raise ValueError(f"{self.name} takes a {self.nonce}-byte nonce and a 32-byte key")


AEGIS256 = Suite(
    "aegis256", 32, 32, lib.crypto_aead_aegis256_encrypt, lib.crypto_aead_aegis256_decrypt
)
XCHACHA20POLY1305 = Suite(
    "xchacha20poly1305",
    24,
    16,
    lib.crypto_aead_xchacha20poly1305_ietf_encrypt,
    lib.crypto_aead_xchacha20poly1305_ietf_decrypt,
)

SUITES = {suite.name: suite for suite in (AEGIS256, XCHACHA20POLY1305)}


def suite_named(name: str) -> Suite:
    """The suite of that name; raises UnsupportedError for one this version does not know."""
    try:
        return SUITES[name]
    except KeyError:
        raise UnsupportedError(
            f"unknown cipher suite {name!r}: a newer pyarchiver wrote it"
        ) from None
