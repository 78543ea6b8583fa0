"""What a clip is: from flags, from a file, and where a file's flags do not say it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from load_script import load_script
from tiny import save_checkpoint, tiny_transformer, tiny_vqgan

from tats.clip_spec import STFT_SIZE, ClipSpec, uses_mugen
from tats.errors import UserError
from tats.flags import check_clip, with_defaults
from tats.models.transformer import Net2NetTransformer, load_transformer
from tats.models.vqgan import VQGAN, load_vqgan


def from_flags(**flags: Any) -> ClipSpec:
    return ClipSpec.from_flags(with_defaults(flags))


def save_without_clip(model: VQGAN | Net2NetTransformer, path: Path) -> Path:
    """Write a file as the published code and our older versions did."""
    content = torch.load(save_checkpoint(model, path), weights_only=True)
    del content["hyper_parameters"]["clip"]
    torch.save(content, path)
    return path


def load_published(
    folder: Path, vqgan: VQGAN, **flags: Any
) -> tuple[Net2NetTransformer, Net2NetTransformer]:
    """A transformer and what comes back from its file, which does not say what its clips are."""
    model = tiny_transformer(vqgan, unconditional=True, **flags)
    paths = {"gpt": model, "vqgan": vqgan}
    gpt, first = (save_without_clip(part, folder / f"{name}.ckpt") for name, part in paths.items())
    return model, load_transformer(gpt, first)


# --- from flags -------------------------------------------------------------------------------


def test_some_readers_count_frames_before_thinning_and_some_after():
    thinned = {"data_path": "d", "sequence_length": 64, "sample_every_n_frames": 4}
    assert from_flags(**thinned, resolution=128) == ClipSpec(16, 128, 128, 3, "video")
    assert from_flags(**thinned, image_folder=True).frames == 64
    assert from_flags(**{**thinned, "data_path": "x/coinrun_dataset"}).frames == 64
    assert from_flags(**{**thinned, "data_path": "x/coinrun/frames.h5"}).frames == 16
    assert from_flags(sequence_length=-1, image_folder=True).frames == -1
    check_clip(from_flags(**thinned, resolution=128), (4, 8, 8))


@pytest.mark.parametrize(
    "path", ["/data/coinrun/jsons", "/data/CoinRun", "my_coinrun_set", "../COINRUN/a/b"]
)
def test_mugen_is_found_anywhere_in_the_path_in_any_case(path):
    assert uses_mugen(with_defaults({"data_path": path}))


@pytest.mark.parametrize("path", [None, "/data/ucf101", "/coinrun/data.h5", "coinrun.HDF5"])
def test_other_data_are_not_mugen(path):
    assert not uses_mugen(with_defaults({"data_path": path}))


def test_sound_is_what_has_one_channel():
    sound = from_flags(stft_data=True, image_channels=1, resolution=96)
    assert sound == ClipSpec(16, *STFT_SIZE, 1, "spectrogram")
    assert from_flags(stft_data=True, resolution=96) == ClipSpec(16, 96, 96, 3, "video")
    assert from_flags(image_channels=1).kind == "video", "a map of MUGEN's"


def test_a_clip_of_codes_is_as_large_as_its_crop():
    codes = from_flags(vtokens=True, resolution=16, spatial_length=15, sequence_length=4)
    assert codes == ClipSpec(4, 15, 15, 1, "codes")
    assert from_flags(vtokens=True, resolution=8, spatial_length=15).height == 8
    assert codes.latent_shape((4, 8, 8)) == (4, 15, 15)
    thinned = from_flags(vtokens=True, sequence_length=8, sample_every_n_frames=2)
    assert thinned.frames == 4, "as many as the reader gives"


# --- stored -----------------------------------------------------------------------------------


def test_a_clip_is_stored_as_plain_values():
    clip = ClipSpec(16, 64, 16, 1, "spectrogram")
    assert ClipSpec.from_dict(json.loads(json.dumps(clip.to_dict()))) == clip


@pytest.mark.parametrize(
    "change",
    [
        {"frames": -2},
        {"height": 0},
        {"width": 2.0},
        {"channels": True},
        {"frames": 2**40},
        {"kind": "smell"},
        {"kind": ["video"]},
        {"more": 1},
    ],
)
def test_what_describes_no_clip_is_refused(change):
    with pytest.raises(ValueError, match="clip got"):
        ClipSpec.from_dict({**ClipSpec(16, 64, 64, 3, "video").to_dict(), **change})


def test_a_file_with_a_broken_clip_is_refused_in_one_line(tmp_path):
    path = save_checkpoint(tiny_vqgan(), tmp_path / "vqgan.ckpt")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["clip"]["height"] = "high"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"vqgan\.ckpt .*clip got 'high' for height"):
        load_vqgan(path)


def test_a_models_clip_outlives_the_name_of_its_folder(tmp_path):
    trained = tiny_vqgan(data_path="x/coinrun", sequence_length=16, sample_every_n_frames=4)
    assert trained.latent_shape == (4, 4, 4)
    content = torch.load(save_checkpoint(trained, tmp_path / "v.ckpt"), weights_only=True)
    assert content["hyper_parameters"]["clip"] == trained.clip.to_dict()
    content["hyper_parameters"]["args"]["data_path"] = "moved"
    content["pytorch-lightning_version"] = "2.0.0"
    torch.save(content, tmp_path / "v.ckpt")
    assert load_vqgan(tmp_path / "v.ckpt").latent_shape == (4, 4, 4)
    assert VQGAN.load_from_checkpoint(tmp_path / "v.ckpt").latent_shape == (4, 4, 4)


def test_a_clip_survives_slimming(tmp_path, capsys):
    clip = ClipSpec(32, 32, 16, 3, "video")
    vqgan = VQGAN({"n_hiddens": 16}, clip=clip)
    vqgan.codebook.N.fill_(1.0)
    path = save_checkpoint(vqgan, tmp_path / "vqgan.ckpt")
    load_script("scripts/slim_checkpoint.py").main([str(path), str(tmp_path / "v.safetensors")])
    assert load_vqgan(tmp_path / "v.safetensors").clip == clip


def test_the_clip_given_is_what_a_model_trains_on(tmp_path):
    clip = ClipSpec(32, 32, 16, 3, "video")
    assert VQGAN({"resolution": 16, "n_hiddens": 16}, clip=clip).latent_shape == (8, 8, 4)
    model = Net2NetTransformer(
        {"unconditional": True, "n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 64},
        first_stage_model=tiny_vqgan(),
        clip=clip,
    )
    assert model.latent_shape == (8, 8, 4)
    gpt = save_checkpoint(model, tmp_path / "gpt.ckpt")
    vqgan = save_checkpoint(tiny_vqgan(), tmp_path / "vqgan.ckpt")
    assert load_transformer(gpt, vqgan).latent_shape == (8, 8, 4), "as stored, whatever its VQGAN"


# --- found out --------------------------------------------------------------------------------


def test_a_published_drum_model_samples_at_its_vqgans_size(tmp_path, caplog):
    vqgan = tiny_vqgan(resolution=24, stft_data=True)
    drums = {"stft_data": True, "resolution": 16, "block_size": 4 * 6 * 6}
    model, loaded = load_published(tmp_path, vqgan, **drums)
    assert model.latent_shape == (4, 4, 4)
    assert loaded.latent_shape == (4, 6, 6)
    assert dict(loaded.hparams)["clip"] == ClipSpec(16, 24, 24, 3, "video").to_dict()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "(16, 16, 16)" in line and "(16, 24, 24)" in line and "gpt.ckpt" in line


def test_a_drum_model_whose_block_is_too_short_for_its_vqgans_size_keeps_its_own(tmp_path, caplog):
    vqgan = tiny_vqgan(resolution=24, stft_data=True)
    _, loaded = load_published(tmp_path, vqgan, stft_data=True, resolution=16, block_size=64)
    assert loaded.latent_shape == (4, 4, 4)
    assert not caplog.records


@pytest.mark.parametrize(("n_frames", "every", "n_latents"), [(16, 6, 4), (32, 3, 8)])
def test_a_published_mugen_model_counts_the_frames_that_are_kept(
    n_frames, every, n_latents, tmp_path, caplog
):
    mugen = {
        "data_path": "/data/coinrun/jsons",
        "sequence_length": n_frames,
        "sample_every_n_frames": every,
    }
    vqgan = tiny_vqgan(**mugen)
    _, loaded = load_published(tmp_path, vqgan, **mugen, block_size=16 * n_latents)
    assert vqgan.latent_shape == loaded.latent_shape == (n_latents, 4, 4)
    assert not caplog.records


def test_where_the_flags_give_no_latent_frame_the_vqgans_clip_counts(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    lost = {"sequence_length": 16, "sample_every_n_frames": 6}
    model, loaded = load_published(tmp_path, tiny_vqgan(), **lost)
    assert model.latent_shape == (0, 4, 4)
    assert loaded.latent_shape == (4, 4, 4)
    assert len(caplog.records) == 1


def test_a_model_without_a_latent_frame_is_refused(tmp_path):
    lost = {"sequence_length": 16, "sample_every_n_frames": 6}
    with pytest.raises(UserError, match=r"gpt\.ckpt: .* \(3, 16, 16\).*expected"):
        load_published(tmp_path, tiny_vqgan(**lost), **lost)


@pytest.mark.parametrize(
    ("flags", "shape"),
    [
        # what a hierarchical pair is trained on: longer clips, thinned, or one frame more
        ({"sequence_length": 64, "sample_every_n_latent_frames": 4, "block_size": 64}, (4, 4, 4)),
        ({"sequence_length": 20, "n_unmasked": 16, "block_size": 80}, (5, 4, 4)),
        ({"sequence_length": 8, "block_size": 64}, (2, 4, 4)),
        # a VQGAN used on larger pictures than it was trained on, and a block to match
        ({"resolution": 32, "block_size": 256}, (4, 8, 8)),
        ({"resolution": 32, "block_size": 512}, (4, 8, 8)),
        ({"image_folder": True, "sample_every_n_frames": 4, "block_size": 64}, (4, 4, 4)),
        ({"sequence_length": 64, "sample_every_n_frames": 4, "block_size": 64}, (4, 4, 4)),
    ],
)
def test_flags_that_can_be_true_are_believed(flags, shape, tmp_path, caplog):
    _, loaded = load_published(tmp_path, tiny_vqgan(), **flags)
    assert loaded.latent_shape == shape
    assert not caplog.records


@pytest.mark.parametrize("positions", [False, True])
def test_a_model_of_stored_codes_keeps_its_crop(positions, tmp_path, caplog):
    codes = {
        "vtokens": True,
        "vtokens_pos": positions,
        "resolution": 6,
        "spatial_length": 4,
        "sequence_length": 4,
        "first_stage_vocab_size": 32,
        "block_size": 256,
    }
    _, loaded = load_published(tmp_path, tiny_vqgan(resolution=24), **codes)
    assert loaded.first_stage_model is not None
    assert loaded.latent_shape == (4, 4, 4)
    assert not caplog.records
    assert load_transformer(tmp_path / "gpt.ckpt", "").latent_shape == (4, 4, 4)


def test_a_published_sound_model_need_not_say_that_it_is_one(tmp_path):
    sound = tiny_vqgan(image_channels=1, n_codes=16, downsample=(4, 32, 8))
    assert sound.clip.kind == "video"
    model = tiny_transformer(cond_stage_model=sound, cond_stage_key="stft", block_size=80)
    assert model.conditioner.n_tokens == 4 * 2 * 2
    assert sound.clip == ClipSpec(16, *STFT_SIZE, 1, "spectrogram")
