"""Connections cut at random: nothing is lost, and nothing recorded that is not there.

The short version is part of the suite; `make cuts` does 200 cuts of each kind.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

import servers_sftp as sftp
from gateway import cold_gateway
from helpers_cli import PASSWORD, Place, Sizes, contents, make_tree, noise, small
from pyarchiver.cas import archiver, create
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.figures import PROFILES
from pyarchiver.cas.profiles import Terms
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.rows import STORED
from pyarchiver.cas.settings import OPTIONS
from pyarchiver.cas.sftp import SftpStorage
from pyarchiver.cas.wrappers import Patient

CUTS = int(os.environ.get("PYARCHIVER_CUTS", "8"))
SIZES = Sizes(pack=400 << 10, block=128 << 10)


def test_connections_cut_in_put_get_and_list(sshd_server: sftp.Server, tmp_path: Path) -> None:
    chance = random.Random(CUTS)
    with sftp.CuttingProxy(sshd_server.port, lambda: chance.randrange(4_000, 700_000)) as proxy:
        server = sshd_server.at(proxy.port)
        inner = SftpStorage(server.url(tmp_path.name), server.options, PROFILES["sftp"])
        storage = Patient(inner, sleep=lambda _: None)
        storage.prepare()
        stored: dict[str, bytes] = {}
        while proxy.cuts < CUTS:
            name = f"object-{len(stored)}"
            data = noise(name, chance.randrange(250_000))
            spooled = tmp_path / name
            spooled.write_bytes(data)
            storage.put(name, spooled)
            assert not spooled.exists()
            stored[name] = data
            asked = chance.choice(list(stored))
            into = bytearray(len(stored[asked]) + 1)
            assert storage.get_into(asked, 0, memoryview(into)) == len(stored[asked])
            assert into[:-1] == stored[asked]
            sizes = {found.name: found.size for found in storage.list()}
            assert sizes == {name: len(data) for name, data in stored.items()}
        storage.close()
    folder = sshd_server.folder / tmp_path.name
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == stored


def test_uploads_cut_behind_a_gateway(tmp_path: Path) -> None:
    """Where nothing can be renamed: names whose put was cut are spent, known, and cleared."""
    chance = random.Random(CUTS)
    place = Place(tmp_path)
    make_tree(place.source, files=CUTS * 3)
    with cold_gateway(tmp_path / "gateway") as (server, gateway), small(SIZES):
        gateway.seals = gateway.sizes = False
        # Not the first two sessions: they make the place, and look at it.
        lasts = [chance.randrange(400 << 10) for _ in range(CUTS)]
        gateway.drop = [1 << 40, 1 << 40, *lasts]
        settings = replace(
            place.settings(SIZES),
            url=server.url(),
            profile=replace(PROFILES["ovh-cloud-archive"], terms=Terms()),
            options=OPTIONS["sftp"] | server.options,
        )
        catalogue, _ = create.create(settings, place.archive, PASSWORD)
        with catalogue:
            archiver.resume(catalogue, Quiet())
        assert gateway.dropped >= CUTS // 2
        folder = server.folder / "place"
        with Catalogue.open(place.archive, write=False) as catalogue:
            rows, abandoned = catalogue.objects(), set(catalogue.abandoned())
        names = {row.name for row in rows}
        assert {row.state for row in rows} == {STORED}
        for row in rows:
            assert blake3((folder / row.name).read_bytes()).digest() == row.blake3
        assert abandoned
        assert set(os.listdir(folder)) - names <= abandoned

        assert not place.resume().new
        assert set(os.listdir(folder)) == names
        assert not gateway.overwritten
        assert not gateway.refused
        place.decrypt(folder, tmp_path / "back", Quiet())
        assert contents(tmp_path / "back") == contents(place.source)
