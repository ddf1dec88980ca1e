"""kit: what to keep in a drawer, and what lies beside the packs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers_cli import PASSWORD, contents, make_tree, on_terminal
from pyarchiver.cas.kit import PAGE
from pyarchiver.cmd import secrets
from pyarchiver.cmd.exits import Exit
from pyarchiver.cmd.main import run
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import parse_name

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
ROOT = Path(__file__).parents[1]
FILES = {PAGE, "rescue.py", "FORMAT.md"}


@pytest.fixture(autouse=True)
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sync", lambda: None)
    monkeypatch.setattr("click.prompt", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.delenv(secrets.CODE_VARIABLE, raising=False)


class Home:
    """An archive with a kit in its storage."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], ini: str = "") -> None:
        self.folder = folder
        self.archive = folder / "photos.archive"
        self.storage = folder / "storage"
        make_tree(folder / "source", files=2, size=5_000)
        given = ["--name", "photos", "--source", "source", "--storage", "storage", "-q"]
        assert run(["init", str(folder / "photos.ini"), *given]) == Exit.DONE
        text = (folder / "photos.ini").read_text()
        assert "kit = yes" in text
        (folder / "photos.ini").write_text(text.replace("kit = yes", ini or "kit = yes"))
        assert run(["start", str(folder / "photos.ini"), "--json"]) == Exit.DONE
        self.code: str = json.loads(capsys.readouterr().out)["recovery_code"]

    def kits(self) -> list[Path]:
        return sorted(self.storage.glob("*-kit-*"))

    def kit(self, *more: str) -> int:
        return run(["kit", str(self.archive), str(self.folder / "kit"), *more])

    @property
    def page(self) -> str:
        return (self.folder / "kit" / PAGE).read_text("utf-8")


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Home:
    return Home(tmp_path, capsys)


def check_html(text: str) -> None:
    """All tags closed and nothing fetched from elsewhere."""
    open_: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "img", "iframe"), tag
            assert not {"src", "href", "xlink:href"} & {name for name, _ in attrs}
            if tag not in ("meta", "br"):
                open_.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_.pop() == tag

    Parser().feed(text)
    assert not open_
    assert "url(" not in text
    assert "$" not in text


# For a drawer


def test_the_page_has_the_code_as_text_and_as_a_qr_code(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    import segno

    monkeypatch.setenv(secrets.CODE_VARIABLE, home.code.lower().replace("-", " "))
    assert home.kit() == Exit.DONE
    folder = home.folder / "kit"
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / PAGE).stat().st_mode & 0o777 == 0o600
    check_html(home.page)
    for group in home.code.split("-"):
        assert group in home.page
    svg = re.search(r"<svg.*?</svg>", home.page, re.DOTALL)
    assert svg is not None
    drawn = [path.attrib["d"] for path in ET.fromstring(svg[0]).iter("path")]
    expected = segno.make(home.code, error="m", micro=False).svg_inline(border=2, omitsize=True)
    assert drawn
    assert all(path in expected for path in drawn)
    assert "photos" in home.page
    assert home.storage.as_uri() in home.page
    assert PASSWORD not in home.page


