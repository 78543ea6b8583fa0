"""Released checkpoints by name: resolved, fetched, taken up again, and explained when offline."""

from __future__ import annotations

import http.server
import json
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from load_script import load_script
from tiny import save_checkpoint, tiny_vqgan

from tats import load_vqgan
from tats.errors import UserError
from tats.paths import file_sha256
from tats.weights import download
from tats.weights.catalogue import (
    RELEASED,
    check_sha256,
    closest_names,
    released_name,
    resolve_checkpoint,
)
from tats.weights.checkpoint import read_checkpoint
from tats.weights.download import download_http

SCRIPT = "scripts/download_checkpoints.py"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    return tmp_path / "cache"


class Server(http.server.ThreadingHTTPServer):
    """Serves one file on this machine, in the ways servers do."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.ranges = True  # whether a beginning that is there already is taken into account
        self.breaks_after: list[int] = []  # bytes after which the next answers break off
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.ckpt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        content, status = self.server.content, 200
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content, status = content[start:], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.breaks_after:
            content = content[: self.server.breaks_after.pop(0)]
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serves a real small checkpoint."""
    content = save_checkpoint(tiny_vqgan(), tmp_path / "served.ckpt").read_bytes()
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ucf101-vqgan", "ucf101-vqgan"),
        ("UCF-101 TATS-base", "ucf101-base"),
        ("ucf101-tats-base-uncond", "ucf101-uncond"),
        ("ucf101_unconditional", "ucf101-uncond"),
        ("sky_interpolation_transformer", "sky-interp"),
        ("Sky-Timelapse VQGAN", "sky-vqgan"),
        ("taichi-hd-ar-transformer", "taichi-ar"),
        ("taichi-hierarchical-vqgan", "taichi-hier-vqgan"),
        ("AudioSet-Drums Video-VQGAN", "drum-vqgan"),
        ("drums-stft-vqgan", "drum-stft-vqgan"),
        ("coinrun-tats-base", "mugen-base"),
        *((name, name) for name in RELEASED),
    ],
)
def test_names_are_understood_however_they_are_written(written: str, meant: str) -> None:
    assert released_name(written) == meant


@pytest.mark.parametrize("path", ["ucf101.ckpt", "runs/ucf101-vqgan", "", "vqgan", "last"])
def test_anything_else_is_a_path(path: str) -> None:
    assert released_name(path) is None


def test_a_slip_of_the_pen_is_met_with_suggestions() -> None:
    assert closest_names("ucf101-vqgna").startswith(" such as ucf101-vqgan")
    with pytest.raises(UserError, match=r"released one's name such as sky-vqgan"):
        load_vqgan("sky-vqgann")


def test_every_transformer_names_a_vqgan_and_every_source_is_one_place() -> None:
    sources = [file.source for file in RELEASED.values()]
    assert len(set(sources)) == len(sources) == 17
    for file in RELEASED.values():
        assert re.fullmatch(r"drive:[\w-]{33}|https://www\.dropbox\.com/s/.*\?dl=1", file.source)
        for needed in filter(None, (file.vqgan, file.stft_vqgan)):
            assert RELEASED[needed].stage == "vqgan"


def test_a_name_of_the_other_stage_is_refused() -> None:
    with pytest.raises(UserError, match=r"released transformer; expected one of ucf101-vqgan"):
        load_vqgan("ucf101-base")


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tiny_vqgan(), tmp_path / "sky-vqgan")
    load_vqgan("sky-vqgan")


def test_a_flags_text_means_the_file_that_is_read_and_recorded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = save_checkpoint(tiny_vqgan(), tmp_path / "v.ckpt")
    kept = cache / "checkpoints" / "sky-vqgan.ckpt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(file.read_bytes())
    for written, meant in (("~/v.ckpt", file), (file, file), ("Sky-Timelapse VQGAN", kept)):
        assert resolve_checkpoint(written, flag="--vqgan_ckpt", stage="vqgan") == meant
        assert read_checkpoint(written, flag="--vqgan_ckpt", stage="vqgan").path == meant
    with pytest.raises(UserError, match=r"^--vqgan_ckpt: got nowhere\.ckpt, which is not a file"):
        resolve_checkpoint("nowhere.ckpt", flag="--vqgan_ckpt", stage="vqgan")


# --- fetching ---------------------------------------------------------------------------------


def test_a_named_model_is_fetched_once_and_loads(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "DRIVE_DOWNLOAD", server.url + "?{}")
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)
    load_vqgan("ucf101-vqgan")
    load_vqgan("ucf101-vqgan")
    assert server.asked == [None]
    names = sorted(file.name for file in cache.rglob("*") if file.is_file())
    assert names == ["ucf101-vqgan.ckpt", "ucf101-vqgan.ckpt.sha256"]


def test_an_interrupted_file_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    path.write_bytes(server.content[:1000])
    download_http(server.url, path)
    assert server.asked == ["bytes=1000-"] and path.read_bytes() == server.content


def test_a_connection_that_breaks_off_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [700, 300]
    download_http(server.url, tmp_path / "x.part")
    assert server.asked == [None, "bytes=700-", "bytes=1000-"]
    assert (tmp_path / "x.part").read_bytes() == server.content


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "x.part").write_bytes(b"something else")
    download_http(server.url, tmp_path / "x.part")
    assert (tmp_path / "x.part").read_bytes() == server.content


