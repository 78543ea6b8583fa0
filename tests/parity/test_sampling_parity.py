"""Every sampler's greedy tokens and clips against the published code's, token for token."""

from __future__ import annotations

import pytest
import torch
from reference_models import reference_gpt, reference_transformer
from torch import Tensor

from tats.models.gpt import GPT
from tats.models.transformer import Net2NetTransformer
from tats.sampling import TokenFilter, Window, fill, infill, sliding, spatial, whole

TOKENS_PER_FRAME = 16
GREEDY = TokenFilter(temperature=0.0)
START = torch.zeros(2, 1, dtype=torch.int64)


@pytest.fixture(scope="module")
def sampled(reference) -> dict[str, Tensor]:
    return reference.tensors("sampling/sampling.safetensors")


def greedy(gpt: GPT, condition: Tensor, schedule: list[Window], n_tokens: int) -> Tensor:
    canvas = torch.full((len(condition), n_tokens), -1)
    return fill(gpt, canvas, condition, schedule, token_filter=GREEDY)


def codes_of(model: Net2NetTransformer, tokens: Tensor) -> Tensor:
    """Codes of a 4x4 latent, tokens of the condition's vocabulary as code 0 (published)."""
    return (tokens - model.cond_vocab_size).clamp(min=0).unflatten(1, (-1, 4, 4))


@torch.no_grad()
def clips_of(model: Net2NetTransformer, codes: Tensor) -> Tensor:
    assert model.first_stage_model is not None
    return model.first_stage_model.decode(codes).clamp(-0.5, 0.5) + 0.5


def test_filtered_logits_are_equal(reference, parity) -> None:
    data = reference.tensors("sampling/filtering.safetensors")
    n_checked = 0
    for name, expected in data.items():
        parts = name.split("_")
        if len(parts) == 2 and parts[1].startswith("topp"):
            token_filter = TokenFilter(top_k=int(parts[0][4:]), top_p=float(parts[1][4:]))
            parity.exact("filtered logits", token_filter(data["logits"]), expected)
            n_checked += 1
    assert n_checked == 8
    parity.exact("filtered logits", TokenFilter(top_k=7)(data["logits"]), data["top_k_logits_7"])


@pytest.mark.parametrize(
    "name",
    ["gpt_label", "gpt_uncond", "gpt_text", "gpt_stft", "gpt_hier_ar", "gpt_hier_interp"],
)
def test_whole_canvases_are_equal(reference, parity, name: str) -> None:
    data = reference.tensors(f"gpt/{name}.safetensors")
    n_samples, n_tokens = data["greedy"].shape
    gpt = reference_gpt(reference.folder, name)
    tokens = greedy(gpt, data["c_indices"][:n_samples], whole(n_tokens), n_tokens)
    parity.exact("greedy tokens, whole canvas", tokens, data["greedy"])


@pytest.mark.parametrize("label", [0, 3])
def test_short_class_conditional_clips_agree(
    reference, parity, sampled: dict[str, Tensor], label: int
) -> None:
    model = reference_transformer(reference.folder, "gpt_label")
    tokens = greedy(model.transformer, torch.full((2, 1), label), whole(64), 64)
    clips = clips_of(model, codes_of(model, tokens))
    parity.activations("sampled clips", clips, sampled[f"short_label{label}_samples"])


def test_short_unconditional_clips_agree(reference, parity, sampled: dict[str, Tensor]) -> None:
    model = reference_transformer(reference.folder, "gpt_uncond")
    codes = codes_of(model, greedy(model.transformer, START[:1], whole(64), 64))
    parity.activations("sampled clips", clips_of(model, codes), sampled["short_uncond_samples"])


@pytest.mark.parametrize("context_frames", [1, 2])
@pytest.mark.parametrize(("kind", "token"), [("label", 2), ("uncond", 0)])
def test_sliding_windows_are_equal(
    reference, parity, sampled: dict[str, Tensor], kind: str, token: int, context_frames: int
) -> None:
    model = reference_transformer(reference.folder, f"gpt_{kind}")
    schedule = sliding(6, TOKENS_PER_FRAME, context_frames)
    codes = codes_of(model, greedy(model.transformer, START + token, schedule, 96))
    name = f"long_{kind}_pos{context_frames}"
    parity.exact("greedy tokens, sliding window", codes, sampled[f"{name}_index"])
    if f"{name}_video" in sampled:
        video = clips_of(model, codes[:1])
        parity.activations("sampled clips", video, sampled[f"{name}_video"])


@pytest.mark.parametrize(("context_frames", "n_key_frames"), [(1, 4), (2, 3)])
def test_hierarchical_sampling_is_equal(
    reference, parity, sampled: dict[str, Tensor], context_frames: int, n_key_frames: int
) -> None:
    keys = greedy(
        reference_gpt(reference.folder, "gpt_hier_ar"),
        START,
        sliding(n_key_frames, TOKENS_PER_FRAME, context_frames),
        n_key_frames * TOKENS_PER_FRAME,
    ).unflatten(1, (n_key_frames, -1))
    name = f"hier_pos{context_frames}"
    parity.exact(
        "greedy tokens, key frames", keys.unflatten(2, (4, 4)), sampled[f"{name}_lv1_index"]
    )

    model = reference_transformer(reference.folder, "gpt_hier_interp")
    n_frames = 4 * (n_key_frames - 1) + 1
    canvas = torch.full((2, n_frames, TOKENS_PER_FRAME), -1)
    canvas[:, ::4] = keys
    schedule = infill(n_frames, TOKENS_PER_FRAME, stride=4)
    tokens = fill(
        model.transformer, canvas.flatten(1), START, schedule, token_filter=GREEDY,
        interpolation="released",
    )  # fmt: skip
    frames = tokens.unflatten(1, (n_frames, -1))
    gaps = [frames[:, key + 1 : key + 4].flatten(1) for key in range(0, n_frames - 1, 4)]
    new = torch.stack(gaps, dim=1)
    parity.exact("greedy tokens, interpolation", new, sampled[f"{name}_lv2_new_tokens"])
    if f"{name}_samples" in sampled:
        clips = clips_of(model, codes_of(model, tokens))
        parity.activations("sampled clips", clips, sampled[f"{name}_samples"])


def test_spatial_windows_are_equal(reference, parity, sampled: dict[str, Tensor]) -> None:
    schedule = spatial((6, 6, 6), (4, 4, 4), context_frames=1)
    tokens = greedy(reference_gpt(reference.folder, "gpt_vtokens"), START, schedule, 216)
    tokens = tokens.view(2, 6, 6, 6)
    parity.exact("greedy tokens, spatial windows", tokens, sampled["sample_long_vtokens_index"])


def test_audio_conditioned_tokens_and_clips_agree(
    reference, parity, sampled: dict[str, Tensor]
) -> None:
    condition = reference.tensors("gpt/gpt_stft.safetensors")["c_indices"][:1]
    model = reference_transformer(reference.folder, "gpt_stft")
    tokens = greedy(model.transformer, condition, whole(64), 64)
    parity.exact("greedy tokens, audio", tokens, sampled["audio_tokens_raw"])
    clips = clips_of(model, codes_of(model, tokens))
    parity.activations("sampled clips", clips, sampled["audio_samples"])
