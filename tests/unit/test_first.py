"""The first process works, and the others wait for it and say so."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from tats.training.first import first_alone

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))


def _enter(folder: Path, seconds: float) -> None:
    with first_alone(folder, "indexing clips"), open(folder / "log", "a") as log:
        log.write("in\n")
        log.flush()
        time.sleep(seconds)
        log.write("out\n")


def _start(folder: Path, seconds: float) -> multiprocessing.process.BaseProcess:
    process = SPAWN.Process(target=_enter, args=(folder, seconds), daemon=True)
    process.start()
    return process


def _wait_until_someone_is_in(folder: Path) -> None:
    end = time.monotonic() + 60
    while not (folder / "log").exists() or "in" not in (folder / "log").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nobody_enters_before_the_first_has_left(tmp_path, caplog):
    first = _start(tmp_path, 1.0)
    _wait_until_someone_is_in(tmp_path)
    others = [_start(tmp_path, 0.0) for _ in range(2)]
    with caplog.at_level(logging.WARNING), first_alone(tmp_path, "indexing clips"):
        assert (tmp_path / "log").read_text().splitlines()[:2] == ["in", "out"]
    for process in (first, *others):
        process.join(60)
    assert (tmp_path / "log").read_text().splitlines().count("out") == 3
    assert "waiting for another process, which is indexing clips" in caplog.text


def test_others_go_on_when_the_first_is_killed(tmp_path):
    process = _start(tmp_path, 600)
    _wait_until_someone_is_in(tmp_path)
    threading.Timer(0.5, process.kill).start()
    with first_alone(tmp_path, "indexing clips"):
        process.join(60)
        assert not process.is_alive()


def test_other_data_do_not_wait_and_neither_does_a_place_without_a_cache(tmp_path, monkeypatch):
    with first_alone(tmp_path / "one", "indexing"), first_alone(tmp_path / "other", "indexing"):
        pass
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "file"))
    with first_alone(tmp_path / "one", "indexing"), first_alone(tmp_path / "one", "indexing"):
        pass
