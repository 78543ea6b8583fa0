"""The reference checkpoints load whole, are trained on, and their models score as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from load_script import load_script
from reference_models import reference_gpt, reference_transformer
from small_data import write_video_folders
from torch import Tensor
from watching import assert_moments_kept, watched

from tats import load_transformer, load_vqgan
from tats.flags import with_defaults
from tats.models.transformer import NOT_THE_GPTS, accuracy
from tats.models.vqgan import TRAINING_PREFIXES, VQGAN
from tats.sampling import TokenFilter, fill, whole
from tats.training.trainer import transformer_learning_rate, vqgan_learning_rate
from tats.weights.checkpoint import read_checkpoint, read_content

VQGANS = ("vq_a", "vq_b", "vq_stft", "genuine_pl154_vqgan_acc1", "genuine_pl154_vqgan_acc3")
GPTS = (
    *("gpt_label", "gpt_uncond", "gpt_text", "gpt_stft", "gpt_hier_ar", "gpt_hier_interp"),
    *("gpt_vtokens", "genuine_pl154_gpt_label"),
)


def content_of(goldens: Path, name: str) -> dict[str, Any]:
    return read_content(goldens / "ckpt" / f"{name}.ckpt", flag="reference")


def test_every_reference_checkpoint_is_tried_here(goldens: Path) -> None:
    assert {path.stem for path in (goldens / "ckpt").iterdir()} == {*VQGANS, *GPTS}


def assert_holds_exactly(
    parity: Any, model: torch.nn.Module, stored: dict[str, Tensor], dropped: tuple[str, ...]
) -> None:
    beginnings = tuple(beginning.split("*")[0] for beginning in dropped)
    for name, tensor in model.state_dict().items():
        parity.exact("weights of reference checkpoints", tensor, stored.pop(name))
    assert all(
        name.startswith(beginnings) and ("*" not in name or name.endswith("attn.mask"))
        for name in stored
    )


@pytest.mark.parametrize("form", ["as it is", "legacy", "half"])
@pytest.mark.parametrize("name", VQGANS)
def test_every_vqgan_loads_in_every_form(
    goldens: Path, parity: Any, tmp_path: Path, name: str, form: str
) -> None:
    content, path = content_of(goldens, name), goldens / "ckpt" / f"{name}.ckpt"
    if form != "as it is":
        path, state = tmp_path / "vqgan.ckpt", content["state_dict"]
        if form == "half":
            for key, tensor in state.items():
                state[key] = tensor.half() if tensor.is_floating_point() else tensor
        content["callbacks"] = {}
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    assert_holds_exactly(parity, load_vqgan(path), dict(content["state_dict"]), TRAINING_PREFIXES)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", GPTS)
def test_every_transformer_loads_in_every_form(
    goldens: Path, parity: Any, tmp_path: Path, name: str, legacy: bool
) -> None:
    content, path = content_of(goldens, name), goldens / "ckpt" / f"{name}.ckpt"
    if legacy:
        path = tmp_path / "gpt.ckpt"
        torch.save(content, path, _use_new_zipfile_serialization=False)
    model = load_transformer(
        path,
        "" if name == "gpt_vtokens" else goldens / "ckpt" / "vq_a.ckpt",
        goldens / "ckpt" / "vq_stft.ckpt" if name == "gpt_stft" else "",
    )
    stored = {
        key.removeprefix("transformer."): tensor for key, tensor in content["state_dict"].items()
    }
    dropped = tuple(beginning.removeprefix("transformer.") for beginning in NOT_THE_GPTS)
    assert_holds_exactly(parity, model.transformer, stored, dropped)


@pytest.mark.parametrize("name", VQGANS)
def test_parameters_come_in_the_order_of_the_stored_moments(
    goldens: Path, parity: Any, name: str
) -> None:
    content = content_of(goldens, name)
    ours = [name for name, _ in VQGAN(content["hyper_parameters"]["args"]).named_parameters()]
    published = [name for name in content["state_dict"] if name in set(ours)]
    parity.same("parameters' order", ours, published)


def test_settings_that_the_reference_files_lack_are_filled_in(goldens: Path) -> None:
    for name in ("vq_a", "vq_stft"):
        path = goldens / "ckpt" / f"{name}.ckpt"
        assert "padding_type" not in read_checkpoint(path, flag="x", stage="vqgan").args
        assert load_vqgan(path).args.padding_type == "replicate"
    lacking = read_checkpoint(goldens / "ckpt/gpt_uncond.ckpt", flag="x", stage="transformer")
    assert "spatial_length" not in lacking.args
    model = reference_transformer(goldens, "gpt_uncond")
    assert model.unconditional and model.args.spatial_length == 15


@pytest.mark.parametrize("kind", ["vqgan", "gpt"])
def test_readme_size_models_have_the_published_names_and_shapes(
    goldens: Path, parity: Any, kind: str
) -> None:
    script = load_script("scripts/make_readme_size_checkpoints.py")
    ours = script.vqgan_shapes() if kind == "vqgan" else script.gpt_shapes(24)
    published = json.loads((goldens / "keys" / f"{kind}_readme.json").read_text())
    listed = {name: list(entry) for name, entry in ours.items()}
    parity.same(
        "names and shapes at README size", sorted(listed.items()), sorted(published.items())
    )


# --- figures of a batch -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in GPTS if not name.startswith("genuine")])
@torch.no_grad()
def test_tokens_loss_and_accuracies_of_a_batch_agree(
    reference: Any, parity: Any, name: str
) -> None:
    model = reference_transformer(reference.folder, name)
    data = reference.tensors(f"gpt/{name}.safetensors")
    batch = {key.split("/")[1]: value for key, value in data.items() if key.startswith("batch/")}
    parity.exact("video tokens of a batch", model.encode_to_z(batch["video"])[1], data["z_indices"])
    condition = batch["video" if model.unconditional else model.conditioner.batch_key]
    tokens = model.encode_to_c(condition)[1]
    parity.exact("condition tokens of a batch", tokens, data["c_indices"])
    loss, acc1, acc5 = model.shared_step(batch, 0)
    parity.close("GPT loss", loss, data["loss"], rtol=1e-5)
    parity.close("GPT accuracies", acc1, data["acc1"].squeeze(), rtol=1e-5)
    parity.close("GPT accuracies", acc5, data["acc5"].squeeze(), rtol=1e-5)


def test_accuracies_of_given_logits_agree(reference: Any, parity: Any) -> None:
    data = reference.tensors("gpt/accuracy.safetensors")
    for k, got in zip((1, 5), accuracy(data["logits"], data["target"], top_k=(1, 5)), strict=True):
        parity.close("GPT accuracies", got, data[f"acc{k}"].squeeze(), rtol=1e-6)


@torch.no_grad()
def test_greedy_tokens_of_the_uncached_sampler_are_equal(reference: Any, parity: Any) -> None:
    gpt = reference_gpt(reference.folder, "gpt_label")
    data = reference.tensors("gpt/gpt_label.safetensors")
    condition, want = data["c_indices"], data["taming_sample_greedy"]
    canvas, greedy = torch.full_like(want, -1), TokenFilter(temperature=0.0)
    tokens = fill(gpt, canvas, condition, whole(12), token_filter=greedy)
    parity.exact("greedy tokens, uncached", tokens, want)


# --- optimisers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in GPTS if not name.startswith("genuine")])
def test_adamw_groups_are_the_published_ones(reference: Any, parity: Any, name: str) -> None:
    model = reference_transformer(reference.folder, name)
    published = reference.json(f"gpt/{name}_adamw_groups.json")
    model.learning_rate = published[0]["lr"]
    names = {id(p): name for name, p in model.transformer.named_parameters()}
    groups = model.configure_optimizers().param_groups
    for group, want in zip(groups, published, strict=True):
        parity.same("AdamW groups", [names[id(p)] for p in group["params"]], want["params"])
        for key in ("betas", "lr", "eps", "weight_decay"):
            got = list(group[key]) if key == "betas" else group[key]
            parity.same("AdamW groups", [got], [want[key]])


def test_learning_rates_follow_the_published_rules(
    reference: Any, parity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    rules = {
        "vqgan": (vqgan_learning_rate, "lr"),
        "transformer": (transformer_learning_rate, "base_lr"),
    }
    for stage, cases in reference.json("meta.json")["lr_rule"].items():
        rule, flag = rules[stage]
        for case in cases:
            flags = {"gpus": str(case["ngpu"]), "batch_size": case["bs"], flag: case["base_lr"]}
            args = with_defaults({**flags, "accumulate_grad_batches": case["accumulate"]})
            parity.close("learning rates", rule(args), torch.tensor(case["lr"]), rtol=1e-6)


# --- going on ---------------------------------------------------------------------------------

QUIET = (
    "--num_workers 0 --progress_bar_refresh_rate 0 --enable_model_summary false"
    " --limit_val_batches 1 --num_sanity_val_steps 0 --log_every_n_steps 1"
)
GENUINE_VQGAN = (
    "--resolution 16 --sequence_length 4 --downsample 2 4 4 --n_codes 16 --embedding_dim 4"
    " --n_hiddens 2 --norm_type batch --disc_channels 4 --disc_layers 2 --no_random_restart"
    " --discriminator_iter_start 2 --batch_size 2"
)
GENUINE_GPT = (
    "--resolution 32 --sequence_length 16 --n_layer 2 --n_head 4 --n_embd 32 --block_size 64"
    " --batch_size 1"
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of seven classes."""
    root = tmp_path_factory.mktemp("videos")
    names = [f"{split}/class{i}/a" for split in ("train", "test") for i in range(7)]
    write_video_folders(root, dict.fromkeys(names, 18))
    return root


