"""Runs of the samplers: interrupted, dealt to several processes, continuing a real clip."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from load_script import REPOSITORY, load_script
from sampler_runs import HIERARCHICAL, LONG, SHORT, command, hierarchical, refused, run, save_models

from tats.sampling.passes import VideoSampler
from tats.video_io import write_frames, write_video


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_models(tmp_path_factory.mktemp("models"))


def start(script: str, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """Run a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every result of a run but its record; of videos, which encoders vary, the names."""
    return {
        str(path.relative_to(folder)): b"" if path.suffix == ".mp4" else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


@pytest.fixture
def stops_after(monkeypatch: pytest.MonkeyPatch):
    """Let a run end like a killed one once it has made some batches."""

    def arrange(n_batches: int) -> None:
        stream, begun = VideoSampler.stream, []

        def stream_or_stop(self, samples, canvas):
            if len(begun) == n_batches:
                raise KeyboardInterrupt
            begun.append(samples)
            yield from stream(self, samples, canvas)

        monkeypatch.setattr(VideoSampler, "stream", stream_or_stop)

    return arrange


FLAGS = shlex.split(
    "--class_cond --sample_length 5 --n_sample 5 --batch_size 2 --save_videos --top_p 0.9"
)


def test_an_interrupted_run_goes_on_with_what_is_on_disk(
    models, tmp_path, capsys, monkeypatch, stops_after
) -> None:
    whole = Path(run(LONG, [*command(models, tmp_path / "a"), *FLAGS], capsys)["clips"]).parent
    arguments = [*command(models, tmp_path / "b"), *FLAGS]
    with monkeypatch.context():
        stops_after(2)
        with pytest.raises(SystemExit, match="130"):
            load_script(LONG).main(arguments)
    made = [path for path in tmp_path.glob("b/*/.parts/sample_*.npy") if path.suffixes == [".npy"]]
    assert not list(tmp_path.glob("b/*/clips.npy")) and len(made) == 4
    monkeypatch.undo()
    stops_after(1)  # no more than the batch that is left is made
    folder = Path(run(LONG, arguments, capsys)["clips"]).parent
    assert files(folder) == files(whole)


def test_a_run_with_other_settings_takes_nothing_over(
    models, tmp_path, capsys, monkeypatch, stops_after
) -> None:
    arguments = [*command(models, tmp_path / "b"), *FLAGS]
    stops_after(2)
    with pytest.raises(SystemExit, match="130"):
        load_script(LONG).main(arguments)
    monkeypatch.undo()
    other = [*arguments, "--seed", "7"]
    made = np.load(run(LONG, other, capsys)["clips"])
    fresh = [*command(models, tmp_path / "c"), *FLAGS, "--seed", "7"]
    assert np.array_equal(made, np.load(run(LONG, fresh, capsys)["clips"]))
    (unfinished,) = tmp_path.glob("*/*/.parts")  # the first run may still go on
    run(LONG, arguments, capsys)
    assert not unfinished.exists()


N_KILLS = 3


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(
    models, tmp_path, capsys
) -> None:
    flags = shlex.split("--sample_length 40 --n_sample 40 --batch_size 4")
    whole = start(LONG, [*command(models, tmp_path / "a", "uncond"), *flags])
    assert whole.wait() == 0
    arguments, chance = [*command(models, tmp_path / "b", "uncond"), *flags], random.Random(0)
    n_killed, n_parts = 0, 0
    for _ in range(N_KILLS):
        process = start(LONG, arguments)
        n_parts += chance.randint(1, 8)
        while process.poll() is None and len(list(tmp_path.glob("b/*/.parts/sample_*"))) < n_parts:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.02))
        process.send_signal(signal.SIGKILL)
        n_killed += process.wait() == -signal.SIGKILL
    assert n_killed > 0
    last = start(LONG, arguments)
    assert last.wait() == 0, last.stderr.read()
    assert files(tmp_path / "b") == files(tmp_path / "a")


@pytest.mark.parametrize("n_processes", [2, 3])
def test_several_processes_leave_the_files_of_one(
    models, tmp_path, capsys, n_processes: int
) -> None:
    one = Path(run(LONG, [*command(models, tmp_path / "one"), *FLAGS], capsys)["clips"]).parent
    arguments = [*command(models, tmp_path / "many"), *FLAGS]
    world = {"WORLD_SIZE": str(n_processes), "MASTER_ADDR": "localhost"}
    processes = [
        start(LONG, arguments, RANK=str(r), LOCAL_RANK=str(r), **world) for r in range(n_processes)
    ]
    printed = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), printed
    assert [bool(out) for out, _ in printed] == [True] + [False] * (n_processes - 1)
    assert files(tmp_path / "many" / one.name) == files(one)


def test_the_batch_size_can_be_left_to_the_machine(models, tmp_path, capsys) -> None:
    flags = ["--n_sample", "3", "--class_cond", "--save_videos"]
    one = run(SHORT, [*command(models, tmp_path / "a"), *flags, "--batch_size", "1"], capsys)
    fit = run(SHORT, [*command(models, tmp_path / "b"), *flags, "--batch_size", "auto"], capsys)
    assert np.array_equal(np.load(one["clips"]), np.load(fit["clips"]))
    message = refused(SHORT, [*command(models, tmp_path), "--batch_size", "many"], capsys)
    assert "--batch_size" in message and "expected a count or auto" in message


def test_int8_weights_sample_too(models, tmp_path, capsys) -> None:
    flags = ["--n_sample", "2", "--class_cond", "--weights", "int8"]
    clips = np.load(run(SHORT, [*command(models, tmp_path), *flags], capsys)["clips"])
    assert clips.shape == (2, 16, 16, 16, 3) and clips.std() > 0


def test_int8_weights_are_refused_without_the_compiled_step(
    models, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tats.sampling.engines.cpu.is_built", lambda: False)
    flags = ["--n_sample", "2", "--class_cond", "--weights", "int8"]
    message = refused(SHORT, [*command(models, tmp_path), *flags], capsys)
    assert "--weights got int8" in message and "C++ compiler" in message
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def real_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "clip.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (10, 20, 24, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize("script", [SHORT, LONG, HIERARCHICAL])
def test_samples_begin_with_the_reconstruction_of_the_real_clip(
    models, tmp_path, capsys, real_clip: Path, script: str
) -> None:
    names = hierarchical if script == HIERARCHICAL else lambda m, s: command(m, s, "uncond")
    length = [] if script == SHORT else ["--sample_length", "8"]
    flags = ["--n_sample", "2", "--prime", str(real_clip), "--prime_frames", "8", *length]
    sampler_clips = np.load(run(script, [*names(models, tmp_path), *flags], capsys)["clips"])
    from tats.data.transforms import preprocess
    from tats.models.vqgan import load_vqgan

    vqgan = load_vqgan(models["vqgan"])
    video = preprocess(np.load(real_clip)[:8], 16)[None]
    codes = vqgan.encode(video)
    record = json.loads(next(tmp_path.glob("*/run.json")).read_text())
    assert record["depends_on"]["sampler"]["known_codes"] == codes.flatten().tolist()
    assert not np.array_equal(sampler_clips[0], sampler_clips[1])


def test_a_clip_can_be_a_video_or_a_folder_of_frames(models, tmp_path, capsys, real_clip) -> None:
    frames = np.load(real_clip)
    write_video(tmp_path / "clip.mp4", frames, fps=8)
    write_frames(tmp_path / "frames", frames)
    for path in (tmp_path / "clip.mp4", tmp_path / "frames"):
        flags = ["--n_sample", "1", "--prime", str(path)]
        run(SHORT, [*command(models, tmp_path / "out", "uncond"), *flags], capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--prime nowhere.mp4", "--prime nowhere.mp4 cannot be read"),
        ("--prime {clip} --prime_frames 12", "has 10 frames; expected at least 12"),
        ("--prime {clip} --prime_frames 6", "--prime_frames got 6; expected a multiple of 4"),
        ("--prime {clip} --prime_frames 16", "--prime_frames got 16; expected a multiple of 4"),
        ("--prime {clip} --prime_frames -4", "--prime_frames got -4"),
        ("--prime {note}", "expected a folder of frames"),
    ],
)
def test_clips_that_cannot_be_continued_are_refused(
    models, tmp_path, capsys, real_clip: Path, flags: str, message: str
) -> None:
    flags = flags.format(clip=real_clip, note=models["note"])
    arguments = [*command(models, tmp_path / "new", "uncond"), *shlex.split(flags)]
    assert message in refused(SHORT, arguments, capsys)
    assert not (tmp_path / "new").exists()


def test_what_needs_the_encoder_samples_in_half_precision_too(
    models, tmp_path, capsys, real_clip: Path
) -> None:
    flags = ["--n_sample", "1", "--prime", str(real_clip), "--prime_frames", "8"]
    exact, half = (
        run(SHORT, [*command(models, tmp_path, "uncond"), *flags, "--precision", name], capsys)
        for name in ("32", "bf16")
    )
    known = [
        json.loads((Path(result["clips"]).parent / "run.json").read_text())["depends_on"]["sampler"]
        for result in (exact, half)
    ]
    assert known[0]["known_codes"] == known[1]["known_codes"]
    assert exact["clips"] != half["clips"]


def test_two_processes_that_take_themselves_for_gpus_of_their_own_finish_one_run(
    models, tmp_path
) -> None:
    """A sampler that names the device of its rank, as on a machine with two GPUs."""
    code = (
        "import os, sys, torch\n"
        "from tats.sampling.passes import VideoSampler\n"
        "gpu = torch.device('cuda', int(os.environ['LOCAL_RANK']))\n"
        "VideoSampler.device = property(lambda self: gpu)\n"
        "new = VideoSampler.new_canvas\n"
        "def on_cpu(self, samples):\n"
        "    device, VideoSampler.device = VideoSampler.device, torch.device('cpu')\n"
        "    try: return new(self, samples)\n"
        "    finally: VideoSampler.device = device\n"
        "VideoSampler.new_canvas = on_cpu\n"
        "import sample_vqgan_transformer_long_videos as script\n"
        "script.main(sys.argv[1:])\n"
    )
    arguments = [*command(models, tmp_path / "out"), *FLAGS]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}
    ranks = [{"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, **world, **rank, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    printed = [process.communicate(timeout=200) for process in processes]
    assert all(process.returncode == 0 for process in processes), printed
    (folder,) = (tmp_path / "out").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert record["device"] in ("cuda:0", "cuda:1")
    assert len(np.load(folder / "clips.npy")) == 5
