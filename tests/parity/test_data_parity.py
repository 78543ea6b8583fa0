"""The data pipeline against the published code's reference outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tats.data.frame_folders import FrameDataset
from tats.data.hdf5 import HDF5Dataset, HDF5TokenDataset
from tats.data.transforms import preprocess, scaled_size
from tats.video_io import video_grid


@pytest.mark.parametrize("case", range(5))
def test_grid_equals_the_published_layout(goldens: Path, parity, case: int) -> None:
    golden = load_file(goldens / "data" / "video_grid.safetensors")
    clips = (golden[f"case{case}/video"].movedim(1, -1) * 255).to(torch.uint8)
    grid = video_grid(clips, nrow=int(golden[f"case{case}/nrow"]) or None)
    parity.exact("video grid", torch.from_numpy(grid), golden[f"case{case}/grid"])


@pytest.mark.parametrize("case", range(6))
def test_preprocessed_clip_equals_the_published_one(goldens: Path, parity, case: int) -> None:
    golden = load_file(goldens / "data" / "preprocess.safetensors")
    resolution, every, length = golden[f"rgb{case}/args_res_every_seqlen"].tolist()
    window = golden[f"rgb{case}/video"][: length if length > 0 else None : every]
    clip = preprocess(window, resolution)
    parity.close("preprocessed clips", clip, golden[f"rgb{case}/out"], rtol=0, atol=1e-6)


def test_every_published_target_size_is_reproduced(goldens: Path, parity) -> None:
    for row in np.load(goldens / "data" / "preprocess_target_sizes.npz")["rows"].tolist():
        height, width, resolution, *target = row
        size = torch.tensor(scaled_size(height, width, resolution))
        parity.exact("preprocessed sizes", size, torch.tensor(target))


@pytest.mark.parametrize("video", range(3))
def test_frame_folders_give_the_published_clips(
    goldens: Path, parity, tmp_path: Path, video: int
) -> None:
    golden = load_file(goldens / "data" / "framedataset.safetensors")
    folder = tmp_path / "train" / "video"
    folder.mkdir(parents=True)
    for number, frame in enumerate(golden[f"v{video}/frames"].numpy()):
        Image.fromarray(frame).save(folder / f"frame_{number}.png")
    whole = FrameDataset(root=tmp_path, train=True, sequence_length=-1, resolution=8)
    parity.close(
        "frame folders", whole[0]["video"], golden[f"v{video}/all_res8"], rtol=0, atol=1e-6
    )
    part = FrameDataset(
        root=tmp_path, train=True, sequence_length=3, resolution=10, sample_every_n_frames=2
    )
    want = golden[f"v{video}/start1_seq3_every2_res10"]
    parity.close("frame folders", part.window(0, 1), want, rtol=0, atol=1e-6)


HDF5_LENGTHS = (9, 12, 7, 20)  # frames of the videos in the reference files


def published_draws(seed: int, *n_choices: int) -> list[int]:
    """The published code's random choices; its window starts exclude the last one (D7)."""
    torch.manual_seed(seed)
    return [int(torch.randint(low=0, high=n, size=(1,))) for n in n_choices]


@pytest.mark.parametrize("item", range(4))
@pytest.mark.parametrize("split", ["train", "test"])
def test_hdf5_windows_equal_the_published_ones(
    goldens: Path, parity, item: int, split: str
) -> None:
    golden = load_file(goldens / "data" / "hdf5_expected.safetensors")
    length, every, resolution = (5, 1, 10) if split == "train" else (6, 2, 8)
    name = f"item{item}_manualseed{item}"
    dataset = HDF5Dataset(
        path=goldens / "data" / "videos.h5",
        train=split == "train",
        sequence_length=length,
        resolution=resolution,
        sample_every_n_frames=every,
    )
    assert len(dataset) == int(golden["len"])
    (start,) = published_draws(item, HDF5_LENGTHS[item] - length)
    clip = preprocess(dataset.window(item, start), resolution)
    expected = golden[name if split == "train" else f"test_every2_{name}"]
    parity.close("HDF5 clips", clip, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("item", range(4))
def test_hdf5_code_crops_equal_the_published_ones(goldens: Path, parity, item: int) -> None:
    golden = load_file(goldens / "data" / "hdf5_expected.safetensors")
    dataset = HDF5TokenDataset(
        path=goldens / "data" / "vtokens.h5",
        train=True,
        sequence_length=4,
        resolution=6,
        spatial_length=4,
    )
    start, top, left = published_draws(item, HDF5_LENGTHS[item] - 4, 3, 3)
    crop = dataset.crop(item, start, top, left)
    parity.exact("HDF5 codes", crop["video"], golden[f"vtokens_item{item}_manualseed{item}"])
    parity.exact("HDF5 codes", crop["cbox"], golden[f"vtokens_item{item}_cbox"])


def test_whole_hdf5_codes_equal_the_published_ones(goldens: Path, parity) -> None:
    golden = load_file(goldens / "data" / "hdf5_expected.safetensors")
    dataset = HDF5TokenDataset(
        path=goldens / "data" / "vtokens.h5",
        train=True,
        sequence_length=6,
        resolution=6,
        spatial_length=15,
        sample_every_n_frames=3,
    )
    (start,) = published_draws(3, HDF5_LENGTHS[1] - 6)
    codes = dataset.crop(1, start, 0, 0)["video"]
    parity.exact("HDF5 codes", codes, golden["vtokens_full_every3_item1_manualseed3"])
