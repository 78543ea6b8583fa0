"""Reading checkpoints: what is filled in, what is dropped, what is refused, and what it costs."""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import good_content
from load_script import load_script
from safetensors.torch import load_file
from tiny import save_checkpoint, tiny_transformer, tiny_vqgan

from tats import load_transformer, load_vqgan
from tats.errors import UserError
from tats.models.transformer import Net2NetTransformer
from tats.models.vqgan import VQGAN
from tats.weights.checkpoint import (
    check_weights,
    load_weights,
    read_checkpoint,
    write_slim,
)


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    return tiny_vqgan()


@pytest.fixture(scope="module")
def transformer(vqgan: VQGAN) -> Net2NetTransformer:
    return tiny_transformer(vqgan, class_cond_dim=3)


@pytest.fixture(scope="module")
def vqgan_file(vqgan: VQGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(vqgan, tmp_path_factory.mktemp("good") / "vqgan.ckpt")


@pytest.fixture(scope="module")
def gpt_file(transformer: Net2NetTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(transformer, tmp_path_factory.mktemp("good") / "gpt.ckpt")


class ModelCheckpoint:
    """As callbacks of Lightning ≤ 1.4 name their states: by class."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


def published(model: VQGAN | Net2NetTransformer) -> dict[str, Any]:
    """What the published Trainer would have written."""
    content = good_content(model)
    parameters = content["hyper_parameters"]
    parameters["args"] = argparse.Namespace(**parameters["args"])
    content["optimizer_states"] = [{"state": {}, "param_groups": []}]
    return content


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    wanted = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize("zipped", [True, False])
def test_zip_and_legacy_files_with_namespaces_load(
    zipped: bool, vqgan: VQGAN, tmp_path: Path
) -> None:
    path = tmp_path / "vqgan.ckpt"
    torch.save(published(vqgan), path, _use_new_zipfile_serialization=zipped)
    assert_same_weights(load_vqgan(path), vqgan)


def test_callback_states_under_a_class_are_dropped(
    vqgan: VQGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, path = published(vqgan), tmp_path / "vqgan.ckpt"
    content["callbacks"] = {ModelCheckpoint: {"best_model_path": "x"}}
    module = sys.modules.get(ModelCheckpoint.__module__)
    with monkeypatch.context() as patch:  # so that pickle finds the class under its old name
        patch.setattr(module, "ModelCheckpoint", ModelCheckpoint)
        torch.save(content, path)
    assert b"model_checkpoint" in path.read_bytes()
    assert_same_weights(load_vqgan(path), vqgan)


def test_tensors_of_a_gpu_load_without_one(vqgan: VQGAN, tmp_path: Path) -> None:
    path = tmp_path / "vqgan.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
        torch.save(published(vqgan), path)
    assert b"cuda:0" in path.read_bytes()
    loaded = load_vqgan(path)
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}
    assert_same_weights(loaded, vqgan)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_come_as_float32(
    dtype: torch.dtype, vqgan: VQGAN, tmp_path: Path
) -> None:
    content = published(vqgan)
    content["state_dict"] = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in content["state_dict"].items()
    }
    torch.save(content, tmp_path / "vqgan.ckpt")
    loaded = load_vqgan(tmp_path / "vqgan.ckpt").state_dict()
    for name, tensor in loaded.items():
        stored = content["state_dict"][name]
        assert tensor.dtype == vqgan.state_dict()[name].dtype
        assert torch.equal(tensor, stored.to(tensor.dtype))


def test_settings_that_older_files_lack_take_their_defaults(vqgan: VQGAN, tmp_path: Path) -> None:
    content = published(vqgan)
    for name in ("padding_type", "sample_every_n_frames", "vtokens", "spatial_length"):
        delattr(content["hyper_parameters"]["args"], name)
    torch.save(content, tmp_path / "vqgan.ckpt")
    assert load_vqgan(tmp_path / "vqgan.ckpt").args.padding_type == "replicate"


def test_what_is_dropped_is_listed_by_the_beginnings_of_names(
    transformer: Net2NetTransformer, vqgan_file: Path, tmp_path: Path, caplog: Any
) -> None:
    content = published(transformer)
    for i in range(2):
        content["state_dict"][f"transformer.blocks.{i}.attn.mask"] = torch.ones(1, 1, 4, 4)
    torch.save(content, tmp_path / "gpt.ckpt")
    with caplog.at_level(logging.INFO, "tats.weights.checkpoint"):
        load_transformer(tmp_path / "gpt.ckpt", vqgan_file)
    for beginning, count in (
        ("first_stage_model.", len(transformer.first_stage_model.state_dict())),
        ("transformer.blocks.*.attn.mask", 2),
        ("image_discriminator.", 18),
    ):
        assert re.search(rf"{count} weights of {re.escape(beginning)}\*", caplog.text)


def test_one_error_names_missing_and_unexpected_weights_with_their_shapes(vqgan: VQGAN) -> None:
    state = dict(vqgan.state_dict())
    state["decoder.extra"] = torch.zeros(2, 5)
    del state["pre_vq_conv.conv.bias"]
    with pytest.raises(UserError) as error:
        load_weights(tiny_vqgan(), state, source="--vqvae x.ckpt")
    line = str(error.value)
    assert "1 missing weight(s), pre_vq_conv.conv.bias (8,)" in line
    assert "1 unexpected weight(s), decoder.extra (2, 5)" in line
    assert line.startswith("--vqvae x.ckpt") and "\n" not in line


def test_a_wrong_shape_is_named_with_both_shapes(vqgan: VQGAN) -> None:
    state = {**vqgan.state_dict(), "pre_vq_conv.conv.bias": torch.zeros(9)}
    with pytest.raises(UserError, match=r"pre_vq_conv\.conv\.bias got \(9,\); expected .*\(8,\)"):
        load_weights(tiny_vqgan(), state, source="x")


def test_an_unknown_part_of_a_transformers_file_is_not_passed_over(
    transformer: Net2NetTransformer, vqgan_file: Path, tmp_path: Path
) -> None:
    content = published(transformer)
    content["state_dict"]["second_stage.weight"] = torch.zeros(3)
    torch.save(content, tmp_path / "gpt.ckpt")
    with pytest.raises(UserError, match=r"unexpected weight\(s\), second_stage\.weight \(3,\)"):
        load_transformer(tmp_path / "gpt.ckpt", vqgan_file)


def test_weights_are_mapped_and_what_is_not_needed_is_never_read(
    vqgan: VQGAN, tmp_path: Path
) -> None:
    torch.save(published(vqgan), tmp_path / "vqgan.ckpt")
    state = read_checkpoint(tmp_path / "vqgan.ckpt", flag="x", stage="vqgan").state_dict
    spans = [tensor.untyped_storage().data_ptr() for tensor in state.values()]
    size = (tmp_path / "vqgan.ckpt").stat().st_size
    assert max(spans) - min(spans) < size, "the tensors do not lie in one mapped file"


def test_sampling_builds_no_discriminator_and_needs_no_network(
    transformer: Net2NetTransformer, gpt_file: Path, vqgan_file: Path, monkeypatch: Any
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr("socket.socket.connect", refuse)
    first_stage = load_transformer(gpt_file, vqgan_file).first_stage_model
    assert first_stage is not None and first_stage.perceptual_model is None
    assert not hasattr(first_stage, "image_discriminator")


def test_the_copy_of_another_vqgan_is_noticed(gpt_file: Path, tmp_path: Path, caplog: Any) -> None:
    torch.manual_seed(7)
    other = save_checkpoint(tiny_vqgan(), tmp_path / "other.ckpt")
    load_transformer(gpt_file, other)
    assert "holds another first_stage_model than the one given" in caplog.text


@pytest.mark.slow
def test_loading_peaks_at_the_size_of_the_weights(vqgan_file: Path, tmp_path: Path) -> None:
    large = tiny_transformer(n_embd=1024, n_layer=3, class_cond_dim=3)
    content = published(large)
    parameters = dict(enumerate(large.transformer.parameters()))
    content["optimizer_states"] = [
        {"state": {i: {"exp_avg": torch.zeros_like(p)} for i, p in parameters.items()}}
    ]
    torch.save(content, tmp_path / "gpt.ckpt")
    script = Path(__file__).parents[2] / "benchmarks" / "bench_load_peak_memory.py"
    files = ["--gpt_ckpt", str(tmp_path / "gpt.ckpt"), "--vqgan_ckpt", str(vqgan_file)]
    command = [sys.executable, str(script), *files, "--n_tokens=1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(run.stdout)
    assert result["transformer_file_bytes"] > 1.9 * result["weights_bytes"]
    assert 0.9 < result["peak_over_weights"] < 1.3
    assert result["clip_is_finite"]


def test_checked_weights_come_in_the_models_number_types() -> None:
    wanted = {"a": torch.zeros(2), "n": torch.tensor(0)}
    given = {"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3, dtype=torch.int32)}
    checked = check_weights(given, wanted, source="x", model="Y")
    assert (checked["a"].dtype, checked["n"].dtype) == (torch.float32, torch.int64)


# --- slim checkpoints -------------------------------------------------------------------------


def slim(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str], *flags: str
) -> dict[str, Any]:
    load_script("scripts/slim_checkpoint.py").main([str(source), str(out), *flags])
    return json.loads(capsys.readouterr().out)


def test_a_slim_pair_loads_to_exactly_the_same_models(
    gpt_file: Path, vqgan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slim(vqgan_file, tmp_path / "vqgan.safetensors", capsys)
    slim(gpt_file, tmp_path / "gpt.safetensors", capsys)
    before = load_transformer(gpt_file, vqgan_file)
    after = load_transformer(tmp_path / "gpt.safetensors", tmp_path / "vqgan.safetensors")
    assert_same_weights(after, before)
    assert vars(after.args) == vars(before.args)
    assert after.latent_shape == before.latent_shape


def test_a_slim_checkpoint_holds_weights_and_readable_settings_alone(
    transformer: Net2NetTransformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = published(transformer)
    content["state_dict"]["transformer.blocks.0.attn.mask"] = torch.ones(1, 1, 64, 64)
    content["hyper_parameters"]["args"].odd = torch.zeros(2)
    torch.save(content, tmp_path / "gpt.ckpt")
    out = tmp_path / "deep" / "er" / "gpt.safetensors"
    result = slim(tmp_path / "gpt.ckpt", out, capsys)
    names = set(load_file(out))
    assert names == {f"transformer.{name}" for name in transformer.transformer.state_dict()}
    settings = json.loads(out.with_suffix(".json").read_text())
    assert settings["args"]["n_embd"] == 16 and settings["cond_stage_key"] == "label"
    assert result["settings_left_out"] == ["odd"]
    assert result["weights_kept"] == len(names)
    assert result["bytes_after"] == out.stat().st_size < result["bytes_before"]
    assert {file.name for file in out.parent.iterdir()} == {"gpt.safetensors", "gpt.json"}


def test_slimming_refuses_its_own_input_and_other_names(
    vqgan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load_script("scripts/slim_checkpoint.py").main
    slim(vqgan_file, tmp_path / "v.safetensors", capsys)
    for out, complaint in (("v.safetensors", "the checkpoint itself"), ("v.pt", "ending in")):
        before = {file: file.read_bytes() for file in tmp_path.iterdir()}
        with pytest.raises(SystemExit) as exit_:
            main([str(tmp_path / "v.safetensors"), str(tmp_path / out)])
        assert exit_.value.code == 2 and complaint in capsys.readouterr().err
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_nothing_is_replaced_unless_it_is_asked_for(
    vqgan: VQGAN, vqgan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v.safetensors"
    slim(vqgan_file, out, capsys)
    for there in (out, out.with_suffix(".json")):
        there.unlink()
        (out if there != out else out.with_suffix(".json")).write_text("mine")
        with pytest.raises(UserError, match=r"which is there; expected a new file's name"):
            write_slim(out, vqgan.state_dict(), vqgan.hparams)
        assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
        slim(vqgan_file, out, capsys, "--overwrite")
        assert_same_weights(load_vqgan(out), load_vqgan(vqgan_file))


def test_a_slim_checkpoint_may_be_written_in_half_precision(vqgan: VQGAN, tmp_path: Path) -> None:
    out = tmp_path / "v.safetensors"
    own = load_vqgan(save_checkpoint(vqgan, tmp_path / "v.ckpt")).state_dict()
    write_slim(out, own, {"args": argparse.Namespace(**vqgan.hparams["args"])}, dtype=torch.float16)
    stored, loaded = load_file(out), load_vqgan(out).state_dict()
    for name, tensor in own.items():
        expected = tensor.half() if tensor.is_floating_point() else tensor
        assert stored[name].dtype == expected.dtype and torch.equal(stored[name], expected)
        assert torch.equal(loaded[name], expected.to(tensor.dtype))


def test_a_checkpoint_that_cannot_be_slimmed_leaves_nothing(
    vqgan: VQGAN, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = published(vqgan)
    content["state_dict"]["codebook.N"] = torch.tensor(1.0).expand(10**9)
    torch.save(content, tmp_path / "v.ckpt")
    with pytest.raises(SystemExit):
        load_script("scripts/slim_checkpoint.py").main(
            [str(tmp_path / "v.ckpt"), str(tmp_path / "out" / "v.safetensors")]
        )
    assert "fewer values than its shape" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_published_sizes_are_written_in_the_published_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("scripts/make_readme_size_checkpoints.py")
    for settings, small in (
        (script.GPT_SETTINGS, {"n_head": 2, "n_embd": 8}),
        (script.VQGAN_SETTINGS, {"n_hiddens": 2, "embedding_dim": 4}),
    ):
        monkeypatch.setattr(script, "GPT_SETTINGS" if "n_head" in small else "VQGAN_SETTINGS",
                            {**settings, **small})  # fmt: skip
    script.main([str(tmp_path), "--n_layer", "1"])
    files = json.loads(capsys.readouterr().out)
    model = load_transformer(files["transformer"][0], files["vqgan"][0])
    assert (model.args.n_layer, model.latent_shape) == (1, (4, 16, 16))
    state = read_checkpoint(files["transformer"][0], flag="x", stage="transformer").state_dict
    assert state["transformer.blocks.0.attn.mask"].shape == (1, 1, 1024, 1024)