@pytest.mark.parametrize("too_much", [b"", b"of another file"])
def test_a_part_that_is_whole_or_too_long_ends_well(
    server: Server, tmp_path: Path, too_much: bytes
) -> None:
    (tmp_path / "x.part").write_bytes(server.content + too_much)
    download_http(server.url, tmp_path / "x.part")
    assert (tmp_path / "x.part").read_bytes() == server.content


def test_a_file_that_never_comes_whole_is_not_used(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.breaks_after = [100, 100, 100]
    monkeypatch.setattr(download, "DRIVE_DOWNLOAD", server.url + "?{}")
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)
    with pytest.raises(UserError, match=r"broke off [\d,]+ bytes before the end; run again"):
        load_vqgan("sky-vqgan")
    assert not RELEASED["sky-vqgan"].path.exists()
    load_vqgan("sky-vqgan")  # goes on with the 300 bytes that came
    assert server.asked[-1] == "bytes=300-"


def test_another_file_than_the_one_first_fetched_is_not_taken_in_silence(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "DRIVE_DOWNLOAD", server.url + "?{}")
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)
    load_vqgan("sky-vqgan")
    kept = RELEASED["sky-vqgan"].path
    record = kept.with_name("sky-vqgan.ckpt.sha256")
    assert record.read_text() == f"{file_sha256(kept)}  sky-vqgan.ckpt\n"
    kept.unlink()
    server.content = server.content + b"changed"
    with pytest.raises(UserError, match=r"has sha256 .*as first fetched: see .*ckpt\.sha256"):
        load_vqgan("sky-vqgan")
    assert [file.name for file in kept.parent.iterdir()] == [record.name]
    kept.write_bytes(server.content)
    with pytest.raises(UserError, match="has sha256"):
        check_sha256("sky-vqgan", kept)
    record.unlink()  # as a user does who accepts the new file
    assert check_sha256("sky-vqgan", kept) == file_sha256(kept)


def test_a_web_page_in_place_of_the_file_is_noticed(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = b"<!DOCTYPE html><html>Too many people have fetched this file</html>"
    monkeypatch.setattr(download, "DRIVE_DOWNLOAD", server.url + "?{}")
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)
    with pytest.raises(UserError, match=r"web page instead of the file; fetch .* by hand"):
        load_vqgan("sky-vqgan")
    assert not [file for file in cache.rglob("*") if file.is_file()]


@pytest.mark.parametrize("name", ["sky-vqgan", "mugen-vqgan"])
def test_offline_one_line_says_what_to_fetch_and_where_to_put_it(
    name: str, no_network: None, cache: Path
) -> None:
    with pytest.raises(UserError) as error:
        load_vqgan(name)
    line = str(error.value)
    assert "\n" not in line and RELEASED[name].url in line
    assert f"save it as {cache / 'checkpoints' / name}.ckpt" in line


# --- the script -------------------------------------------------------------------------------


def test_the_list_shows_every_name_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    load_script(SCRIPT).main(["--list"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "kind", "needs", "here", "source"]
    assert [row.split()[0] for row in rows] == list(RELEASED)
    assert all(file.url in row for file, row in zip(RELEASED.values(), rows, strict=True))


def test_the_script_fetches_a_transformer_with_its_vqgan_and_reports_size_and_hash(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "DRIVE_DOWNLOAD", server.url + "?{}")
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)
    for fetched in (True, False):
        load_script(SCRIPT).main(["UCF-101 TATS-base"])
        report = json.loads(capsys.readouterr().out)
        assert list(report) == ["cache", "ucf101-vqgan", "ucf101-base"]
        for name in ("ucf101-vqgan", "ucf101-base"):
            path = RELEASED[name].path
            assert report[name] == {
                "path": str(path),
                "bytes": len(server.content),
                "sha256": file_sha256(path),
                "fetched": fetched,
            }
    assert len(server.asked) == 2


def test_the_script_says_offline_what_to_fetch_and_exits_with_2(
    no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        load_script(SCRIPT).main(["drum-base"])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and "Traceback" not in error
    for name in ("drum-vqgan", "drum-stft-vqgan", "drum-base"):
        assert f"fetch {RELEASED[name].url} by hand" in error
        assert str(RELEASED[name].path) in error


def test_the_script_refuses_a_name_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load_script(SCRIPT).main(["sky-vqgann"])
    assert exit_.value.code == 2 and "such as sky-vqgan" in capsys.readouterr().err


# --- the page about them ----------------------------------------------------------------------


def commands() -> list[list[str]]:
    """The command lines of docs/REPRODUCING.md that this project's scripts take."""
    page = (Path(__file__).parents[2] / "docs" / "REPRODUCING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python ")]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command)[:70])
def test_every_command_of_the_page_is_understood(command: list[str]) -> None:
    script, *flags = command
    args = vars(load_script(script).build_parser().parse_args(flags))
    for flag in ("gpt_ckpt", "vqgan_ckpt", "stft_vqgan_ckpt", "ckpt1", "ckpt2", "vqgan"):
        if args.get(flag):
            stage = "vqgan" if "vqgan" in flag else "transformer"
            assert RELEASED[args[flag]].stage == stage
    if args.get("gpt_ckpt"):
        assert RELEASED[args["gpt_ckpt"]].vqgan == args["vqgan_ckpt"]


def test_the_page_has_commands() -> None:
    assert len(commands()) >= 9
