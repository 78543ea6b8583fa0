"""Fetching fills the cache once, checks what it stores, and fails in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from load_script import load_script

CONTENT = b"the byte-pair merges"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a small vocabulary as the only published file and an empty cache."""
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))
    module = load_script("scripts/fetch_weights.py")
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    published = dataclasses.replace(module.CATALOGUE["clip_vocabulary"], sha256=sha256)
    monkeypatch.setitem(module.CATALOGUE, "clip_vocabulary", published)
    return module


def write_archive(folder: Path, kind: str, content: bytes) -> None:
    member = "clip/bpe_simple_vocab_16e6.txt.gz"
    if kind == "wheel":
        with zipfile.ZipFile(folder / "openai_clip-1.0.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, content)
        return
    with tarfile.open(folder / "openai-clip-1.0.1.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo(f"openai-clip-1.0.1/{member}")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def pretend_pip(
    monkeypatch: pytest.MonkeyPatch, kind: str, content: bytes = CONTENT
) -> list[list[str]]:
    """Let ``pip download`` write an archive made here; returns the commands it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        write_archive(Path(command[command.index("--dest") + 1]), kind, content)
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


ARGUMENTS = ["--only", "clip_vocabulary"]


@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_a_second_run_finds_what_the_first_one_stored(
    kind: str,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = pretend_pip(monkeypatch, kind)
    for expected in ("fetched", "already there"):
        script.main(ARGUMENTS)
        assert json.loads(capsys.readouterr().out)["clip_vocabulary"] == expected
    cache = tmp_path / "cache"
    assert [file.read_bytes() for file in cache.iterdir()] == [CONTENT]
    assert len(commands) == 1 and "--no-deps" in commands[0]
    assert commands[0][-1] == "openai-clip==1.0.1"


def test_a_damaged_cached_file_is_fetched_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_pip(monkeypatch, "wheel")
    cached = tmp_path / "cache" / "bpe_simple_vocab_16e6.txt.gz"
    cached.parent.mkdir()
    cached.write_bytes(CONTENT[:5])
    script.main(ARGUMENTS)
    assert cached.read_bytes() == CONTENT


def fails(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        script.main(ARGUMENTS)
    assert stop.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last_line
    return last_line


def test_other_bytes_than_the_published_ones_are_not_stored(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend_pip(monkeypatch, "wheel", b"something else")
    assert "has sha256" in fails(script, capsys)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_connection_the_error_says_what_to_do(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip itself, without an index
    line = fails(script, capsys)
    assert "pip could not fetch openai-clip==1.0.1" in line
    assert "or put bpe_simple_vocab_16e6.txt.gz into" in line
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_met_before_the_download(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    commands = pretend_pip(monkeypatch, "wheel")
    (tmp_path / "a file").touch()
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "a file"))
    assert re.search("TATS_CACHE: .*a file.* cannot be written", fails(script, capsys))
    assert commands == []


def test_every_published_file_is_fetched_unless_some_are_named(script: ModuleType) -> None:
    parser = script.build_parser()
    assert parser.parse_args([]).only == ["clip_vocabulary", "i3d", "lpips_heads", "vgg16"]
    assert parser.parse_args(["--only", "i3d"]).only == ["i3d"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--only", "resnet"])
