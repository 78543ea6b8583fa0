"""The MUGEN dataset: layouts on disk, what an item holds, and what is refused."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tats.data import VideoData
from tats.data.datamodule import _say_that_sprites_are_drawn
from tats.data.mugen import Game, Renderer, describe, simulate_game
from tats.data.mugen.clips import check_mugen_channels
from tats.data.mugen.files import find_clips, read_annotations
from tats.errors import UserError
from tats.flags import add_data_flags, with_defaults
from tats.text import find_vocabulary, tokenize
from tests.small_games import frame, record, walk

N_FRAMES = 30
RESOLUTION = 32


def write_games(folder: Path, seeds: range, n_frames: int = N_FRAMES) -> None:
    folder.mkdir(parents=True)
    for seed in seeds:
        (folder / f"clip{seed}.json").write_text(json.dumps(simulate_game(seed, n_frames)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "coinrun"
    write_games(root / "train", range(3))
    write_games(root / "test", range(3, 5))
    return root


@pytest.fixture(scope="module")
def vocabulary() -> Path:
    try:
        return find_vocabulary()
    except UserError as error:
        pytest.skip(str(error))


def data(root: Path, *flags: str) -> VideoData:
    parser = ArgumentParser()
    add_data_flags(parser)
    size = ["--resolution", str(RESOLUTION), "--sequence_length", "4", "--num_workers", "0"]
    return VideoData(parser.parse_args(["--data_path", str(root), *size, *flags]))


def item(root: Path, *flags: str) -> dict[str, torch.Tensor]:
    return data(root, "--fixed_start_idx", *flags).dataset(train=True)[0]


def first_game(root: Path) -> Game:
    return Game.load(root / "train" / "clip0.json")


def expected_maps(root: Path, frames: range, **options: Any) -> torch.Tensor:
    renderer = Renderer(RESOLUTION)
    maps = [renderer.semantic_map(first_game(root), i, **options) for i in frames]
    return torch.from_numpy(np.stack(maps)).float()


def test_training_clips_come_from_train_and_validation_clips_from_test(root: Path) -> None:
    mugen = data(root)
    assert len(mugen.dataset(train=True)) == 3
    assert len(mugen.dataset(train=False)) == 2


def test_a_clip_holds_rendered_frames_in_the_models_range(root: Path) -> None:
    clip = item(root, "--sample_every_n_frames", "3")
    assert set(clip) == {"video"}
    assert clip["video"].shape == (3, 4, RESOLUTION, RESOLUTION)
    for i in range(4):
        rendered = torch.from_numpy(Renderer(RESOLUTION).frame(first_game(root), 3 * i))
        assert torch.equal(clip["video"][:, i], rendered.permute(2, 0, 1).float() / 255 - 0.5)


def test_sequence_length_counts_the_frames_of_the_clip(root: Path) -> None:
    fits = ["--sequence_length", "4", "--sample_every_n_frames"]
    assert item(root, *fits, "9")["video"].shape[1] == 4  # 3 * 9 + 1 of 30 frames
    with pytest.raises(UserError, match="has 30 frames; expected at least 31"):
        item(root, *fits, "10")


def test_every_start_that_fits_is_drawn(root: Path) -> None:
    clips = data(root, "--sequence_length", "2", "--sample_every_n_frames", "27").dataset(
        train=True
    )
    game = first_game(root)
    first_frames = [Renderer(RESOLUTION).frame(game, i) for i in range(3)]
    starts = set()
    for seed in range(20):
        video = clips.clip(0, torch.Generator().manual_seed(seed))["video"]
        drawn = ((video[:, 0] + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
        starts |= {i for i in range(3) if np.array_equal(drawn, first_frames[i])}
    assert starts == {0, 1, 2}


def test_a_map_comes_beside_the_frames_or_in_their_place(root: Path) -> None:
    expected = expected_maps(root, range(4)) / 18 - 0.5
    beside = item(root, "--smap_cond", "1")
    assert set(beside) == {"video", "video_smap"}
    assert torch.equal(beside["video_smap"], expected.expand(3, *expected.shape))
    alone = item(root, "--smap_only", "--image_channels", "1")
    assert set(alone) == {"video"}
    assert torch.equal(alone["video"], expected[None])


def test_a_onehot_map_has_one_channel_a_label(root: Path) -> None:
    onehot = item(root, "--smap_only", "--use_onehot_smap", "--max_label", "22")["video"]
    assert onehot.shape == (23, 4, RESOLUTION, RESOLUTION)
    assert torch.equal(onehot.sum(0), torch.ones(4, RESOLUTION, RESOLUTION))
    labels = torch.from_numpy(Renderer(RESOLUTION, max_label=22).semantic_map(first_game(root), 0))
    assert torch.equal(onehot[:, 0].argmax(0), labels.long())


def test_box_flags_reach_the_map(root: Path) -> None:
    flags = ["--smap_only", "--image_channels", "1", "--bbox_smap_for_agent"]
    boxed = item(root, *flags)["video"][0]
    assert torch.equal(boxed, expected_maps(root, range(4), agent_box=True) / 18 - 0.5)
    boxed = item(root, *flags, "--bbox_smap_for_monsters")["video"][0]
    both = expected_maps(root, range(4), agent_box=True, monster_boxes=True)
    assert torch.equal(boxed, both / 18 - 0.5)


@pytest.mark.parametrize(
    ("flags", "n_channels"),
    [
        (["--get_mixed_rgb_smap"], 4),
        (["--get_mixed_rgb_smap_mugen_only"], 4),
        (["--get_mixed_rgb_smap", "--use_onehot_smap"], 3 + 1 + 10),
        (["--get_mixed_rgb_smap_mugen_only", "--use_onehot_smap", "--max_label", "22"], 3 + 3),
        (["--smap_only", "--use_onehot_smap"], 19),
        ([], 3),
    ],
)
def test_the_model_must_have_the_clips_channels(
    root: Path, flags: list[str], n_channels: int
) -> None:
    assert item(root, *flags)["video"].shape[0] == n_channels
    right = ["--image_channels", str(n_channels)]
    args = with_defaults(data(root, *flags, *right).args)
    check_mugen_channels(args)
    args.image_channels = 2
    with pytest.raises(UserError, match=f"--image_channels got 2; expected {n_channels}"):
        check_mugen_channels(args)


@pytest.mark.parametrize(
    ("flags", "n_warnings"), [([], 1), (["--coinrun_assets", "."], 0), (["--get_text_only"], 0)]
)
def test_sprites_of_our_own_are_told_once(
    root: Path, flags: list[str], n_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    _say_that_sprites_are_drawn.cache_clear()
    mugen = data(root, *flags)
    for train in (True, False, True):
        mugen.dataset(train)
    told = [r for r in caplog.records if "--coinrun_assets takes" in r.getMessage()]
    assert len(told) == n_warnings


def test_captions_tell_the_frames_that_are_shown(root: Path, vocabulary: Path) -> None:
    tokens = item(root, "--text_cond", "--sample_every_n_frames", "5")["text"]
    assert tokens.shape == (256,)
    assert torch.equal(tokens, tokenize(describe(first_game(root), 0, 20))[0])


def test_captions_alone_need_no_rendering(root: Path, vocabulary: Path) -> None:
    assert set(item(root, "--get_text_only", "--coinrun_assets", str(root))) == {"text"}


def test_long_captions_are_cut_unless_that_is_switched_off(root: Path, vocabulary: Path) -> None:
    flags = ["--text_cond", "--text_seq_len", "3"]
    assert item(root, *flags)["text"][0] == tokenize("Mugen", 3)[0][0]
    with pytest.raises(UserError, match="--text_seq_len 3 is too short"):
        item(root, *flags, "--truncate_captions", "false")


def test_a_manual_annotation_replaces_the_generated_caption(
    root: Path, vocabulary: Path, tmp_path: Path
) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({"clip0": ["one", "two"], "clip2": "three"}))
    flags = ["--text_cond", "--text_path", str(path)]
    clips = data(root, *flags).dataset(train=True)
    drawn = {tuple(clips[0, epoch]["text"].tolist()) for epoch in range(12)}
    assert drawn == {tuple(row.tolist()) for row in tokenize(["one", "two"])}
    only = data(root, *flags, "--use_manual_annotation_only").dataset(train=True)
    assert [clip.path.stem for clip in only.clips] == ["clip0", "clip2"]
    assert torch.equal(only[1]["text"], tokenize("three")[0])


def test_a_random_colour_is_drawn_and_told(root: Path, vocabulary: Path) -> None:
    flags = ["--random_alien", "--text_cond", "--fixed_start_idx", "--sample_every_n_frames", "5"]
    clips = data(root, *flags).dataset(train=True)
    names = ("Beige", "Blue", "Green", "Pink", "Yellow")
    told = [describe(first_game(root), 0, 20, name=name) for name in names]
    rows = {tuple(row.tolist()) for row in tokenize(told)}
    drawn = {tuple(clips[0, epoch]["text"].tolist()) for epoch in range(40)}
    assert drawn == rows
    assert len({clips[0, epoch]["video"].numpy().tobytes() for epoch in range(40)}) == 5


def write_index(root: Path, split: str, seeds: range, **metadata: str) -> None:
    """The released layout: games in a folder of their own, named by an index."""
    write_games(root / "games" / split, seeds)
    entries = [
        {
            "video": {"json_file": f"{split}/clip{seed}.json", "num_frames": N_FRAMES},
            "annotations": [
                {"type": "auto", "text": f"auto {seed}"},
                *([{"type": "manual", "text": f"manual {seed}"}] if seed % 2 else []),
            ],
        }
        for seed in seeds
    ]
    index = {"metadata": {"data_folder": "/elsewhere/games", **metadata}, "data": entries}
    (root / f"{split}.json").write_text(json.dumps(index))


@pytest.fixture
def released(tmp_path: Path) -> Path:
    root = tmp_path / "coinrun"
    write_index(root, "train", range(2))
    write_index(root, "val", range(2, 3))
    return root


def test_the_released_index_is_read(released: Path, vocabulary: Path) -> None:
    mugen = data(released, "--coinrun_v2_dataloader", "--text_cond")
    clips = mugen.dataset(train=True)
    drawn = {tuple(clips[1, epoch]["text"].tolist()) for epoch in range(12)}
    assert drawn == {tuple(row.tolist()) for row in tokenize(["auto 1", "manual 1"])}
    assert torch.equal(clips[0]["text"], tokenize("auto 0")[0])
    assert mugen.dataset(train=False).clips[0].path.name == "clip2.json"


def test_manual_annotations_of_the_index_are_kept_alone(released: Path, vocabulary: Path) -> None:
    flags = ["--text_cond", "--use_manual_annotation_only"]
    clips = data(released, *flags).dataset(train=True)
    assert len(clips) == 1
    assert torch.equal(clips[0]["text"], tokenize("manual 1")[0])


def test_an_index_in_the_archives_folders_finds_its_games(tmp_path: Path) -> None:
    root = tmp_path / "coinrun"
    write_index(root, "train", range(1))
    deeper = root / "coinrun_dataset_jsons" / "release"
    deeper.mkdir(parents=True)
    (root / "train.json").rename(deeper / "train.json")
    assert find_clips(root, train=True)[0].path.is_file()


def test_clips_the_index_calls_too_short_are_left_out(released: Path) -> None:
    content = json.loads((released / "train.json").read_text())
    content["data"][0]["video"]["num_frames"] = 3
    (released / "train.json").write_text(json.dumps(content))
    assert [c.path.stem for c in data(released).dataset(train=True).clips] == ["clip1"]


def test_checking_lengths_leaves_short_games_out(tmp_path: Path) -> None:
    root = tmp_path / "coinrun"
    write_games(root / "train", range(2))
    short = record([frame(agent) for agent in walk(10, 12, 3)])
    (root / "train" / "a_short.json").write_text(json.dumps(short))
    assert len(data(root).dataset(train=True)) == 3
    assert len(data(root, "--check_game_length").dataset(train=True)) == 2
    unchecked = data(root).dataset(train=True)
    assert unchecked[0]["video"].shape[1] == 4  # another clip stands in
    assert unchecked.n_failed == 1


def test_broken_games_are_reported_with_file_and_field(tmp_path: Path) -> None:
    root = tmp_path / "coinrun"
    content = record([frame({"x": "left"})])
    (root / "train").mkdir(parents=True)
    (root / "train" / "level.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"level\.json: frames\[0\]\.agent\.x is \"left\""):
        data(root).dataset(train=True)[0]


def test_an_unknown_zoom_names_the_file(tmp_path: Path) -> None:
    root = tmp_path / "coinrun"
    (root / "train").mkdir(parents=True)
    content = record([frame()] * 4, zoom=3.0)
    (root / "train" / "level.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"zoom is 3\.0; .*level\.json"):
        data(root).dataset(train=True)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": []}, "data is"),
        ({"data": {}}, "data is {}; expected a list"),
        ({"metadata": None}, "metadata is null"),
        ({"metadata": {}}, "metadata.data_folder is missing"),
        ({"data": [{"video": {}}]}, r"data\[0\]\.video\.json_file is missing"),
    ],
)
def test_a_malformed_index_is_reported_with_its_field(
    released: Path, change: dict[str, Any], message: str
) -> None:
    content = json.loads((released / "train.json").read_text())
    (released / "train.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=rf"train\.json: {message}"):
        data(released).dataset(train=True)


def test_an_index_without_its_games_says_where_it_looked(released: Path) -> None:
    (released / "games").rename(released / "moved")
    with pytest.raises(UserError, match=r"set metadata\.data_folder"):
        data(released).dataset(train=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coinrun_v2_dataloader"], "--coinrun_v2_dataloader expects the released index"),
        (["--false_text_prob", "0.5"], "--false_text_prob is not supported"),
        (["--get_alien_data"], "--get_alien_data is not supported"),
        (["--smap_only", "--get_mixed_rgb_smap"], "exclude each other"),
        (["--get_text_only", "--smap_cond", "1"], "exclude each other"),
        (["--use_manual_annotation_only"], "none of the 3 clips has a manual"),
        (["--text_path", "nowhere.json"], r"--text_path nowhere\.json cannot be read"),
        (["--coinrun_assets", "nowhere"], "--coinrun_assets nowhere is not a folder"),
        (["--max_label", "20"], "--max_label got 20"),
        (["--image_folder"], "--image_folder cannot be used"),
        (["--get_mixed_rgb_smap_mugen_only", "--use_onehot_smap"], "--max_label 18"),
    ],
)
def test_flags_that_cannot_work_are_refused_in_one_line(
    root: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        data(root, *flags).dataset(train=True)
    assert "\n" not in str(error.value)


def test_a_folder_without_clips_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "coinrun" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no clips; expected game files train/\*\.json"):
        data(tmp_path / "coinrun").dataset(train=True)


@pytest.mark.parametrize("content", ["{", "[]", '{"clip0": 1}', '{"clip0": [1]}'])
def test_a_malformed_annotation_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "texts.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"--text_path .*texts\.json"):
        read_annotations(path)


def test_mugen_clips_have_no_class_labels(root: Path) -> None:
    with pytest.raises(UserError, match="has no class labels"):
        _ = data(root).class_names


def test_batches_do_not_depend_on_the_number_of_workers(root: Path, vocabulary: Path) -> None:
    def batches(n_workers: int) -> list[dict[str, torch.Tensor]]:
        flags = ["--text_cond", "--batch_size", "2", "--num_workers", str(n_workers)]
        return list(data(root, *flags).train_dataloader())

    for one, other in zip(batches(0), batches(2), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("video", "text"))
