"""Known answers: a library or a change that moves one of these breaks every archive there is."""

from __future__ import annotations

import hashlib

import pytest
from blake3 import blake3
from pyfastcdc import FastCDC

from helpers_formats import noise
from pyarchiver.formats import recovery
from pyarchiver.formats.aead import SUITES
from pyarchiver.formats.block import STORED, block_head
from pyarchiver.formats.entry import (
    EntryKind,
    Hole,
    Node,
    Run,
    encode_entry,
    encode_node,
    encode_parts,
    hash_content,
)
from pyarchiver.formats.header import END_MAGIC, MAGIC
from pyarchiver.formats.keys import ReadKeys, open_slot
from pyarchiver.formats.payload import Index, Placed, Type
from pyarchiver.formats.records import About, PackInfo, RunComplete, Settings

KEYS = ReadKeys(bytes(range(16)), bytes(range(32)), bytes(range(32, 64)))
AVERAGE = 512 << 10
NODE = Node(
    EntryKind.FILE, 0o644, -1, 1000, 100, "me", "us", 70_004, bytes(32),
    (Run(bytes(16), 7, 2), Hole(70_000)), hardlink=9, xattrs={b"user.b": b"2", b"user.a": b"1"},
)  # fmt: skip


def sealed(suite: str, plain: bytes, aad: bytes, nonce: bytes, key: bytes) -> str:
    out = bytearray(len(plain) + SUITES[suite].tag)
    SUITES[suite].seal(plain, aad, nonce, key, out)
    return out.hex()


# --- published by others ------------------------------------------------------------------


def test_aegis256_of_its_rfc() -> None:
    """RFC 10032, AEGIS-256 test vector 1, with the tag of 256 bits."""
    key, nonce = bytes.fromhex("10010000" + "00" * 28), bytes.fromhex("10000200" + "00" * 28)
    assert sealed("aegis256", bytes(16), b"", nonce, key) == (
        "754fc3d8c973246dcc6d741412a4b236"
        "1181a1d18091082bf0266f66297d167d2e68b845f61a3b0527d31fc7b7b89f13"
    )


def test_xchacha20poly1305_of_its_draft() -> None:
    """draft-irtf-cfrg-xchacha-03, appendix A.3.1."""
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )
    aad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    key, nonce = bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
    found = sealed("xchacha20poly1305", plain, aad, nonce, key)
    assert found.startswith("bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb")
    assert found.endswith("c0875924c1c7987947deafd8780acf49")


def test_x_wing_public_key_of_its_draft() -> None:
    """draft-connolly-cfrg-xwing-kem, appendix C, first vector."""
    seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    public = ReadKeys(bytes(16), bytes(32), bytes.fromhex(seed)).writer().public_key.hex()
    assert public.startswith("e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5")
    assert public.endswith("859edb06eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534")


# --- ours ---------------------------------------------------------------------------------


def test_chunk_ids() -> None:
    assert KEYS.chunk_id(b"").hex() == (
        "a46d92a35865ab1fcb6dce0ded60dc494ece712cc72273c7a7dc22c4a8ed20c7"
    )
    assert KEYS.chunk_id(b"abc").hex() == (
        "eac63af09910fd5a6d2faed3b50836355ca53dbd3d6ade6e34edcc325020a28e"
    )


def test_chunk_id_from_the_specification() -> None:
    key = blake3(bytes(range(32)), derive_key_context="pyarchiver v1 2026 chunk id").digest()
    assert KEYS.chunk_id(b"abc") == blake3(b"abc", key=key).digest()


def test_file_hashes() -> None:
    abc, last = (KEYS.chunk_id(b"abc"), 3), (KEYS.chunk_id(b"d"), 1)
    parts: list[tuple[bytes, int] | int] = [abc, 70_000, last]
    assert hash_content(KEYS.file_key, 70_004, parts).hex() == (
        "875672f266b55dbb3c5da51044d0e15e920bc002b3c3b03bcd727ac37bb7a86a"
    )
    assert hash_content(KEYS.file_key, 0, []).hex() == (
        "13c8153c0b7f46c7b6cf34f0181af6d9488291b9f920b60ef566078f167d30b3"
    )


def test_header_mac() -> None:
    assert KEYS.header_mac(b"header").hex() == (
        "a0f62cddb7e4452bba1e21f93c13eb6652968740322796418118e2bba223de8e"
    )


def test_chunker_seed() -> None:
    assert KEYS.chunker_seed == 556646076793242010


def test_recovery_codes() -> None:
    assert recovery.encode(bytes(range(16))) == "000G-40R4-0M30-E209-185G-R38E-1ZGF-MJ2T"
    assert recovery.encode(bytes(16)) == "0000-0000-0000-0000-0000-0000-03MQ-GQSW"


def test_public_key() -> None:
    public = KEYS.writer().public_key
    assert hashlib.sha256(public).hexdigest() == (
        "a1f324bc0701f1234fbba7b11901023b3644f3bb8c6eb4ee4368d7e859eb6228"
    )


def test_recovery_slot() -> None:
    slot = {"type": 2, "salt": bytes(16), "nonce": bytes(24)}
    slot["sealed"] = bytes.fromhex(
        "b6be1ef68af6d7990fcd5869c0837fb34b4cd7da4b851f2e2d9b44a73e410167270c13f07f1778d2"
        "49148e71e133b36921c336a8c8d9e6c3248c3d2cd945756b5decb46e0ad3f56ddc533a02efc11a93"
    )
    assert open_slot(slot, KEYS.archive_id, bytes(range(16))) == KEYS


