"""The hierarchical sampler's script, end to end with tiny models."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from load_script import load_script
from sampler_runs import HIERARCHICAL, hierarchical, refused, run, save_models

from tats import TATS, load_transformer
from tats.sampling import TokenFilter, fill, infill, sliding

LENGTH = "--sample_length 8 --n_sample 3"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_models(tmp_path_factory.mktemp("models"))


def clips(models: dict[str, Path], save: Path, flags: str, capsys, **kinds: str) -> np.ndarray:
    arguments = [*hierarchical(models, save, **kinds), *shlex.split(flags)]
    return np.load(run(HIERARCHICAL, arguments, capsys)["clips"])


def test_it_writes_one_latent_frame_more_than_the_length_and_always_videos(
    models, tmp_path, capsys
) -> None:
    made = clips(models, tmp_path, LENGTH, capsys)
    assert made.shape == (3, 36, 16, 16, 3) and made.dtype == np.uint8
    assert len({clip.tobytes() for clip in made}) == 3
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("taichi_hierarchical_topp0.8_topk2048_run0-")
    assert len(list(folder.glob("videos/*.mp4"))) == 1
    record = json.loads((folder / "run.json").read_text())
    assert record["latent_shape"] == [9, 4, 4] and len(record["checkpoints"]) == 3


def test_a_sample_is_the_same_in_any_batch_and_another_with_another_seed(
    models, tmp_path, capsys
) -> None:
    at_once = clips(models, tmp_path / "a", LENGTH, capsys)
    assert np.array_equal(
        at_once, clips(models, tmp_path / "b", f"{LENGTH} --batch_size 2", capsys)
    )
    assert not np.array_equal(at_once, clips(models, tmp_path / "c", f"{LENGTH} --seed 9", capsys))


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("interpolation", ["released", "trained"])
def test_greedy_clips_are_those_of_the_two_loops_run_by_hand(
    models, tmp_path, capsys, context: int, interpolation: str
) -> None:
    flags = f"{LENGTH} --top_k 1 --top_k_init 1 --temporal_sample_pos {context}"
    made = clips(models, tmp_path, f"{flags} --interpolation {interpolation}", capsys)
    load = load_transformer
    keys_by, fill_by = (load(models[kind], models["vqgan"]) for kind in ("uncond", "fill"))
    start, greedy = torch.zeros(1, 1, dtype=torch.int64), TokenFilter(temperature=0.0)
    unknown = torch.full((1, 3 * 16), -1)
    keys = fill(keys_by.transformer, unknown, start, sliding(3, 16, context), token_filter=greedy)
    canvas = torch.full((1, 9, 16), -1)
    canvas[:, ::4] = keys.view(1, 3, 16)
    codes = fill(
        fill_by.transformer, canvas.flatten(1), start, infill(9, 16, 4), token_filter=greedy,
        interpolation=interpolation,
    )  # fmt: skip
    with torch.no_grad():
        video = fill_by.first_stage_model.decode(codes.view(1, 9, 4, 4))
    expected = ((video.clamp(-0.5, 0.5) + 0.5) * 255).to(torch.uint8)[0].permute(1, 2, 3, 0)
    # Two ways to decode may round a value to either side of a step.
    assert np.abs(made[0].astype(int) - expected.numpy().astype(int)).max() <= 1
    assert all(np.array_equal(clip, made[0]) for clip in made)


def test_the_first_window_has_a_filter_of_its_own(models, tmp_path, capsys) -> None:
    script = load_script(HIERARCHICAL)
    flags = shlex.split(f"{LENGTH} --top_k_init 5 --top_p_init 0.5 --top_k 7 --top_p 0.9")
    args = script.build_parser().parse_args([*hierarchical(models, tmp_path), *flags])
    tats = TATS.from_pretrained(gpt=args.ckpt1, interpolation=args.ckpt2, vqgan=args.vqgan)
    first_filter = TokenFilter(args.top_k_init, args.top_p_init)
    wishes = {"top_k": args.top_k, "top_p": args.top_p, "first_filter": first_filter}
    first, rest, between = tats.sampler(n_latent_frames=args.sample_length + 1, **wishes).passes
    assert (first.token_filter.top_k, first.token_filter.top_p) == (5, 0.5)
    assert (rest.token_filter.top_k, between.token_filter.top_p) == (7, 0.9)
    assert first.schedule[0].write == tuple(range(16))
    assert rest.schedule[0].write == tuple(range(64, 80)) and rest.schedule[0].past[0] == 0
    assert between.schedule[1].future == tuple(range(128, 144))


def test_classes_reach_both_models(models, tmp_path, capsys) -> None:
    flags = "--sample_length 4 --n_sample 4 --class_cond --top_k 1 --top_k_init 1"
    made = clips(models, tmp_path, flags, capsys, key="label", fill="fill-label")
    assert np.array_equal(made[0], made[3]) and not np.array_equal(made[0], made[1])


@pytest.mark.parametrize(
    ("kinds", "flags", "message"),
    [
        ({}, "--sample_length 6", "--sample_length got 6; expected a multiple of 4"),
        ({}, "--sample_length 0", "--sample_length got 0"),
        ({}, "--n_sample 0", "--n_sample got 0"),
        ({}, "--top_p_init 2", "--top_p_init got 2"),
        ({}, "--class_cond", "--class_cond got an unconditional --ckpt1"),
        ({}, "--temporal_sample_pos 4", "--temporal_sample_pos got 4"),
        ({}, "--compute_fvd", "--compute_fvd got no --data_path"),
        ({}, "--sample_resolution 8", "--sample_resolution got 8"),
        ({"fill": "uncond"}, "", "--ckpt2 got a model without n_unmasked"),
        ({"key": "fill"}, "", "--ckpt1 got an interpolation model"),
        ({"key": "text"}, "", "--ckpt1 got a model conditioned on text"),
        ({"fill": "fill-label"}, "", "--ckpt2 got a model of 3 classes; expected 0 as --ckpt1"),
        (
            {"fill": "interpolation"},
            "",
            "needs 80 inputs (1 condition + 80 video tokens",
        ),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(
    models, tmp_path, capsys, kinds: dict[str, str], flags: str, message: str
) -> None:
    arguments = [*hierarchical(models, tmp_path / "new", **kinds), *shlex.split(flags)]
    assert message in refused(HIERARCHICAL, arguments, capsys)
    assert not (tmp_path / "new").exists()
