"""What is always float32 (docs/ARCHITECTURE.md, "Precision"): under autocast, and after a cast."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from tiny import VQGAN_FLAGS, tiny_transformer, tiny_vqgan
from torch import nn
from torch.utils.data import DataLoader

from tats.evaluation.distances import frechet_distance, polynomial_mmd
from tats.models.codebook import Codebook
from tats.models.discriminator import (
    Judgement,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)
from tats.models.lpips import LPIPS, WIDTHS
from tats.models.precision import Adam, AdamW
from tats.models.transformer import Net2NetTransformer
from tats.models.vqgan import VQGAN
from tats.randomness import draw_keys
from tats.sampling.draw import TokenFilter, draw_token
from tats.training.precision import choose_precision

CASTS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
WAYS = [f"autocast {name}" for name in ("bfloat16", "float16")]
WAYS += [f"cast to {name}" for name in CASTS]


@contextmanager
def computing(way: str, module: nn.Module) -> Iterator[None]:
    """Run the block under autocast, or with the module cast."""
    kind, _, name = way.rpartition(" ")
    if kind == "autocast":
        with torch.autocast("cpu", dtype=CASTS[name]):
            yield
    else:
        module.to(CASTS[name])
        yield


def clustered(codebook: Codebook) -> Codebook:
    """Codes close to each other compared with their length, as half precision cannot tell."""
    offset = torch.full_like(codebook.embeddings, 8.0)
    codebook.embeddings.copy_(offset + 0.05 * torch.randn(codebook.embeddings.shape))
    codebook.z_avg.copy_(codebook.embeddings)
    codebook.N.fill_(1.0)
    return codebook


def clustered_vqgan(**flags: object) -> VQGAN:
    """A VQGAN whose codes are features of clips, as training leaves them, far from zero."""
    vqgan = tiny_vqgan(**flags)
    vqgan.pre_vq_conv.conv.bias.data.fill_(8.0)
    channels = vqgan.args.image_channels
    clips = torch.rand(4, channels, 16, 16, 16) - 0.5
    with torch.no_grad():
        features = vqgan.pre_vq_conv(vqgan.encoder(clips)).movedim(1, -1).flatten(0, -2)
    codebook = vqgan.codebook
    codebook.embeddings.copy_(features[torch.randperm(len(features))[: codebook.n_codes]])
    return vqgan


# --- the codebook -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_codes_are_those_of_float32(way):
    codebook = clustered(Codebook(n_codes=64, embedding_dim=8)).eval()
    features = 8 + 0.05 * torch.randn(2, 8, 4, 4, 4)
    expected = codebook.encode(features)
    assert len(expected.unique()) > 16
    with computing(way, codebook):
        assert torch.equal(codebook.encode(features), expected)
        assert torch.equal(codebook(features).codes, expected)
        assert torch.equal(
            codebook.lookup(expected)[0, :, 0, 0, 0], codebook.embeddings[expected[0, 0, 0, 0]]
        )


@pytest.mark.parametrize("way", WAYS)
def test_the_codebook_learns_in_float32(way):
    torch.manual_seed(1)
    plain = clustered(Codebook(n_codes=16, embedding_dim=4, random_restart=False))
    other = Codebook(n_codes=16, embedding_dim=4, random_restart=False)
    other.load_state_dict(plain.state_dict())
    batches = 8 + 0.05 * torch.randn(3, 2, 4, 2, 4, 4)
    with computing(way, other):
        for features in batches:
            torch.manual_seed(2)
            other(features)
    for features in batches:
        torch.manual_seed(2)
        plain(features)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


# --- the frozen first stage -------------------------------------------------------------------


def _video_codes(model: Net2NetTransformer) -> torch.Tensor:
    video = torch.rand(2, 3, 16, 16, 16, generator=torch.Generator().manual_seed(3)) - 0.5
    return model.encode_to_z(video)[1]


def _sound_tokens(model: Net2NetTransformer) -> torch.Tensor:
    sound = torch.rand(2, 1, 16, 64, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return model.encode_to_c(sound)[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tokens_of", [_video_codes, _sound_tokens])
def test_frozen_vqgans_encode_in_float32(way, tokens_of: Callable):
    sound_flags = {"image_channels": 1, "downsample": (4, 4, 4), "stft_data": True}
    model = tiny_transformer(
        clustered_vqgan(),
        cond_stage_key="stft",
        cond_stage_model=clustered_vqgan(**sound_flags),
        block_size=320,
    )
    names = list(model.state_dict())
    expected = tokens_of(model)
    assert len(expected.unique()) > 8
    with computing(way, model):
        assert torch.equal(tokens_of(model), expected)
        loss, _, _ = model.shared_step(
            {"video": torch.rand(2, 3, 16, 16, 16) - 0.5, "stft": torch.rand(2, 1, 16, 64, 16)}, 0
        )
    assert loss.dtype == torch.float32
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("way", WAYS)
def test_a_vqgan_being_trained_encodes_and_decodes(way):
    vqgan = clustered_vqgan()
    video = torch.rand(1, 3, 16, 16, 16) - 0.5
    with computing(way, vqgan), torch.no_grad():
        codes = vqgan.encode(video)
        assert vqgan.decode(codes).shape == video.shape
        assert vqgan(video).video.shape == video.shape


# --- losses -----------------------------------------------------------------------------------


def judgement(*layers: torch.Tensor) -> Judgement:
    return Judgement(layers[-1], list(layers))


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "generator": lambda a, b: generator_loss(judgement(a, b)),
    "hinge": lambda a, b: discriminator_loss("hinge", judgement(a), judgement(b)),
    "vanilla": lambda a, b: discriminator_loss("vanilla", judgement(a), judgement(b)),
    "features": lambda a, b: feature_matching_loss(judgement(a, b), judgement(b, a)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_are_added_up_in_float32(name, dtype):
    a, b = torch.randn(2, 4, 1, 40, 40).to(dtype)
    expected = LOSSES[name](a.float(), b.float())
    with torch.autocast("cpu", dtype=dtype):
        assert LOSSES[name](a, b).dtype == torch.float32
        assert torch.equal(LOSSES[name](a, b), expected)


@pytest.mark.parametrize("way", WAYS)
def test_perceptual_activations_are_compared_in_float32(way, monkeypatch):
    lpips = LPIPS()
    for number in range(5):
        lpips.get_submodule(f"lin{number}.model.1").weight.data.uniform_()
    dtype = CASTS[way.rpartition(" ")[2]]
    activations = [torch.randn(2, 2, width, 4, 4).to(dtype) for width in WIDTHS]

    def distance(convert: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        answers = iter([[convert(pair[side]) for pair in activations] for side in range(2)])
        monkeypatch.setattr(lpips.net, "forward", lambda frames: next(answers))
        return lpips(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))

    expected = distance(torch.Tensor.float)
    with computing(way, lpips):
        assert torch.equal(distance(lambda pair: pair), expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_cast_leaves_the_perceptual_model_as_it_is(way):
    lpips, (a, b) = LPIPS(), torch.rand(2, 1, 3, 16, 16) - 0.5
    expected = lpips(a, b)
    with computing(way, lpips):
        got = lpips(a, b)
    assert got.dtype == torch.float32
    if way.startswith("cast"):
        assert torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_all_losses_of_the_vqgan_are_float32(way):
    flags = {"perceptual_weight": 1.0, "gan_feat_weight": 4.0, "discriminator_iter_start": 0}
    vqgan = VQGAN({**VQGAN_FLAGS, **flags}, perceptual_model=LPIPS()).train()
    video, frames = torch.rand(2, 3, 8, 16, 16) - 0.5, torch.zeros(2, dtype=torch.int64)
    with computing(way, vqgan):
        result = vqgan(video)
        generator = vqgan.generator_losses(video, result, frames, step=0)
        discriminator = vqgan.discriminator_losses(video, result.video, frames, step=0)
    names = ("recon_loss", "perceptual_loss", "commitment_loss", "aeloss", "image_gan_feat_loss")
    losses = [generator.total, discriminator.total, *(generator.logged[name] for name in names)]
    assert {loss.dtype for loss in losses} == {torch.float32}


# --- sampling and metrics ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("top_k", [0, 50])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_logits_are_filtered_and_drawn_from_in_float32(dtype, top_k, top_p):
    token_filter = TokenFilter(top_k=top_k, top_p=top_p, temperature=0.7)
    logits, keys = (3 * torch.randn(64, 3000)).to(dtype), draw_keys(range(64), 1)[:, 0]
    filtered = token_filter(logits.float())
    drawn = draw_token(token_filter, logits.float(), keys)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(token_filter(logits), filtered)
        assert torch.equal(draw_token(token_filter, logits, keys), drawn)


@pytest.mark.parametrize("distance", [frechet_distance, polynomial_mmd])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_metrics_are_computed_in_float64_whatever_the_features_are(distance, dtype):
    x, y = (torch.randn(2, 40, 8) + 30).to(dtype)
    expected = distance(x.double(), y.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert distance(x, y) == expected


# --- training ---------------------------------------------------------------------------------


def train(model: pl.LightningModule, batches: list, precision: str, **flags: Any) -> pl.Trainer:
    """Train for an epoch as the scripts do, in a format by its name; float16 has a scaler here."""
    if precision == "16":
        flags["plugins"] = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]
    elif isinstance(chosen := choose_precision(precision, "cpu"), str):
        flags["precision"] = chosen
    else:
        flags["plugins"] = [chosen]
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, **quiet, **flags)
    trainer.fit(model, DataLoader(batches, batch_size=None))
    return trainer


PRECISIONS = ["32", "bf16", "16", "bf16-true", "64"]
quietly = pytest.mark.filterwarnings("ignore::UserWarning")


@quietly
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_transformer_is_trained_on_the_codes_of_float32(precision):
    vqgan = clustered_vqgan()
    videos = torch.rand(3, 2, 3, 16, 16, 16) - 0.5
    expected = [vqgan.encode(video).flatten(1) for video in videos]
    model, seen = tiny_transformer(vqgan, unconditional=True), []
    model.transformer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    trainer = train(model, [{"video": video} for video in videos], precision)
    assert trainer.global_step == 3
    for tokens, codes in zip(seen, expected, strict=True):
        assert torch.equal(tokens[:, 1:], codes[:, :-1])  # a start token before, the last unread
    assert len(torch.cat(expected).unique()) > 8
    _check_moments(trainer)


@quietly
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_vqgan_trains_in_every_format(precision, accumulate):
    flags = {"discriminator_iter_start": 1, "gradient_clip_val": 1.0, "perceptual_weight": 1.0,
             "gan_feat_weight": 4.0, "lr": 1e-2, "accumulate_grad_batches": accumulate}  # fmt: skip
    vqgan = VQGAN({**VQGAN_FLAGS, **flags}, perceptual_model=LPIPS())
    before = {name: p.detach().float().clone() for name, p in vqgan.named_parameters()}
    videos = torch.rand(4, 1, 3, 8, 16, 16) - 0.5
    trainer = train(vqgan, [{"video": video} for video in videos], precision)
    assert trainer.global_step == 4 // accumulate
    for name, parameter in vqgan.named_parameters():
        assert parameter.isfinite().all()
        if name.startswith("perceptual_model."):
            assert torch.equal(parameter, before[name])
        elif parameter.ndim > 1:  # some biases have no effect before a norm
            assert not torch.equal(parameter.detach().float(), before[name]), name
    assert {buffer.dtype for buffer in vqgan.codebook.buffers()} == {torch.float32}
    _check_moments(trainer)


def _check_moments(trainer: pl.Trainer) -> None:
    for optimizer in trainer.optimizers:
        assert optimizer.state
        for parameter, state in optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                assert state[name].dtype == torch.promote_types(parameter.dtype, torch.float32)


# --- optimisers -------------------------------------------------------------------------------


def _steps(optimizer: torch.optim.Optimizer, gradients: torch.Tensor) -> None:
    (parameter,) = optimizer.param_groups[0]["params"]
    for gradient in gradients:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_too_small_for_half_precision_add_up(kind, dtype):
    gradients = torch.randn(200, 5).to(dtype).float()
    single, half = (torch.nn.Parameter(torch.ones(5, dtype=d)) for d in (torch.float32, dtype))
    for parameter in (single, half):
        _steps(kind([parameter], lr=1e-4), gradients)
    assert not torch.equal(half, torch.ones_like(half))
    assert torch.equal(half, single.to(dtype))


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_an_optimiser_of_half_precision_goes_on_exactly_where_it_was_saved(kind):
    gradients = torch.randn(6, 5)
    whole, first = (torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16)) for _ in range(2))
    _steps(kind([whole], lr=1e-3), gradients)
    saved = kind([first], lr=1e-3)
    _steps(saved, gradients[:3])
    second = torch.nn.Parameter(first.detach().clone())
    resumed = kind([second], lr=1e-3)
    resumed.load_state_dict(saved.state_dict())
    _steps(resumed, gradients[3:])
    assert torch.equal(second, whole)
    # In float32 it goes on without the copies, which would soon be out of date.
    single = torch.nn.Parameter(first.detach().float())
    other = kind([single], lr=1e-3)
    other.load_state_dict(saved.state_dict())
    assert set(other.state[single]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_parameters_of_float32_are_stepped_as_torch_steps_them(kind):
    gradients = torch.randn(6, 5)
    ours, torchs = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(5))
    _steps(getattr(torch.optim, kind)([torchs], lr=1e-2), gradients)
    optimizer, n_calls = {"Adam": Adam, "AdamW": AdamW}[kind]([ours], lr=1e-2), []
    optimizer.register_step_pre_hook(lambda *_: n_calls.append(1))
    _steps(optimizer, gradients)
    assert torch.equal(ours, torchs)
    assert len(n_calls) == 6  # a hook is called once a step


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_how_parameters_are_stepped_follows_their_device_and_not_the_checkpoint(kind):
    gradients = torch.randn(6, 5)
    parameter, other = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    whole = kind([parameter], lr=1e-2)
    assert whole.param_groups[0]["fused"]
    _steps(whole, gradients[:3])
    other.data.copy_(parameter)
    state = copy.deepcopy(whole.state_dict())
    state["param_groups"][0].update(fused=None, foreach=True, lr=5e-3)  # as elsewhere
    resumed = kind([other], lr=1e-2)
    resumed.load_state_dict(state)
    assert state["param_groups"][0]["foreach"]  # what was given is left as it is
    group = resumed.param_groups[0]
    assert (group["fused"], group["foreach"], group["lr"]) == (True, None, 5e-3)
    whole.param_groups[0]["lr"] = 5e-3
    _steps(whole, gradients[3:])
    _steps(resumed, gradients[3:])
    assert torch.equal(other, parameter)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_gradients_are_clipped_between_unscaling_and_the_step(kind):
    parameter = torch.nn.Parameter(torch.ones(5))
    optimizer = kind([parameter], lr=1e-2)
    assert not optimizer._step_supports_amp_scaling  # or Lightning refuses to clip in float16
