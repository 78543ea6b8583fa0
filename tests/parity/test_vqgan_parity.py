"""Encoder, codes, decoder, losses, gradients and discriminators against reference outputs."""

from __future__ import annotations

import contextlib
import re
from unittest.mock import patch

import pytest
import torch
from seeded_weights import seed_weights

from tats.models.lpips import LPIPS
from tats.models.vqgan import VQGAN, _pick_frames, load_vqgan
from tats.weights.checkpoint import load_weights, read_checkpoint

MODELS = ["vq_a", "vq_b", "vq_stft"]
STEPS = [("vq_a", 9999), ("vq_a", 10000), ("vq_b", 4), ("vq_b", 5), ("vq_stft", 0)]


def training_vqgan(reference, name: str) -> VQGAN:
    """The reference model with discriminators and its seeded perceptual model."""
    checkpoint = read_checkpoint(reference.folder / f"ckpt/{name}.ckpt", flag="", stage="vqgan")
    vqgan = VQGAN(checkpoint.args)
    load_weights(vqgan, checkpoint.state_dict, source=name, dropped=["perceptual_model."])
    vqgan.perceptual_model = LPIPS()
    seed = reference.json("configs.json")["vqgan"][name]["lpips_seed"]
    seed_weights(vqgan.perceptual_model, seed)
    return vqgan


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_encoding_and_decoding_match_also_on_longer_clips(reference, parity, name):
    vqgan = load_vqgan(reference.folder / f"ckpt/{name}.ckpt")
    data = reference.tensors(f"vqgan/{name}_io.safetensors")
    features = vqgan.encoder(data["x"])
    parity.activations("VQGAN encoder", features, data["encoder_out"])
    parity.activations("VQGAN encoder", vqgan.pre_vq_conv(features), data["pre_vq"])
    embeddings, codes = vqgan.encode(data["x"], include_embeddings=True)
    parity.exact("VQGAN codes", codes, data["encodings"])
    parity.activations("VQGAN embeddings", embeddings, data["embeddings"])
    parity.activations("VQGAN decode", vqgan.decode(codes), data["decode"])
    rand_codes = data["rand_codes"]
    parity.activations("VQGAN decode", vqgan.decode(rand_codes), data["decode_rand_codes"])
    longer = vqgan.encode(data["x_longer"])
    parity.exact("VQGAN codes, longer clip", longer, data["encodings_longer"])
    parity.activations("VQGAN decode, longer clip", vqgan.decode(longer), data["decode_longer"])


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_held_out_figures_and_discriminators_match(reference, parity, name):
    vqgan = training_vqgan(reference, name).eval()
    data = reference.tensors(f"vqgan/{name}_io.safetensors")
    video, frame_index = data["x"], data["frame_idx_val"]
    result = vqgan(video)
    recon = (result.video - video).abs().mean() * vqgan.args.l1_weight
    parity.close("VQGAN validation losses", recon, data["val_recon_loss"], rtol=1e-5)
    for figure in ("perplexity", "commitment_loss"):
        got = getattr(result.quantized, figure)
        parity.close("VQGAN validation losses", got, data[f"val_{figure}"], rtol=1e-5)
    real, fake = _pick_frames(video, frame_index), _pick_frames(result.video, frame_index)
    distance = vqgan.perceptual_model(real, fake) * vqgan.args.perceptual_weight
    want = data["val_perceptual_loss"]
    parity.close("VQGAN validation losses", distance.expand_as(want), want, rtol=1e-5)
    for kind, seen in (("image", real), ("video", video)):
        judged = vqgan.get_submodule(f"{kind}_discriminator")(seen)
        parity.activations("discriminators", judged.logits, data[f"disc_{kind}_logits_eval"])
        for layer, features in enumerate(judged.features):
            parity.activations("discriminators", features, data[f"disc_{kind}_feat{layer}"])


@contextlib.contextmanager
def recorded_restarts(data):
    """Replay the recorded permutation and noise in every codebook update."""
    recorded = {k.split("/")[1]: v for k, v in data.items() if k.startswith("restart/")}

    def randperm(n):
        return recorded[f"perm_{n}"]

    def randn_like(rows):
        return recorded["randn_like_{}x{}".format(*rows.shape)]

    with patch.multiple("tats.models.codebook.torch", randperm=randperm, randn_like=randn_like):
        yield


def compare_gradients(parity, group, vqgan, data, prefix):
    parameters = dict(vqgan.named_parameters())
    for key, want in data.items():
        if match := re.fullmatch(rf"{prefix}/grad(_norm)?/(.+)", key):
            gradient = parameters[match[2]].grad
            got = torch.zeros_like(parameters[match[2]]) if gradient is None else gradient
            if match[1]:
                parity.close(f"{group} norms", got.norm(), want, rtol=1e-3, atol=1e-5)
            else:
                parity.close(group, got, want, rtol=1e-3, atol=1e-5, of_largest=1e-4)


def compare_buffers(parity, vqgan, data):
    # The reference's "gen" buffers alias its "disc" ones: both were written after both forwards.
    state = vqgan.state_dict()
    for key, want in data.items():
        if key.startswith("disc/buffers_after/"):
            parity.activations("VQGAN buffers after a step", state[key.split("/")[2]], want)


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_losses_and_gradients_of_both_steps_match(reference, parity, name, step):
    vqgan = training_vqgan(reference, name).train()
    data = reference.tensors(f"vqgan/{name}_losses_gs{step}.safetensors")
    video = reference.tensors(f"vqgan/{name}_io.safetensors")["x"]
    with recorded_restarts(data):
        result = vqgan(video)
        losses = vqgan.generator_losses(video, result, data["frame_idx_gen"], step=step)
        losses.total.backward()
        parity.exact("VQGAN codes in training", result.quantized.codes, data["gen/encodings"])
        parity.close("generator losses", losses.total, data["gen/total"], rtol=1e-5)
        for key in (key for key in data if key.startswith("gen/log/train/")):
            got = losses.logged[key.split("/")[-1]]
            parity.close("generator losses", got, data[key], rtol=1e-5, atol=1e-7)
        compare_gradients(parity, "generator gradients", vqgan, data, "gen")

        vqgan.zero_grad()
        with torch.no_grad():
            result = vqgan(video)
        losses = vqgan.discriminator_losses(video, result.video, data["frame_idx_disc"], step=step)
        losses.total.backward()
        parity.close("discriminator losses", losses.total, data["disc/discloss"], rtol=1e-5)
        for key in (key for key in data if key.startswith("disc/log/train/")):
            got = losses.logged[key.split("/")[-1]]
            parity.close("discriminator losses", got, data[key], rtol=1e-5, atol=1e-7)
        compare_gradients(parity, "discriminator gradients", vqgan, data, "disc")
        compare_buffers(parity, vqgan, data)


@pytest.mark.parametrize("number", [0, 1])
@torch.no_grad()
def test_lpips_matches(reference, parity, number):
    data = reference.tensors(f"vqgan/lpips_{number}.safetensors")
    lpips = LPIPS()
    seed_weights(lpips, int(data["seed"]))
    parity.close("LPIPS", lpips(data["a"], data["b"]), data["out"], rtol=1e-5)
