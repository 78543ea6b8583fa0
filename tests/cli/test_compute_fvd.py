"""FVD from the command line: what is compared, what is said about it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from load_script import load_script
from safetensors.torch import load_file
from torch import Tensor, nn

from tats.evaluation import I3D
from tats.evaluation.i3d import WeightSource
from tats.video_io import write_video


class Colours(nn.Module):
    """Stand-in for I3D, whose weights a test cannot count on: mean colour of some frames."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, video: Tensor) -> Tensor:
        return video[:, :, ::4].mean(dim=(3, 4)).flatten(1)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("scripts/compute_fvd.py")
    monkeypatch.setattr(module, "load_i3d", lambda path: Colours())
    monkeypatch.setattr(module, "i3d_source", lambda path: WeightSource("test", "none", "0"))
    return module


def clips(n: int, seed: int, brightness: int = 100) -> np.ndarray:
    random = np.random.RandomState(seed)
    level = random.randint(0, brightness, (n, 16, 1, 1, 3))
    return (level + random.randint(0, 50, (n, 16, 12, 12, 3))).astype(np.uint8)


def save(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def run(script: ModuleType, capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    script.main(["--num_workers", "0", "--batch_size", "4", "--device", "cpu", *argv])
    return json.loads(capsys.readouterr().out)


def refused(script: ModuleType, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        script.main(["--num_workers", "0", *argv])
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_set_is_at_no_distance_from_itself_and_at_some_from_another(script, tmp_path, capsys):
    dark = save(tmp_path / "dark.npy", clips(20, 0))
    bright = save(tmp_path / "bright.npy", clips(20, 1, brightness=200))
    same = run(script, capsys, "--fake", dark, "--real", dark)
    other = run(script, capsys, "--fake", dark, "--real", bright)
    assert same["fvd"] == pytest.approx(0, abs=1e-9) and same["n_clips"] == 20
    assert other["fvd"] > 0.1 and other["kvd"] > 0
    assert other["weights"] == {"kind": "test", "file": "none", "sha256": "0"}
    assert other["n_frames"] == 16 and "fvd_std" not in other


def test_the_fvd_is_that_of_all_the_clips_features(script, tmp_path, capsys):
    a, b = clips(9, 0), clips(9, 1)
    result = run(
        script, capsys, "--fake", save(tmp_path / "a.npy", a), "--real", save(tmp_path / "b.npy", b)
    )
    features = [
        torch.from_numpy(x[:, ::4].astype(np.float64).mean((2, 3))).flatten(1) / 127.5 - 1
        for x in (a, b)
    ]
    assert result["fvd"] == pytest.approx(script.frechet_distance(*features), rel=1e-4)


def test_repeats_compare_other_clips_and_report_the_spread(script, tmp_path, capsys):
    fake = save(tmp_path / "fake.npy", clips(12, 0))
    real = save(tmp_path / "real.npy", clips(30, 1))
    argv = ["--fake", fake, "--real", real, "--n_clips", "6", "--repeats", "3"]
    result = run(script, capsys, *argv)
    assert len(set(result["fvd_runs"])) == 3
    assert result["fvd"] == pytest.approx(np.mean(result["fvd_runs"]))
    assert result["fvd_std"] == pytest.approx(np.std(result["fvd_runs"], ddof=1))
    assert run(script, capsys, *argv) == result
    assert run(script, capsys, *argv, "--seed", "5")["fvd_runs"] != result["fvd_runs"]


def test_runs_share_no_clip_where_there_are_enough(script):
    runs = script.draw(30, 10, 3, seed=0)
    assert sorted(np.concatenate(runs)) == list(range(30))
    few = script.draw(12, 10, 3, seed=0)
    assert all(len(set(run)) == 10 for run in few) and len({tuple(run) for run in few}) == 3


def write_videos(folder: Path, n: int, n_frames: int = 17, size: int = 16) -> None:
    for i in range(n):
        frames = np.full((n_frames, size + 2 * (i % 2), size, 3), 40 * i, dtype=np.uint8)
        write_video(folder / f"{i}.mp4", frames, fps=8)


def test_folders_of_videos_of_several_sizes_are_compared(script, tmp_path, capsys):
    write_videos(tmp_path / "videos", 5)
    fake = save(tmp_path / "fake.npy", clips(5, 0))
    result = run(script, capsys, "--fake", fake, "--real", str(tmp_path / "videos"))
    assert result["n_clips"] == 5 and result["fvd"] > 0


def test_real_clips_may_come_from_a_datasets_training_split(script, tmp_path, capsys):
    for split in ("train", "test"):
        write_videos(tmp_path / "data" / split / "walk", 3, n_frames=18)
    fake = save(tmp_path / "fake.npy", clips(12, 0))
    flags = ["--fake", fake, "--data_path", str(tmp_path / "data"), "--resolution"]
    result = run(script, capsys, *flags, "12")
    assert result["n_clips"] == 9  # three videos of 18 frames hold nine windows of 16
    assert "real clips of 16×16 pixels, --fake has 12×12" in refused(script, capsys, *flags, "16")


def test_sets_that_cannot_be_compared_are_refused_in_one_line(script, tmp_path, capsys):
    fake = save(tmp_path / "fake.npy", clips(6, 0))
    short = save(tmp_path / "short.npy", clips(6, 0)[:, :8])
    floats = save(tmp_path / "floats.npy", np.zeros((2, 16, 4, 4, 3), np.float32))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty").mkdir()
    write_videos(tmp_path / "brief", 2, n_frames=4)
    pairs = [
        (["--fake", fake], "--real: got both or neither"),
        (["--fake", fake, "--real", fake, "--data_path", "x"], "--real: got both or neither"),
        (["--fake", fake, "--real", short], "got clips of 16 frames and real ones of 8"),
        (["--fake", short, "--real", short], "at least 9"),
        (["--fake", floats, "--real", fake], "--fake: got float32 (2, 16, 4, 4, 3)"),
        (["--fake", fake, "--real", str(tmp_path / "text.npy")], "--real: got"),
        (["--fake", fake, "--real", str(tmp_path / "none.npy")], "none.npy"),
        (["--fake", fake, "--real", str(tmp_path / "x.mp4")], "expected a .npy file or a folder"),
        (["--fake", fake, "--real", str(tmp_path / "empty")], "without videos"),
        (["--fake", fake, "--real", str(tmp_path / "brief")], "got 4 frames in"),
        (["--fake", fake, "--data_path", str(tmp_path / "no")], "--data_path"),
        (["--fake", fake, "--real", fake, "--n_clips", "7"], "--n_clips: got 7; expected 2 to 6"),
        (["--fake", fake, "--real", fake, "--n_clips", "1"], "--n_clips: got 1"),
        (["--fake", fake, "--real", fake, "--repeats", "2"], "--repeats: got 2 with --n_clips 6"),
        (["--fake", fake, "--real", fake, "--device", "cuda:9"], "--device got cuda:9"),
    ]
    for argv, message in pairs:
        line = refused(script, capsys, *argv)
        assert "error: " in line and message in line, (argv, line)


def test_missing_weights_are_met_before_any_clip_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))
    script = load_script("scripts/compute_fvd.py")
    line = refused(script, capsys, "--fake", "nowhere.npy", "--real", "nowhere.npy")
    assert "python scripts/fetch_weights.py --only i3d" in line


def test_converted_weights_load_as_the_original_ones(tmp_path, capsys):
    script = load_script("scripts/convert_i3d.py")
    i3d = I3D()
    torch.save(i3d.state_dict(), tmp_path / "i3d_pretrained_400.pt")
    target = tmp_path / "i3d.safetensors"
    script.main([str(tmp_path / "i3d_pretrained_400.pt"), str(target)])
    assert json.loads(capsys.readouterr().out)["kind"] == "published-port"
    converted = load_file(target)
    assert converted.keys() == i3d.state_dict().keys()
    assert all(torch.equal(converted[k], v) for k, v in i3d.state_dict().items())
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "broken.pt"), str(tmp_path / "new.safetensors")])
    assert "broken.pt" in capsys.readouterr().err and not (tmp_path / "new.safetensors").exists()


def test_the_check_against_the_original_fails_where_the_weights_are_others(monkeypatch, capsys):
    script = load_script("scripts/check_fvd.py")
    monkeypatch.setattr(script, "load_i3d", lambda path: Colours())
    source = WeightSource("tensorflow-exact", "none", "0")
    monkeypatch.setattr(script, "i3d_source", lambda path: source)
    monkeypatch.setattr(script, "N_CLIPS", 4)
    with pytest.raises(SystemExit):
        script.main(["--device", "cpu"])
    printed = capsys.readouterr()
    fvd = json.loads(printed.out)["fvd"]
    assert "these are other weights" in printed.err
    monkeypatch.setattr(script, "ORIGINAL_FVD", fvd)
    script.main(["--device", "cpu"])
