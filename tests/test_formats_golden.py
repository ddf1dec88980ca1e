"""Known answers: a library or a change that moves one of these breaks every archive there is."""

from __future__ import annotations

import hashlib

import pytest
from blake3 import blake3
from helpers_formats import noise
from pyfastcdc import FastCDC

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
@@@
