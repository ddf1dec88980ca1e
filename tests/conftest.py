"""For all tests: deriving a key from a password takes a millisecond, not half a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyarchiver.formats import keys


@pytest.fixture(autouse=True, scope="session")
def cheap_passwords() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "ARGON2_OPS", 1)
        patch.setattr(keys, "ARGON2_MEMORY", 1 << 20)
        yield
