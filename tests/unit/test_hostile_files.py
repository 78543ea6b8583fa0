"""Files from anywhere: none runs anything, none breaks the interpreter, each gets one line."""

from __future__ import annotations

import re
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_files import (
    HOSTILE,
    HOSTILE_FILES,
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
from tats.evaluation.c3d import load_c3d
from tats.evaluation.i3d import load_i3d_state
from tats.models.lpips import load_lpips, load_vgg16_state
from tats.models.transformer import Net2NetTransformer
from tats.models.vqgan import VQGAN
from tats.training.resume import SafeCheckpointIO
from tats.weights.catalogue import CATALOGUE
from tats.weights.files import read_file

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


def c3d(path: Path) -> Any:
    np.savez("mean2.npz", mean=np.zeros((3, 16, 128, 171), np.float32))
    return load_c3d(path, "mean2.npz")


def c3d_mean(path: Path) -> Any:
    torch.save({"conv1a.weight": torch.zeros(1)}, "weights.pt")
    return load_c3d("weights.pt", path)


READERS: dict[str, Callable[[Path], Any]] = {
    "a VQGAN": load_vqgan,
    "a transformer": lambda path: load_transformer(path, "vqgan.ckpt"),
    "a checkpoint to resume from": lambda path: SafeCheckpointIO().load_checkpoint(path),
    "I3D": load_i3d,
    "the VGG16 of LPIPS": load_lpips,
    "C3D": c3d,
    "the mean clip of C3D": c3d_mean,
}


@pytest.mark.parametrize("kind", HOSTILE_FILES)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_a_hostile_file_for_the_same_reason(
    kind: str, reader: str, vqgan: VQGAN
) -> None:
    path = Path("hostile.ckpt")
    HOSTILE_FILES[kind](good_content(vqgan), path)
    line = complaint(lambda: READERS[reader](path))
    assert line.endswith(complaint(lambda: read_file(path)))


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("reader", ["I3D", "the VGG16 of LPIPS", "C3D", "the mean clip of C3D"])
def test_a_network_takes_no_weights_from_a_hostile_file(
    kind: str, reader: str, vqgan: VQGAN
) -> None:
    HOSTILE[kind](good_content(vqgan), Path("hostile.ckpt"))
    complaint(lambda: READERS[reader](Path("hostile.ckpt")))


@pytest.mark.parametrize("kind", HOSTILE_FILES)
def test_hostile_files_in_the_cache_are_no_better(
    kind: str, vqgan: VQGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path("hostile").absolute()
    cache.mkdir()
    monkeypatch.setenv("TATS_CACHE", str(cache))
    monkeypatch.setattr("tats.weights.catalogue._installed", lambda file: None)
    for name, load in (("i3d", load_i3d), ("vgg16", load_lpips), ("lpips_heads", load_lpips)):
        HOSTILE_FILES[kind](good_content(vqgan), CATALOGUE[name].path)
        complaint(load)


@pytest.mark.parametrize(
    "arrays",
    [
        {"VGG16_0/Conv_0/kernel": torch.zeros(2, 2)},
        {"VGG16_0/Conv_0/kernel": torch.zeros(3, 3, 3, 64)},
        {"params/Conv3d_1a_7x7/Conv_0/kernel": torch.zeros(2)},
        {
            "params/Conv3d_1a_7x7/Conv_0/kernel": torch.zeros(1, 1, 1, 1, 1),
            "params/Mixed_3b/Branch_9/Conv_0/kernel": torch.zeros(1, 1, 1, 1, 1),
        },
        {
            "params/Conv3d_1a_7x7/Conv_0/kernel": torch.zeros(1, 1, 1, 1, 1),
            "params/Conv3d_1a_7x7/BatchNorm_0/scale": torch.zeros(1),
        },
    ],
)
@pytest.mark.parametrize("load", [load_i3d_state, load_vgg16_state])
def test_arrays_that_cannot_be_converted_get_one_line(load: Any, arrays: dict[str, Any]) -> None:
    torch.save(arrays, "hostile.pt")
    complaint(lambda: load("hostile.pt"))


@pytest.mark.parametrize("kind", [*HOSTILE_FILES, "a directory"])
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_hostile_weight_file_of_any_name_gets_one_line(
    kind: str, suffix: str, vqgan: VQGAN
) -> None:
    path = Path(f"hostile.{suffix}")
    HOSTILE[kind](good_content(vqgan), path)
    complaint(lambda: load_i3d_state(path))


def test_an_npz_that_unpacks_without_end_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tats.weights.files.MAX_BYTES", 10**6)
    np.savez_compressed("hostile.npz", W=np.zeros(10**6))
    assert "unpacks to 8,0" in complaint(lambda: load_i3d("hostile.npz"))


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_torchscript_archive_that_unpacks_without_end_is_not_unpacked() -> None:
    torch.jit.script(MapsAFile()).save("good.pt")
    with zipfile.ZipFile("good.pt") as good:
        entries = [(info.filename, good.read(info)) for info in good.infolist()]
    with zipfile.ZipFile("hostile.pt", "w", zipfile.ZIP_DEFLATED) as bad:
        for name, data in [*entries, ("good/data/bomb", bytes(20_000_000))]:
            bad.writestr(name, data)
    assert "unpacks to 20," in complaint(lambda: load_i3d("hostile.pt"))


def test_the_marker_would_be_left_by_a_careless_reader(tmp_path: Path) -> None:
    torch.save(touch(), "careless.ckpt")
    torch.load("careless.ckpt", weights_only=False)
    assert (tmp_path / "work" / MARKER).exists()
    (tmp_path / "work" / MARKER).unlink()