def test_without_a_code_there_is_a_blank(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.kit() == Exit.DONE
    assert "no recovery code was given" in capsys.readouterr().err
    check_html(home.page)
    assert "<svg" not in home.page
    assert "by hand" in home.page
    assert home.kit("--no-code", "--force") == Exit.DONE
    assert "no recovery code was given" not in capsys.readouterr().err


def test_the_files_are_the_documents_themselves(home: Home) -> None:
    assert home.kit("--no-code") == Exit.DONE
    folder = home.folder / "kit"
    assert (folder / "FORMAT.md").read_bytes() == (ROOT / "FORMAT.md").read_bytes()
    assert (folder / "rescue.py").read_bytes() == (
        ROOT / "cas" / "kit_files" / "rescue.py"
    ).read_bytes()


@pytest.mark.parametrize("wrong", ["AAAA", "0000-0000-0000-0000-0000-0000-0000-0000"])
def test_a_wrong_code_makes_no_page(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    """A page with a wrong code would be found out decades later."""
    monkeypatch.setenv(secrets.CODE_VARIABLE, wrong)
    assert home.kit() == Exit.FAILED
    assert "recovery code" in capsys.readouterr().err
    assert not (home.folder / "kit").exists()


def test_the_code_of_another_archive_makes_no_page(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.setenv(secrets.CODE_VARIABLE, Home(tmp_path / "other", capsys).code)
    assert home.kit() == Exit.FAILED
    assert "another archive" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (home.folder / "kit").mkdir()
    (home.folder / "kit" / "FORMAT.md").write_text("mine")
    assert home.kit("--no-code") == Exit.USAGE
    assert "already there: --force overwrites it" in capsys.readouterr().err
    assert (home.folder / "kit" / "FORMAT.md").read_text() == "mine"
    assert home.kit("--no-code", "--force") == Exit.DONE
    assert (home.folder / "kit" / "FORMAT.md").read_text() != "mine"


def test_asked_on_a_terminal(home: Home) -> None:
    terminal = on_terminal("kit", home.archive, home.folder / "kit")
    terminal.answer("by hand): ", home.code)
    assert terminal.wait() == Exit.DONE
    assert home.code not in terminal.output
    assert home.code.split("-")[3] in home.page


def test_json(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(secrets.CODE_VARIABLE, home.code)
    assert home.kit("--json") == Exit.DONE
    out = capsys.readouterr().out
    assert {Path(path).name for path in json.loads(out)["files"]} == FILES
    assert json.loads(out)["code"] is True
    assert home.code not in out


# In the storage


def test_the_kit_beside_the_packs_tells_no_name_and_no_secret(home: Home) -> None:
    [kit] = home.kits()
    name = parse_name(kit.name)
    assert name is not None
    assert name.kind == Kind.KIT
    assert str(name) == kit.name
    with zipfile.ZipFile(kit) as file:
        assert set(file.namelist()) == FILES
        page = file.read(PAGE).decode()
        assert file.read("rescue.py").startswith(b"#!/usr/bin/env python3")
    check_html(page)
    assert name.tag in page
    for secret in (home.code, home.code[:4], "photos", str(home.folder), PASSWORD):
        assert secret not in page


def test_it_is_sent_once(home: Home) -> None:
    (home.folder / "source" / "more").write_text("new")
    assert run(["resume", str(home.archive), "-q"]) == Exit.DONE
    assert len(home.kits()) == 1


def test_kit_no_leaves_it_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Home(tmp_path, capsys, "kit = no").kits() == []


def test_a_kit_setting_must_be_yes_or_no(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source").mkdir()
    given = ["--name", "n", "--source", "source", "--storage", "storage", "-q"]
    assert run(["init", str(tmp_path / "n.ini"), *given]) == Exit.DONE
    text = (tmp_path / "n.ini").read_text().replace("kit = yes", "kit = maybe")
    (tmp_path / "n.ini").write_text(text)
    assert run(["start", str(tmp_path / "n.ini")]) == Exit.USAGE
    assert "'kit' must be yes or no" in capsys.readouterr().err


def test_decrypt_verify_and_delete_know_it(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["decrypt", str(home.storage), str(home.folder / "out")]) == Exit.DONE
    assert "kit" not in capsys.readouterr().err
    assert contents(home.folder / "out") == contents(home.folder / "source")
    [kit] = home.kits()
    # One that the catalogue does not know, as after it was made again from the manifests.
    shutil.copy(kit, kit.with_name(f"{kit.name[:17]}{'0' * 32}.zip"))
    assert len(home.kits()) == 2
    assert run(["verify", str(home.archive)]) == Exit.DONE
    assert run(["resume", str(home.archive), "-q"]) == Exit.DONE
    assert run(["delete", str(home.archive), "--yes", "-q"]) == Exit.DONE
    assert list(home.storage.iterdir()) == []


def test_an_altered_kit_is_told(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """It lies in plain, and what its script is given is the password."""
    assert run(["verify", str(home.archive), "--deep"]) == Exit.DONE
    [kit] = home.kits()
    kit.write_bytes(kit.read_bytes()[:-1] + b"?")
    assert run(["verify", str(home.archive), "--deep"]) == Exit.PARTIAL
    assert kit.name in capsys.readouterr().err


def test_a_recovered_archive_goes_on_beside_its_kit(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """No manifest tells of the kit, and it must not pass for what a newer copy has sent."""
    home.archive.unlink()
    assert run(["recover", str(home.storage), str(home.archive), "-q"]) == Exit.DONE
    (home.folder / "source" / "more").write_text("new")
    assert run(["resume", str(home.archive), "-q"]) == Exit.DONE
    assert run(["verify", str(home.archive)]) == Exit.DONE
    assert run(["delete", str(home.archive), "--yes", "-q"]) == Exit.DONE
    assert list(home.storage.iterdir()) == []


def test_what_the_kit_says_is_enough(home: Home) -> None:
    """The drawer's story: the kit from the storage, the objects, the code from the paper."""
    [kit] = home.kits()
    found = home.folder / "found"
    with zipfile.ZipFile(kit) as file:
        file.extractall(found)
    done = subprocess.run(
        [sys.executable, "-I", found / "rescue.py", home.storage, home.folder / "out"],
        input=home.code + "\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(home.folder / "out") == contents(home.folder / "source")
