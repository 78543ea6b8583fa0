"""Files from anywhere: none runs anything, none breaks the interpreter, each gets one line."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import (
    HOSTILE,
    HOSTILE_TRANSFORMER,
    HOSTILE_VQGAN,
    MARKER,
    SLIM_KINDS,
    good_content,
    hostile_slim,
    touch,
)
from load_script import load_script
from tiny import save_checkpoint, tiny_transformer, tiny_vqgan

from tats import load_transformer, load_vqgan
from tats.errors import UserError
from tats.evaluation import load_i3d
from tats.models.transformer import Net2NetTransformer
from tats.models.vqgan import VQGAN
from tats.weights.pretrained import load_i3d_state, load_vgg16_state

MOST_SECONDS = 5.0
MOST_BYTES = 200e6


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    return tiny_vqgan()


@pytest.fixture(scope="module")
def transformer(vqgan: VQGAN) -> Net2NetTransformer:
    return tiny_transformer(vqgan, class_cond_dim=3)


@pytest.fixture(scope="module")
def vqgan_file(vqgan: VQGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(vqgan, tmp_path_factory.mktemp("good") / "vqgan.ckpt")


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Watch the folder in which hostile files leave their mark, and the time and memory used."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    yield
    assert not list(tmp_path.rglob(MARKER)), "the file was executed"
    assert time.process_time() - start < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < MOST_BYTES


def complaint(load: Callable[[], Any]) -> str:
    """The one line that loading ends with."""
    with pytest.raises(UserError) as error:
        load()
    line = str(error.value)
    assert "\n" not in line and len(line) < 800 and "hostile" in line
    assert re.search("expected|needs|again|does not belong|the weights have", line), line
    return line


@pytest.mark.parametrize("kind", [*HOSTILE, *HOSTILE_VQGAN])
def test_a_hostile_vqgan_gets_one_line(kind: str, vqgan: VQGAN) -> None:
    {**HOSTILE, **HOSTILE_VQGAN}[kind](good_content(vqgan), Path("hostile.ckpt"))
    complaint(lambda: load_vqgan("hostile.ckpt"))


@pytest.mark.parametrize("kind", [*HOSTILE, *HOSTILE_TRANSFORMER])
def test_a_hostile_transformer_gets_one_line(
    kind: str, transformer: Net2NetTransformer, vqgan_file: Path
) -> None:
    {**HOSTILE, **HOSTILE_TRANSFORMER}[kind](good_content(transformer), Path("hostile.ckpt"))
    complaint(lambda: load_transformer("hostile.ckpt", vqgan_file))


@pytest.mark.parametrize("kind", SLIM_KINDS)
def test_a_hostile_slim_checkpoint_gets_one_line(
    kind: str, vqgan: VQGAN, transformer: Net2NetTransformer, vqgan_file: Path
) -> None:
    path = Path("hostile.safetensors")
    hostile_slim(kind, good_content(vqgan), path)
    complaint(lambda: load_vqgan(path))
    hostile_slim(kind, good_content(transformer), path)
    complaint(lambda: load_transformer(path, vqgan_file))


def test_the_good_file_behind_them_loads(
    vqgan: VQGAN, transformer: Net2NetTransformer, vqgan_file: Path
) -> None:
    torch.save(good_content(vqgan), "good.ckpt")
    torch.save(good_content(transformer), "gpt.ckpt")
    load_vqgan("good.ckpt")
    load_transformer("gpt.ckpt", "good.ckpt")


@pytest.mark.parametrize(
    "kind", ["os.system in the settings", "a legacy file", "cut off at 70%", "NaN", "a directory"]
)
@pytest.mark.parametrize("flag", ["gpt_ckpt", "vqgan_ckpt"])
def test_a_sampler_ends_with_one_line_and_exit_code_2(
    kind: str,
    flag: str,
    vqgan: VQGAN,
    transformer: Net2NetTransformer,
    vqgan_file: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    HOSTILE[kind](good_content(transformer if flag == "gpt_ckpt" else vqgan), Path("hostile.ckpt"))
    torch.save(good_content(transformer), "gpt.ckpt")
    files = {"gpt_ckpt": "gpt.ckpt", "vqgan_ckpt": str(vqgan_file), flag: "hostile.ckpt"}
    command = [word for name, file in files.items() for word in (f"--{name}", file)]
    with pytest.raises(SystemExit) as exit_:
        load_script("sample_vqgan_transformer_short_videos.py").main([*command, "--save", "out"])
    printed = capfd.readouterr()
    assert exit_.value.code == 2 and printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if "error:" in line]
    assert "hostile" in line and f"--{flag}" in line and "Traceback" not in printed.err
    assert not Path("out").exists() or not list(Path("out").rglob("*.npy"))


WEIGHT_FILES = {
    name: HOSTILE[name]
    for name in (
        "os.system at the top", "os.system as the weights", "a legacy file", "a plain pickle",
        "a plain pickle of protocol 0", "a tar archive", "a pickle before an archive",
        "a legacy storage of petabytes", "nothing", "a text", "only a zip's beginning",
        "an empty zip", "a directory", "cut off at 30%", "cut off at 99.9%", "a list", "a tensor",
        "a zip bomb", "members on top of each other", "weights that are texts",
        "settings nested 100,000 deep",
    )
}  # fmt: skip


@pytest.mark.parametrize("kind", WEIGHT_FILES)
@pytest.mark.parametrize("load", [load_i3d_state, load_vgg16_state])
@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz"])
def test_a_hostile_weight_file_gets_one_line(
    kind: str, load: Callable[..., Any], suffix: str, vqgan: VQGAN
) -> None:
    path = Path(f"hostile.{suffix}")
    WEIGHT_FILES[kind](good_content(vqgan), path)
    complaint(lambda: load(path))


class Saves(torch.nn.Module):
    """A program of torch's own language that writes a file."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        torch.save(video, "executed")
        return video


class MapsAFile(torch.nn.Module):
    """The same by another operator."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return torch.from_file("executed", True, 10)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("module", [Saves, MapsAFile])
def test_a_torchscript_i3d_that_touches_files_is_not_run(module: Any, vqgan: VQGAN) -> None:
    torch.jit.script(module()).save("hostile.pt")
    assert "it was not run" in complaint(lambda: load_i3d("hostile.pt"))


def test_the_marker_would_be_left_by_a_careless_reader(tmp_path: Path) -> None:
    torch.save(touch(), "careless.ckpt")
    torch.load("careless.ckpt", weights_only=False)
    assert (tmp_path / "work" / MARKER).exists()
    (tmp_path / "work" / MARKER).unlink()
