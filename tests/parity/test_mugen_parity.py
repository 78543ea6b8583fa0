"""Games, captions and pictures against the published code's reference outputs."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from tats.data import VideoData
from tats.data.mugen import Game, Renderer, describe
from tats.data.mugen.clips import MugenDataset
from tats.data.mugen.scene import LAYERS

GAMES = (
    "g0_walk_coins",
    "g1_jumps",
    "g2_ladder_kill",
    "g3_death",
    "g4_shield_zoom6",
    "g5_bumphead",
)
# Reference name: is it a picture, and how it is asked for.
KINDS = {
    "rgb": (True, {}),
    "rgb_skip_fg": (True, {"layers": LAYERS[:2]}),
    "rgb_skip_mugen": (True, {"layers": LAYERS[:3]}),
    "smap": (False, {}),
    "smap_skip_bg": (False, {"layers": LAYERS[2:]}),
    "smap_only_mugen": (False, {"layers": LAYERS[3:]}),
    "smap_bbox_agent": (False, {"agent_box": True}),
    "smap_bbox_all": (False, {"agent_box": True, "monster_boxes": True}),
}
DATASET_FLAGS = {
    "rgb_text": {"text_cond": True},
    "rgb_smap": {"smap_cond": 1},
    "smap_only_1ch": {"smap_only": True, "image_channels": 1},
    "smap_onehot": {"smap_only": True, "use_onehot_smap": True},
    "mixed": {"get_mixed_rgb_smap": True},
    "mixed_onehot_mugen": {"get_mixed_rgb_smap_mugen_only": True, "use_onehot_smap": True},
}


@pytest.fixture(scope="module")
def folder(goldens: Path) -> Path:
    return goldens / "coinrun"


def load_game(folder: Path, name: str) -> Game:
    return Game.load(folder / "games" / f"{name}.json")


@pytest.mark.parametrize("name", GAMES)
def test_poses_and_captions_are_the_published_ones(
    parity, reference, folder: Path, name: str
) -> None:
    game, golden = load_game(folder, name), reference.json("coinrun/text.json")[name]
    assert [frame.agent.pose for frame in game.frames] == golden["poses"]
    for row in golden["rows"]:
        end = None if row["end"] == -1 else row["end"]
        called = row["alien_name"] or "Mugen"
        text = describe(game, row["start"], end, name=called)
        parity.same("captions of games", text, row["text"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GAMES)
def test_pictures_and_maps_are_the_published_ones(
    parity, folder: Path, name: str, kind: str
) -> None:
    is_picture, options = KINDS[kind]
    game, n_compared = load_game(folder, name), 0
    with np.load(folder / "frames.npz") as golden:
        for key in (key for key in golden if key.startswith(name) and key.endswith(f"/{kind}")):
            _, style, frame, _ = key.split("/")
            resolution, max_label = map(int, style.removeprefix("res").split("_label"))
            renderer = Renderer(resolution, folder / "synthetic_assets", max_label)
            paint = renderer.frame if is_picture else renderer.semantic_map
            got = paint(game, int(frame[1:]), **options)
            parity.exact(f"mugen {kind}", torch.from_numpy(got), torch.from_numpy(golden[key]))
            n_compared += 1
    assert n_compared in (6, 12)


@pytest.fixture(scope="module")
def data_path(folder: Path, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "coinrun"
    shutil.copytree(folder / "games", root / "train")
    return root


def dataset(folder: Path, data_path: Path, **flags) -> MugenDataset:
    args = Namespace(
        data_path=str(data_path),
        coinrun_assets=str(folder / "synthetic_assets"),
        resolution=32,
        sequence_length=6,
        text_seq_len=32,
        max_label=21,
        **flags,
    )
    opened = VideoData(args).dataset(train=True)
    assert isinstance(opened, MugenDataset)
    return opened


@pytest.mark.parametrize("case", DATASET_FLAGS)
def test_items_are_the_published_ones(
    parity, reference, folder: Path, data_path: Path, case: str
) -> None:
    flags = {"fixed_start_idx": True, "sample_every_n_frames": 2, **DATASET_FLAGS[case]}
    item = dataset(folder, data_path, **flags)[0]
    prefix = f"{case}/item0_g0_walk_coins.json/"
    golden = {
        key.removeprefix(prefix): value
        for key, value in reference.tensors("coinrun/dataset.safetensors").items()
        if key.startswith(prefix)
    }
    assert set(item) == set(golden)
    for key, value in golden.items():
        assert item[key].dtype == value.dtype
        parity.exact("mugen dataset items", item[key], value)


def test_a_random_start_is_the_published_one(
    parity, reference, folder: Path, data_path: Path
) -> None:
    clips = dataset(folder, data_path, sample_every_n_frames=3)
    video = clips.clip(0, torch.Generator().manual_seed(5))["video"]
    golden = reference.tensors("coinrun/dataset.safetensors")
    parity.exact("mugen dataset items", video, golden["rand_start_manualseed5/item0/video"])
