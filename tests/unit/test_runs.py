"""Runs: what they are known by, what they leave, and how they go on, alone or with others."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_sampler
import numpy as np
import pytest
import torch
from fake_sampler import FakeSampler

from tats.errors import UserError
from tats.sampling import claims, runs
from tats.sampling.claims import Claims
from tats.sampling.run_files import Outputs
from tats.sampling.runs import run_identity, sample_range, write_run

N_SAMPLES, N_LATENTS = 6, 4
ALL = Outputs(codes=True, grids=True, videos=True, frames=True)


def write(sampler: FakeSampler, save: Path, **settings: Any) -> Path:
    """Write a run in this process; its folder."""
    settings = {"name": "fake", "samples": range(N_SAMPLES), "batch_size": 2} | settings
    result = write_run(sampler, save, **settings)
    assert result is not None
    return Path(result["clips"]).parent


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its record; of a video its name, as encoders vary in a few bytes."""
    return {
        str(path.relative_to(folder)): b"" if path.suffix == ".mp4" else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


def everything(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Contents and times of every file below a folder."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def start(save: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """Write a run in a process of its own."""
    tests = Path(fake_sampler.__file__).parent
    path = os.pathsep.join([str(tests.parent), str(tests)])
    return subprocess.Popen(
        [sys.executable, fake_sampler.__file__, "--save", str(save), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def as_rank(rank: int, n_processes: int = 2) -> dict[str, str]:
    """The variables torchrun sets."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes)}
    return {**place, "MASTER_ADDR": "localhost"}


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process that must end well; what it printed."""
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return {**json.loads(out), "err": err}


def until(condition: Any) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Interrupted(FakeSampler):
    """Ends like a process that was stopped, in the middle of a sample."""

    n_left = 10

    def stream(self, samples, canvas) -> Iterator[torch.Tensor]:
        for frames in super().stream(samples, canvas):
            if self.n_left == 0:
                raise KeyboardInterrupt
            self.n_left -= 1
            yield frames


# --- what a run leaves ------------------------------------------------------------------------


def test_a_run_leaves_its_clips_what_was_asked_for_and_its_record(tmp_path: Path) -> None:
    sampler = FakeSampler()
    folder = write(sampler, tmp_path, samples=range(18, 36), outputs=ALL, record={"argv": ["-x"]})
    clips, codes = np.load(folder / "clips.npy"), np.load(folder / "codes.npy")
    assert clips.shape == (18, 8, 16, 16, 3) and clips.dtype == np.uint8
    assert codes.shape == (18, N_LATENTS, 2, 2) and codes.dtype == np.int32
    assert np.array_equal(clips[:, ::2, ::8, ::8, 0], codes)
    assert len({clip.tobytes() for clip in clips}) == 18
    videos = [f"sample_{i:05d}.mp4" for i in range(18, 36)]
    grids = ["samples_00018-00033.mp4", "samples_00034-00035.mp4"]
    assert sorted(path.name for path in (folder / "videos").iterdir()) == sorted(videos + grids)
    assert len(list((folder / "frames" / "sample_00035").glob("frame_0000?.png"))) == 8
    assert sorted(path.name for path in folder.iterdir()) == [
        "clips.npy", "codes.npy", "frames", "run.json", "videos",
    ]  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["argv"] == ["-x"]
    assert record["result"] == {
        "clips": str(folder / "clips.npy"), "n_clips": 18, "videos": str(folder / "videos"),
    }  # fmt: skip
    assert record["samples"] == [{"sample": i, "label": i % 3} for i in range(18, 36)]
    assert record["checkpoints"]["gpt_ckpt"]["file"] == "/a.ckpt"
    assert folder.name == f"fake-{record['identity'][:8]}"


def test_without_wishes_there_are_clips_and_record_alone(tmp_path: Path) -> None:
    folder = write(FakeSampler(), tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["clips.npy", "run.json"]


def test_run_r_follows_on_from_run_r_minus_1() -> None:
    assert [*sample_range(3, 0), *sample_range(3, 1)] == list(range(6))


def test_a_clips_own_video_shows_what_is_presented(tmp_path: Path) -> None:
    seen = []

    def present(sample: int, clip: np.ndarray) -> tuple[np.ndarray, None]:
        seen.append((sample, clip.shape))
        return clip, None

    write(FakeSampler(), tmp_path, outputs=Outputs(videos=True, present=present))
    assert seen == [(sample, (8, 16, 16, 3)) for sample in range(N_SAMPLES)]


def test_the_first_process_scores_all_clips_in_order(tmp_path: Path) -> None:
    class Meter:
        def __init__(self) -> None:
            self.clips: list[np.ndarray] = []

        def add(self, clips: torch.Tensor) -> None:
            self.clips.extend(clips.numpy())

        def scores(self) -> dict[str, int]:
            return {"fvd": len(self.clips)}

    for _ in range(2):  # the second time from the finished run
        meter: Any = Meter()
        folder = write(FakeSampler(), tmp_path, samples=range(20), meter=meter)
        assert np.array_equal(np.stack(meter.clips), np.load(folder / "clips.npy"))
        assert json.loads((folder / "run.json").read_text())["result"]["fvd"] == 20
    write(FakeSampler(), tmp_path, samples=range(20))  # a score that was made is not forgotten
    assert json.loads((folder / "run.json").read_text())["result"]["fvd"] == 20


# --- what a run is known by -------------------------------------------------------------------


def test_a_run_is_not_known_by_where_and_how_it_is_made(tmp_path: Path) -> None:
    folder = write(FakeSampler(), tmp_path, batch_size=1, outputs=Outputs(codes=True))
    elsewhere = FakeSampler(device=torch.device("cuda:1"))
    again = write(elsewhere, tmp_path, batch_size=4, outputs=ALL, record={"argv": ["other"]})
    assert again == folder and not elsewhere.windows
    assert write(FakeSampler(), tmp_path / "b").name == folder.name


def test_a_run_is_known_by_everything_its_output_depends_on(tmp_path: Path) -> None:
    samplers = [
        FakeSampler(),
        FakeSampler(seed=1),
        FakeSampler(n_latents=5),
        FakeSampler(settings={"texts": ["a"]}),
        FakeSampler(settings={"texts": ["b"]}),
        FakeSampler(settings={"checkpoints": {"gpt": "00"}}),
        FakeSampler(settings={"checkpoints": {"gpt": "01"}}),
    ]
    known = {run_identity(sampler, range(4)) for sampler in samplers}
    known |= {run_identity(FakeSampler(), samples) for samples in (range(5), range(4, 8))}
    assert len(known) == len(samplers) + 2


def test_an_identity_of_anything_but_plain_values_is_refused() -> None:
    with pytest.raises(TypeError):
        run_identity(FakeSampler(settings={"prime": object()}), range(4))


@pytest.mark.parametrize(
    "other",
    [
        FakeSampler(seed=1),
        FakeSampler(n_latents=5),
        FakeSampler(settings={"texts": ["b"]}),
        FakeSampler(settings={"checkpoints": {"gpt": "01"}}),
    ],
)
def test_another_run_leaves_the_first_one_as_it_was(tmp_path: Path, other: FakeSampler) -> None:
    first = write(FakeSampler(), tmp_path, outputs=ALL)
    before = everything(first)
    second = write(dataclasses.replace(other, windows=[]), tmp_path, outputs=ALL, overwrite=True)
    assert second != first and everything(first) == before


@pytest.mark.parametrize(
    "content",
    [
        {"run.json": '{"identity": "00"}'},
        {"run.json": "{"},
        {"run.json": "[]"},
        {"clips.npy": "of a user"},
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_something_else_is_refused_and_left(
    tmp_path: Path, content: dict[str, str], overwrite: bool
) -> None:
    folder = tmp_path / f"fake-{run_identity(FakeSampler(), range(N_SAMPLES))[:8]}"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    before = everything(tmp_path)
    with pytest.raises(UserError, match=folder.name):
        write(FakeSampler(), tmp_path, overwrite=overwrite)
    assert everything(tmp_path) == before and len(list(folder.iterdir())) == 1


# --- the same command again -------------------------------------------------------------------


def test_a_finished_run_is_not_sampled_again_but_shown_as_asked(tmp_path: Path) -> None:
    first = write_run(FakeSampler(), tmp_path, name="fake", samples=range(N_SAMPLES))
    folder = tmp_path / next(tmp_path.iterdir()).name
    clips = everything(folder)[folder / "clips.npy"]
    sampler = FakeSampler()
    outputs = Outputs(grids=True, frames=True)
    again = write_run(sampler, tmp_path, name="fake", samples=range(N_SAMPLES), outputs=outputs)
    assert again == first and not sampler.windows
    assert everything(folder)[folder / "clips.npy"] == clips
    whole = files(write(FakeSampler(), tmp_path / "b", outputs=outputs))
    assert files(folder) == whole and len(whole) == 2 + 8 * N_SAMPLES


def test_a_finished_run_without_codes_is_not_asked_for_them(tmp_path: Path) -> None:
    write(FakeSampler(), tmp_path)
    with pytest.raises(UserError, match=r"--save_codes.*--overwrite"):
        write(FakeSampler(), tmp_path, outputs=Outputs(codes=True))
    assert not list(tmp_path.glob("*/.parts"))
    folder = write(FakeSampler(), tmp_path, outputs=Outputs(codes=True), overwrite=True)
    assert (folder / "codes.npy").exists()


def test_overwriting_samples_again_and_deletes_this_runs_files_alone(tmp_path: Path) -> None:
    other = everything(write(FakeSampler(seed=1), tmp_path, outputs=ALL))
    folder = write(FakeSampler(), tmp_path, outputs=ALL)
    whole = files(folder)
    (folder / "notes.txt").write_text("the user's")
    (folder / "clips.npy").write_bytes(b"spoilt")
    sampler = FakeSampler()
    assert write(sampler, tmp_path, overwrite=True) == folder
    assert len(sampler.windows) == N_SAMPLES // 2 * N_LATENTS
    assert files(folder) == {"clips.npy": whole["clips.npy"], "notes.txt": b"the user's"}
    assert {path: everything(tmp_path)[path] for path in other} == other


def test_an_interrupted_run_goes_on_with_the_samples_that_are_there(tmp_path: Path) -> None:
    whole = files(write(FakeSampler(), tmp_path / "a", outputs=ALL))
    with pytest.raises(KeyboardInterrupt):
        write(Interrupted(), tmp_path / "b", outputs=ALL)
    (folder,) = (tmp_path / "b").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "unfinished" and len(record["samples"]) == N_SAMPLES
    left = {path.name for path in (folder / ".parts").iterdir()}
    assert left == {f"sample_0000{i}{end}" for i in range(4) for end in (".npy", ".codes.npy")}
    sampler = FakeSampler()
    assert files(write(sampler, tmp_path / "b", outputs=ALL)) == whole
    assert {samples for samples, _ in sampler.windows} == {(4, 5)}


def test_samples_that_are_equally_far_go_on_together(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runs, "SECONDS_BETWEEN_KEEPS", 0.0)
    whole = files(write(FakeSampler(), tmp_path / "a", outputs=ALL))
    with pytest.raises(KeyboardInterrupt):
        write(Interrupted(), tmp_path / "b", outputs=ALL)  # sample 4 and 5 have two latent frames
    sampler = FakeSampler()
    assert files(write(sampler, tmp_path / "b", outputs=ALL, batch_size=8)) == whole
    assert sampler.windows == [((4, 5), 2), ((4, 5), 3)]
    with pytest.raises(KeyboardInterrupt):
        write(Interrupted(), tmp_path / "c", outputs=ALL, batch_size=1)
    sampler = FakeSampler()
    assert files(write(sampler, tmp_path / "c", outputs=ALL, batch_size=8)) == whole
    assert {samples for samples, _ in sampler.windows} == {(2,), (3, 4, 5)}


@pytest.mark.parametrize("spoil", [b"", b"\x93NUMPY"])
def test_files_that_were_not_written_whole_are_made_again(tmp_path: Path, spoil: bytes) -> None:
    whole = files(write(FakeSampler(), tmp_path / "a", outputs=ALL))
    with pytest.raises(KeyboardInterrupt):
        write(Interrupted(), tmp_path / "b", outputs=ALL)
    (folder,) = (tmp_path / "b").iterdir()
    for name in ("sample_00000.npy", "sample_00001.npy", "sample_00001.codes.npy"):
        (folder / ".parts" / name).write_bytes(spoil)
    assert files(write(FakeSampler(), tmp_path / "b", outputs=ALL)) == whole


def test_a_long_sample_whose_process_was_killed_goes_on_inside_itself(tmp_path: Path) -> None:
    flags = ["--n_sample", "1", "--n_latents", "24"]
    whole = ended(start(tmp_path / "a", *flags))
    killed = start(tmp_path / "b", *flags, "--seconds", "0.1")
    until(lambda: list(tmp_path.glob("b/*/.parts/*.codes.npy")))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    last = ended(start(tmp_path / "b", *flags))
    assert 0 < len(last["windows"]) < 24 == len(whole["windows"])
    assert files(tmp_path / "b") == files(tmp_path / "a")


def test_a_full_disk_is_one_line_and_nothing_finished_is_lost(tmp_path: Path) -> None:
    whole = files(write(FakeSampler(), tmp_path / "a"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a part fits, all do not
    try:
        with pytest.raises(UserError, match=r"cannot be written .* same command again"):
            write(FakeSampler(), tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sampler = FakeSampler()
    assert files(write(sampler, tmp_path / "b")) == whole and not sampler.windows


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write(FakeSampler(), tmp_path / "file" / "folder")


# --- several processes ------------------------------------------------------------------------


# Two processes that claim the last two samples at the same moment make two batches of them; windows
# can be counted where a batch is one sample.
ONE_BY_ONE = ("--batch_size", "1")


def test_two_ranks_on_gpus_of_their_own_finish_one_run(tmp_path: Path) -> None:
    one = ended(start(tmp_path / "one", *ONE_BY_ONE))
    pair = [
        start(
            tmp_path / "two",
            "--device",
            f"cuda:{rank}",
            "--seconds",
            "0.05",
            *ONE_BY_ONE,
            **as_rank(rank),
        )
        for rank in range(2)
    ]
    first, second = (ended(process) for process in pair)
    assert second["result"] is None and first["result"]["n_clips"] == N_SAMPLES
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert len(first["windows"]) + len(second["windows"]) == len(one["windows"])


def test_the_share_of_a_killed_process_is_finished_by_the_other(tmp_path: Path) -> None:
    ended(start(tmp_path / "one"))
    killed = start(tmp_path / "two", "--seconds", "1", **as_rank(1))
    until(lambda: list(tmp_path.glob("two/*/.parts/sample_*.claim")))
    first = start(tmp_path / "two", **as_rank(0))
    until(lambda: len(list(tmp_path.glob("two/*/.parts/sample_?????.npy"))) >= 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert ended(first)["result"]["n_clips"] == N_SAMPLES
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_a_world_size_that_was_left_behind_makes_nobody_wait(tmp_path: Path) -> None:
    assert ended(start(tmp_path, WORLD_SIZE="4"))["result"]["n_clips"] == N_SAMPLES


def test_two_processes_that_both_take_themselves_for_the_first_share_a_run(tmp_path: Path) -> None:
    one = ended(start(tmp_path / "one", *ONE_BY_ONE))
    pair = [start(tmp_path / "two", "--seconds", "0.05", *ONE_BY_ONE) for _ in range(2)]
    first, second = (ended(process) for process in pair)
    assert first["result"] == second["result"]
    assert len(first["windows"]) + len(second["windows"]) == len(one["windows"])
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_two_runs_in_one_place_at_the_same_time_both_end_whole(tmp_path: Path) -> None:
    for seed in ("0", "1"):
        ended(start(tmp_path / "one", "--seed", seed))
    pair = [start(tmp_path / "two", "--seed", seed, "--seconds", "0.05") for seed in ("0", "1")]
    for process in pair:
        ended(process)
    assert files(tmp_path / "two") == files(tmp_path / "one") and len(files(tmp_path / "one")) == 6


def test_all_ranks_overwrite_once_together(tmp_path: Path) -> None:
    one = ended(start(tmp_path, *ONE_BY_ONE))
    whole = files(tmp_path)
    flags = ["--overwrite", "--seconds", "0.2", *ONE_BY_ONE]
    second = start(tmp_path, *flags, **as_rank(1))
    until(lambda: "waiting" in second.stderr.readline())
    first = start(tmp_path, *flags, **as_rank(0))
    n_windows = [len(ended(process)["windows"]) for process in (first, second)]
    assert min(n_windows) > 0 and sum(n_windows) == len(one["windows"])
    assert files(tmp_path) == whole


def test_a_run_that_others_work_on_is_not_overwritten(tmp_path: Path) -> None:
    folder = write(FakeSampler(), tmp_path)
    before = files(folder)
    with Claims(folder / ".parts"), pytest.raises(UserError, match="another process works on"):
        write(FakeSampler(), tmp_path, overwrite=True)
    assert files(folder) == before


def test_waiting_for_others_is_said_and_ends_with_them(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.0)
    parts = tmp_path / f"fake-{run_identity(FakeSampler(), range(N_SAMPLES))[:8]}" / ".parts"
    with caplog.at_level(logging.WARNING), Claims(parts) as other:
        assert other.take("sample_00003")
        thread = threading.Thread(target=write, args=(FakeSampler(), tmp_path))
        thread.start()
        until(lambda: "waiting for 1 of 6 samples, which 1 other" in caplog.text)
        time.sleep(4 * claims.POLL_SECONDS)
        assert thread.is_alive()
    thread.join(timeout=60)
    assert not thread.is_alive() and (parts.parent / "clips.npy").exists()
    assert caplog.text.count("waiting for") == 1  # not at every look


def test_a_process_that_slept_while_others_finished_its_work_ends_well(tmp_path: Path) -> None:
    class Sleeper(FakeSampler):
        def stream(self, samples, canvas) -> Iterator[torch.Tensor]:
            for frames in super().stream(samples, canvas):
                if len(self.windows) == 1:  # the others take it for dead, and finish the run
                    (worker,) = tmp_path.glob("*/.parts/worker-*.json")
                    worker.unlink()
                    write(FakeSampler(), tmp_path)
                yield frames

    sleeper = Sleeper()
    folder = write(sleeper, tmp_path)
    assert len(sleeper.windows) == N_LATENTS
    assert files(folder) == files(write(FakeSampler(), tmp_path / "b"))


# --- claims -----------------------------------------------------------------------------------


def claim_of_another(folder: Path, name: str, *, host: str, pid: int, seconds_ago: float) -> None:
    """Leave what a process on some machine leaves."""
    worker = folder / f"worker-{host}-{pid}.json"
    worker.write_text(json.dumps({"host": host, "pid": pid}))
    os.utime(worker, (time.time() - seconds_ago,) * 2)
    (folder / f"{name}.claim").write_text(worker.name)


def test_work_is_claimed_once_and_again_after_it_was_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with Claims(folder) as one, Claims(folder) as two:
        assert one.take("a") and not two.take("a") and two.take("b")
        assert one.others() == 1
        one.give_back("a")
        assert two.take("a") and not one.take("b")
    assert not folder.exists()


def test_claims_of_another_machine_hold_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    claim_of_another(tmp_path, "live", host="node7", pid=1, seconds_ago=claims.DEAD_SECONDS / 2)
    claim_of_another(tmp_path, "dead", host="node8", pid=1, seconds_ago=claims.DEAD_SECONDS + 1)
    with Claims(tmp_path) as mine:
        assert mine.others() == 1
        assert not mine.take("live") and mine.take("dead")


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    claim_of_another(tmp_path, "a", host=claims._host(), pid=process.pid, seconds_ago=0)
    claim_of_another(tmp_path, "b", host=claims._host(), pid=os.getppid(), seconds_ago=0)
    with Claims(tmp_path) as mine:
        assert mine.take("a") and not mine.take("b")


def test_a_claim_that_was_just_made_and_has_no_name_yet_holds(tmp_path: Path) -> None:
    (tmp_path / "a.claim").touch()
    with Claims(tmp_path) as mine:
        assert not mine.take("a")
        os.utime(tmp_path / "a.claim", (0, 0))
        assert mine.take("a")


def test_a_working_process_gives_signs_of_life_and_a_stuck_one_does_not(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    with Claims(tmp_path) as mine:
        worker = tmp_path / mine.worker
        os.utime(worker, (0, 0))
        until(lambda: worker.stat().st_mtime > 0)
        monkeypatch.setattr(claims, "STUCK_SECONDS", 0.0)
        time.sleep(0.1)
        os.utime(worker, (0, 0))
        time.sleep(0.2)
        assert worker.stat().st_mtime == 0


def test_what_dead_processes_left_is_swept_away(tmp_path: Path) -> None:
    claim_of_another(tmp_path, "dead", host="node8", pid=1, seconds_ago=claims.DEAD_SECONDS + 1)
    (tmp_path / ".sample_00001.0123.tmp.npy").touch()
    (tmp_path / "sample_00000.npy").touch()
    with Claims(tmp_path) as mine:
        mine.sweep()
        assert {path.name for path in tmp_path.iterdir()} == {"sample_00000.npy", mine.worker}


def test_sweeping_leaves_the_claims_of_a_process_that_has_just_come(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as other:
        assert other.take("a")
        mine.sweep()
        assert mine.others() == 1 and not mine.take("a")


def test_a_worker_that_was_swept_away_registers_before_its_claim_counts(
    tmp_path: Path, monkeypatch
) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as other:
        create = os.open

        def swept_meanwhile(path: Any, *arguments: Any) -> int:
            if Path(path).suffix == ".claim":
                (tmp_path / other.worker).unlink()
            return create(path, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(claims.os, "open", swept_meanwhile)
            assert other.take("a")
        assert not mine.take("a")