@pytest.mark.parametrize(
    ("stage", "tag"),
    [("vqgan", "vqgan_acc1"), ("vqgan", "vqgan_acc3"), ("transformer", "gpt_label")],
)
def test_training_goes_on_from_a_file_of_the_published_trainer(
    goldens: Path,
    parity: Any,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    tag: str,
) -> None:
    path = goldens / "ckpt" / f"genuine_pl154_{tag}.ckpt"
    stored = read_content(path, flag="x", mapped=False)
    done = stored["global_step"] - 1  # it counts one more than were done
    watch = watched(monkeypatch)
    rates = [state["param_groups"][0]["lr"] for state in stored["optimizer_states"]]
    # The rate asked for counts, not the file's: ask for the one the published run had.
    model = f"{GENUINE_VQGAN} --lr {rates[0] * 8 * 4 / 2}"  # is for 8 GPUs with 4 clips; here 1, 2
    if stage == "transformer":
        model = f"{GENUINE_GPT} --vqvae {goldens / 'ckpt/vq_a.ckpt'} --base_lr {rates[0]}"
    command = f"--data_path {videos} --default_root_dir {tmp_path} --max_steps {done + 1} {model}"
    script = load_script(f"train_{stage}.py")
    script.main(f"{command} --resume_from_checkpoint {path} {QUIET}".split())
    assert (watch.step, watch.last_step) == (done, done + 1)
    assert_moments_kept(watch, stored["optimizer_states"])
    assert watch.rates == pytest.approx(rates, rel=1e-12)
    kept = "transformer." if stage == "transformer" else ""
    compared = {
        name: tensor
        for name, tensor in stored["state_dict"].items()
        if name.startswith(kept) and not name.startswith("perceptual_model.")
        and not name.endswith("attn.mask")
    }  # fmt: skip
    assert compared
    for name, tensor in compared.items():  # the codebook and its counts among them
        parity.exact("weights training goes on from", watch.weights[name], tensor)