def test_password_slot() -> None:
    """Argon2id in libsodium's smallest parameters; the ligature is taken as two letters."""
    slot = {"type": 1, "salt": bytes(16), "ops": 1, "mem": 8192, "nonce": bytes(24)}
    slot["sealed"] = bytes.fromhex(
        "ad712bf5c5fbfa7ca579cc885726e53863977bce162f7ff2c8363d0cfaf444b29d313bb93b1f17e8"
        "398a44e1f06ebeae46d03d1956ab68b47c16fdfb30bfbcf244e78eece01b50381a807528d743dff2"
    )
    assert open_slot(slot, KEYS.archive_id, "pass\ufb01word") == KEYS
    assert open_slot(slot, KEYS.archive_id, "passfiword") == KEYS


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        (
            "aegis256",
            "4282a45dbd167e73be01736757e945fea8d845f332c815aedbd94b38b951ea3f3df8481ecc2eca81bc8a3c",
        ),
        ("xchacha20poly1305", "f6a76313fff2fac1412842c9c932f9cf90f064eb93719f49317510"),
    ],
)
def test_suites(suite: str, expected: str) -> None:
    nonce, key = bytes(range(SUITES[suite].nonce)), bytes(range(32))
    assert sealed(suite, b"hello world", b"header", nonce, key) == expected


def test_magic() -> None:
    assert MAGIC.hex() == "8950594152430d0a"
    assert END_MAGIC.hex() == "0a0d435241595089"


def test_record_types() -> None:
    assert {kind.name: int(kind) for kind in Type} == {
        "ABOUT": 1, "BLOCK": 2, "ENTRIES": 3, "PART": 4, "PACK": 5, "PACK_INDEX": 6,
        "SETTINGS": 7, "RUN": 8, "PADDING": 9, "INDEX": 10, "TAIL": 11,
    }  # fmt: skip


ENCODED: dict[str, bytes] = {
    "node": encode_node(NODE),
    "gone": encode_node(Node(EntryKind.GONE)),
    "link": encode_node(Node(EntryKind.SYMLINK, 0o777, link=b"\xff")),
    "folder": encode_node(Node(EntryKind.FOLDER, 0o755, 5)),
    "entry": encode_entry(b"a/b", 1, 300, encode_node(Node(EntryKind.GONE))),
    "part": next(encode_parts(b"abc")),
    "block head": block_head(STORED, [1, 70_000]),
    "index": Index((Placed(2, 5, 99, 1), Placed(3, 109, 0, 0)), (3,), bytes(32)).encode(),
    "about": About(1, 2, bytes(32), 3, 4, 5, "p").encode(),
    "run": RunComplete(1, 2, 3, 4, 5).encode(),
    "pack": PackInfo(bytes(16), 1, 2, bytes(32), b"h", 1).encode(),
    "settings": Settings({"source": "/photos"}).encode(),
}
EXPECTED = {
    "node": "4d663d6ac0b36a003f17b13eedd9d5a9",
    "gone": "c689a70f79a816382002ce8b238f48eb",
    "link": "7f279db8f7b838d853dc9dca130a17fa",
    "folder": "5197e94ee0dc0ef61f399b69cecbf077",
    "entry": "9295c13b21c734e48a983d9e3cdb201b",
    "part": "c71a7e6e169ac8e77da8da934b9011de",
    "block head": "8650aef8802a4d07ebf539a049479a1e",
    "index": "0f8bccf32f1b9ed312dd944ebab10251",
    "about": "4805c353e21ec66c8a56a9f5cafb897c",
    "run": "889245d67ef7047ccb82f97fe522ac11",
    "pack": "260cdc157d5a45fa3c1a102e6b8eba98",
    "settings": "3549a58d8d4563e429e22cf94a11716b",
}


@pytest.mark.parametrize("name", ENCODED)
def test_encodings(name: str) -> None:
    """By BLAKE3's first 16 bytes, as archives hash and index what was encoded."""
    assert blake3(ENCODED[name]).hexdigest(length=16) == EXPECTED[name]


# --- chunk boundaries -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "lengths"),
    [
        (0, [680068, 1098639, 299503, 555054, 875680, 555074, 130286]),
        (
            556646076793242010,
            [1104727, 767537, 477817, 396264, 699539, 410235, 338185],
        ),
    ],
)
def test_chunk_boundaries(seed: int, lengths: list[int]) -> None:
    """Another cutter would store everything anew."""
    data = noise("fastcdc golden", 4 << 20)
    cutter = FastCDC(
        AVERAGE, min_size=AVERAGE // 4, max_size=AVERAGE * 4, normalized_chunking=1, seed=seed
    )
    assert [chunk.length for chunk in cutter.cut_buf(data)] == lengths
    assert sum(lengths) == len(data)


def test_chunks_of_a_constant_are_of_the_largest_size() -> None:
    cutter = FastCDC(
        AVERAGE, min_size=AVERAGE // 4, max_size=AVERAGE * 4, normalized_chunking=1, seed=1
    )
    assert [chunk.length for chunk in cutter.cut_buf(bytes(4 << 20))] == [2 << 20] * 2
