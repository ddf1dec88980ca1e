"""The recovery code: 128 random bits and a 32-bit checksum, as 8 groups of 4 characters.

Crockford's base32 alphabet (no I, L, O, U); case, spaces and hyphens do not matter, and what
is easily misread is understood (O as 0, I and L as 1).
"""

from __future__ import annotations

import base64

from blake3 import blake3

from pyarchiver.formats.errors import CodeError

SECRET_SIZE = 16
_CHECK_SIZE = 4
_CONTEXT = "pyarchiver v1 2026 recovery checksum"
_RFC4648 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ENCODE = str.maketrans(_RFC4648, _CROCKFORD)
_DECODE = str.maketrans(_CROCKFORD + "OIL", _RFC4648 + "ABB")


def encode(secret: bytes) -> str:
    """`secret` (16 bytes) as a printable code, such as `7ZKT-...`."""
    text = base64.b32encode(secret + _checksum(secret)).decode().translate(_ENCODE)
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def decode(code: str) -> bytes:
    """The secret in a code as typed; raises CodeError where it cannot be one."""
    letters = "".join(code.upper().split()).replace("-", "")
    if len(letters) != (SECRET_SIZE + _CHECK_SIZE) * 8 // 5:
        raise CodeError(f"a recovery code has 32 letters and digits, this one {len(letters)}")
    for letter in letters:
        if letter not in _CROCKFORD + "OIL":
            raise CodeError(f"a recovery code has no {letter!r}: check it against your copy")
    data = base64.b32decode(letters.translate(_DECODE))
    secret, check = data[:SECRET_SIZE], data[SECRET_SIZE:]
    if check != _checksum(secret):
        raise CodeError("the recovery code is mistyped (its checksum does not match): check it")
    return secret


def _checksum(secret: bytes) -> bytes:
    return blake3(secret, derive_key_context=_CONTEXT).digest()[:_CHECK_SIZE]
