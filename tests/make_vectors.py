"""Makes the golden objects in vectors/. Run once per format version: `python make_vectors.py`.

Object ids, object keys, nonces of the slots and HPKE are random, so a second run gives other
bytes that mean the same. Vectors that were published are never made again.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from helpers_formats import (
    Block,
    Json,
    cheap_slots,
    describe_chunk,
    describe_entry,
    describe_record,
    describe_value,
    framed,
    noise,
    write_payload,
)
from pyarchiver.formats import recovery
from pyarchiver.formats.aead import AEGIS256, XCHACHA20POLY1305, Suite
from pyarchiver.formats.block import STORED, ZSTD, block_head, compressor
from pyarchiver.formats.entry import (
    ENTRIES_RAW,
    Content,
    Entry,
    EntryKind,
    Hole,
    Node,
    Run,
    encode_entry,
    encode_node,
    entry_records,
    hash_content,
)
from pyarchiver.formats.header import Header, Kind, new_header
from pyarchiver.formats.keys import ReadKeys, Slot
from pyarchiver.formats.names import object_name
from pyarchiver.formats.payload import FRAME_SIZE, Index, Type
from pyarchiver.formats.records import About, PackInfo, RunComplete, Settings
from pyarchiver.formats.sealed import Layout, seal_object

FOLDER = Path(__file__).parent / "vectors"
# Typed with a ligature and a combining ring: the key derivation takes the NFKC form.
PASSWORD = "cold \ufb01les, A\u030angstro\u0308m 2026"
SECRET = noise("vectors recovery secret", 16)
KEYS = ReadKeys(
    noise("vectors archive id", 16),
    noise("vectors archive key", 32),
    noise("vectors seed", 32),
)
SETTINGS = {"source": "/photos", "storage": "file:///mnt/tape", "pack_size": "232 MiB"}
NO_HASH = bytes(32)
SECOND = 1_000_000_000
TIME = 1_767_225_600


@dataclass
class Log:
    """Where the archive stands: the vectors form one archive of two runs."""

    slots: tuple[Slot, ...]
    run: int = 1
    sequence: int = 0
    number: int = 0
    previous: bytes = NO_HASH
    entries: list[Entry] = field(default_factory=list)
    packs: list[tuple[PackInfo, list[bytes]]] = field(default_factory=list)
    objects: list[Json] = field(default_factory=list)


@dataclass
class Written:
    """An object under construction: its records, and what a reader must make of them."""

    file: str
    header: Header
    key: bytes
    about: About
    number: int = 0
    records: list[tuple[Type, bytes] | Block] = field(default_factory=list)
    length: int = 0
    chunks: list[Json] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    files: list[Json] = field(default_factory=list)
    packs: list[Json] = field(default_factory=list)
    runs: list[Json] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def add(self, kind: Type, body: bytes) -> None:
        self.records.append((kind, body))
        self.length += FRAME_SIZE + len(body)

    def add_block(self, method: int, chunks: list[bytes]) -> None:
        data = b"".join(chunks)
        if method == ZSTD:
            data = compressor(3, len(data)).compress(data)
        lengths = [len(chunk) for chunk in chunks]
        body = block_head(method, lengths) + data
        start = 0
        for chunk in chunks:
            ordinal = len(self.chunks)
            self.chunks.append(describe_chunk(KEYS, self.length, start, ordinal, chunk))
            start += len(chunk)
        self.records.append(Block(lengths, [KEYS.chunk_id(chunk) for chunk in chunks], body))
        self.length += FRAME_SIZE + len(body)

    def add_entries(self, entries: list[Entry]) -> None:
        encoded = [encode_entry(e.path, e.run, e.sequence, encode_node(e.node)) for e in entries]
        for kind, bodies in entry_records(encoded, compressor(3, ENTRIES_RAW)):
            for body in bodies:
                self.add(kind, body)
        self.entries += entries


def begin(log: Log, suite: Suite, what: str, kind: Kind, number: int) -> Written:
    header, key = new_header(suite, KEYS.writer(), log.slots, kind)
    about = About(log.run, log.number, log.previous, number, 0, TIME, "pyarchiver 0.1.0")
    written = Written(f"{suite.name}-{what}.bin", header, key, about, number)
    written.add(Type.ABOUT, about.encode())
    return written


def finish(log: Log, written: Written) -> tuple[bytes, list[bytes]]:
    """Seal, save and describe an object."""
    header = written.header
    payload, indexes = write_payload(Layout(len(header.raw), header.suite.tag), written.records)
    data = seal_object(header, written.key, [payload])
    (FOLDER / written.file).write_bytes(data)
    records = list(framed(payload))
    described = [describe_record(record) for record in records]
    chunks_of = [Index.decode(body) for body in indexes]
    log.objects.append(
        {
            "file": written.file,
            "name": object_name(
                header.archive_id, Kind(header.kind), written.number, header.object_id
            ),
            "suite": header.suite.name,
            "kind": header.kind,
            "object_id": header.object_id.hex(),
            "object_key": written.key.hex(),
            "size": len(data),
            "blake3": blake3(data).hexdigest(),
            "header_length": len(header.raw),
            "header_hash": header.hash.hex(),
            "payload_length": len(payload),
            "payload_blake3": blake3(payload).hexdigest(),
            "segments": -(-len(payload) // (1 << 20)),
            "records": described,
            "index": [
                {"record": r.type, "offset": r.offset, "length": r.length, "chunks": r.chunks}
                for index in chunks_of
                for r in index.records
            ],
            "about": describe_value(written.about),
            "settings": written.settings,
            "packs": written.packs,
            "runs": written.runs,
            "chunks": written.chunks,
            "entries": [describe_entry(entry) for entry in written.entries],
            "files": written.files,
        }
    )
    return data, indexes


def entry(log: Log, path: bytes, node: Node) -> Entry:
    log.sequence += 1
    made = Entry(path, log.run, log.sequence, node)
    log.entries.append(made)
    return made


def owned(kind: EntryKind, mode: int) -> Node:
    return Node(kind, mode, TIME * SECOND + 123_456_789, 1000, 100, "ansel", "users")


def file_node(written: Written, path: bytes, content: Content, chunks: list[bytes]) -> Node:
    """A file of these runs and holes; notes what restoring it must give."""
    restored = bytearray()
    parts: list[tuple[bytes, int] | int] = []
    for part in content:
        if isinstance(part, Hole):
            restored += bytes(part.length)
            parts.append(part.length)
            continue
        for chunk in chunks[part.first : part.first + part.chunks]:
            restored += chunk
            parts.append((KEYS.chunk_id(chunk), len(chunk)))
    digest = hash_content(KEYS.file_key, len(restored), parts)
    restored_hash = blake3(restored).hexdigest()
    written.files.append({"path": path.hex(), "size": len(restored), "blake3": restored_hash})
    return owned(EntryKind.FILE, 0o644)._replace(
        size=len(restored), file_hash=digest, content=content
    )


def write_pack(log: Log, suite: Suite) -> None:
    """Both kinds of block, and every kind of entry that fits into one entries record."""
    pack = begin(log, suite, "pack", Kind.PACK, 0)
    label = suite.name
    stored = [noise(f"{label} photo 0", 700), noise(f"{label} photo 1", 300), b"tiny"]
    text = [f"{label} caption {n}\n".encode() * 40 for n in range(3)]
    chunks = stored + text
    pack.add_block(STORED, stored)
    pack.add_block(ZSTD, text)
    me = pack.header.object_id

    def runs(*parts: tuple[int, int] | int) -> Content:
        return tuple(Hole(p) if isinstance(p, int) else Run(me, *p) for p in parts)

    def add_file(path: bytes, *parts: tuple[int, int] | int) -> Entry:
        return entry(log, path, file_node(pack, path, runs(*parts), chunks))

    found = [entry(log, b"photos", owned(EntryKind.FOLDER, 0o755))]
    found.append(add_file(b"photos/one.raw", (0, 2)))
    # One run over the border of two blocks, then chunks out of order.
    found.append(add_file(b"photos/both blocks.txt", (2, 2), (5, 1), (4, 1)))
    found.append(add_file(b"photos/sparse.img", 65536, (2, 1), 1 << 20, (3, 2), 4096))
    found.append(add_file(b"photos/only a hole.img", 131072))
    found.append(add_file(b"photos/empty.txt"))
    found.append(add_file(b"photos/caf\xe9/\xff\n.raw", (0, 1)))
    linked = add_file(b"photos/name one.raw", (0, 3))
    linked = linked._replace(node=linked.node._replace(hardlink=(1 << 64) - 1))
    log.entries[-1] = linked
    found += [linked, entry(log, b"photos/name two.raw", linked.node)]
    pack.files.append({**pack.files[-1], "path": b"photos/name two.raw".hex()})
    marked = add_file(b"photos/marked.txt", (5, 1))
    attributes = {b"user.rating": b"5", b"user.\xff": b"", b"user.note": bytes(range(100))}
    early = marked.node._replace(xattrs=attributes, mtime=-1, mode=0o7777, user="", group="")
    log.entries[-1] = marked = marked._replace(node=early)
    found.append(marked)
    link = owned(EntryKind.SYMLINK, 0o777)._replace(link=b"../\xe9 elsewhere")
    found.append(entry(log, b"photos/link", link))
    found.append(entry(log, b"photos/was here.jpg", Node(EntryKind.GONE)))
    pack.add_entries(found)
    note_pack(log, pack, *finish(log, pack))


def write_large_pack(log: Log, suite: Suite) -> None:
    """Two segments, and an entry of more than 1 MiB in parts that reach from one to the other."""
    pack = begin(log, suite, "pack-large", Kind.PACK, 0)
    chunk = noise(f"{suite.name} large", 5000)
    pack.add_block(STORED, [chunk])
    path = b"photos/large attribute.raw"
    node = file_node(pack, path, (Run(pack.header.object_id, 0, 1),), [chunk])
    node = node._replace(xattrs={b"user.large": noise(f"{suite.name} attribute", (1 << 20) + 99)})
    pack.add_entries([entry(log, path, node), entry(log, b"after", owned(EntryKind.FOLDER, 0))])
    note_pack(log, pack, *finish(log, pack))


def note_pack(log: Log, pack: Written, data: bytes, indexes: list[bytes]) -> None:
    header = pack.header
    digest = blake3(data).digest()
    info = PackInfo(header.object_id, log.run, len(data), digest, header.raw, len(indexes))
    log.packs.append((info, indexes))


def write_log(log: Log, suite: Suite) -> None:
    """A manifest of what the run added, and a checkpoint of all there is."""
    small = [item for item in log.entries if len(encode_node(item.node)) < 65536]
    runs = [
        RunComplete(run, TIME * SECOND, (TIME + 60) * SECOND, 9 * run, 1_400_000 * run)
        for run in range(1, log.run + 1)
    ]
    manifest = begin(log, suite, "manifest", Kind.MANIFEST, log.number + 1)
    fill(manifest, log.packs[-2:], [item for item in small if item.run == log.run], runs[-1:])
    data, _ = finish(log, manifest)
    log.number, log.previous = log.number + 1, blake3(data).digest()
    checkpoint = begin(log, suite, "checkpoint", Kind.CHECKPOINT, log.number)
    fill(checkpoint, log.packs, small, runs)
    finish(log, checkpoint)


def fill(
    written: Written,
    packs: list[tuple[PackInfo, list[bytes]]],
    entries: list[Entry],
    runs: list[RunComplete],
) -> None:
    for info, indexes in packs:
        written.add(Type.PACK, info.encode())
        written.packs.append(describe_value(info))
        for body in indexes:
            written.add(Type.PACK_INDEX, body)
    written.add_entries(entries)
    written.settings = SETTINGS
    written.add(Type.SETTINGS, Settings(SETTINGS).encode())
    for run in runs:
        written.add(Type.RUN, run.encode())
        written.runs.append(describe_value(run))


def main() -> None:
    """Write all objects and vectors.json."""
    FOLDER.mkdir(exist_ok=True)
    log = Log(cheap_slots(KEYS, PASSWORD, SECRET))
    for run, suite in enumerate((AEGIS256, XCHACHA20POLY1305), 1):
        log.run = run
        write_pack(log, suite)
        write_large_pack(log, suite)
        write_log(log, suite)
    vectors: Json = {
        "format_version": 1,
        "password": PASSWORD,
        "password_nfkc_utf8": unicodedata.normalize("NFKC", PASSWORD).encode().hex(),
        "recovery_code": recovery.encode(SECRET),
        "recovery_secret": SECRET.hex(),
        "archive_id": KEYS.archive_id.hex(),
        "archive_key": KEYS.archive_key.hex(),
        "seed": KEYS.seed.hex(),
        "public_key": KEYS.writer().public_key.hex(),
        "chunk_key": KEYS.chunk_key.hex(),
        "file_key": KEYS.file_key.hex(),
        "chunker_seed": KEYS.chunker_seed,
        "objects": log.objects,
    }
    text = json.dumps(vectors, indent=1, ensure_ascii=True)
    (FOLDER / "vectors.json").write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
