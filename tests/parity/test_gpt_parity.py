"""The GPT against the published code: masks, logits, cached steps, at their stated tolerances."""

from __future__ import annotations

import pytest
import torch
from reference_models import reference_gpt
from torch import Tensor

from tats.models.gpt import GPT, KVCache, training_mask
from tats.sampling import Window
from tats.sampling.engines.plain import decode_one_token, prefill
from tats.sampling.slots import plan_slots

CAUSAL = ["gpt_label", "gpt_uncond", "gpt_text", "gpt_stft", "gpt_hier_ar", "gpt_hier_interp"]
GRID = "gpt_vtokens"


def load(reference, name: str) -> tuple[GPT, dict[str, Tensor]]:
    """A reference model and its outputs."""
    return (
        reference_gpt(reference.folder, name),
        reference.tensors(f"gpt/{name}.safetensors"),
    )


def same_columns(logits: Tensor) -> Tensor:
    """The columns that are stored of a large vocabulary."""
    return logits[..., ::53] if logits.shape[-1] >= 5000 else logits


def test_masks_are_equal(reference, parity) -> None:
    masks = reference.tensors("gpt/masks.safetensors")
    for name, mask in masks.items():
        block_size, n_unmasked = (
            int("".join(filter(str.isdigit, part))) for part in name.split("_")[1:]
        )
        parity.exact("GPT masks", training_mask(block_size, n_unmasked).float(), mask)
    assert len(masks) == 4


@pytest.mark.parametrize("name", [*CAUSAL, GRID])
@torch.no_grad()
def test_logits_of_the_full_pass_agree(reference, parity, name: str) -> None:
    gpt, data = load(reference, name)
    tokens = torch.cat([data["c_indices"], data["target"]], dim=1)[:, :-1]
    logits = gpt(tokens, cbox=data["batch/cbox"] if name == GRID else None)
    logits = logits[:, data["c_indices"].shape[1] - 1 :]
    if data["logits_is_strided_7_53"]:
        logits = logits[:, ::7, ::53]
    parity.activations("GPT logits", logits, data["logits"])


def crop_places(gpt: GPT, cbox: Tensor) -> Tensor | None:
    """Places in the model's grid of a crop's tokens, in raster order."""
    if gpt.vtokens_grid is None:
        return None
    places = torch.arange(gpt.vtokens_pos_emb[0, ..., 0].numel()).view(gpt.vtokens_grid)
    y0, y1, x0, x1 = cbox.tolist()
    return places[:, y0:y1, x0:x1].flatten()


def feed(gpt: GPT, tokens: Tensor, start: int, cache: KVCache, places: Tensor | None) -> Tensor:
    """Read tokens into the slots from ``start`` on; logits of the last."""
    slots = torch.arange(start, start + tokens.shape[1])
    hidden = gpt.forward_cached(
        tokens, slots, cache, video_positions=None if places is None else places[slots]
    )
    return gpt.head(hidden[:, -1])


@pytest.mark.parametrize("name", [*CAUSAL, GRID])
@torch.no_grad()
def test_cached_steps_agree_in_logits_keys_and_values(reference, parity, name: str) -> None:
    gpt, data = load(reference, name)
    n_samples = len(data["fwp_logits"])
    condition, target = data["c_indices"][:n_samples], data["target"][:n_samples]
    places = crop_places(gpt, data["batch/cbox"][0]) if name == GRID else None
    cache = gpt.new_cache(n_samples, condition.shape[1] + 5)
    logits = [feed(gpt, condition, 0, cache, places)]
    last = condition.shape[1] - 1
    keys_and_values = torch.stack([cache.keys[..., last, :], cache.values[..., last, :]], dim=1)
    parity.activations("GPT keys and values", keys_and_values, data["fwp_present0"])
    for i in range(5):
        slot = condition.shape[1] + i
        logits.append(feed(gpt, target[:, i : i + 1], slot, cache, places))
    steps = same_columns(torch.stack(logits, dim=1))
    parity.activations("GPT logits, cached", steps, data["fwp_logits"])


@torch.no_grad()
def test_greedy_tokens_of_a_grid_model_are_equal(reference, parity) -> None:
    gpt, data = load(reference, GRID)
    places = crop_places(gpt, data["batch/cbox"][0])
    cache, token, tokens = gpt.new_cache(1, 64), data["c_indices"][:1], []
    for slot in range(64):
        token = feed(gpt, token, slot, cache, places).argmax(dim=1, keepdim=True)
        tokens.append(token)
    parity.exact("greedy tokens, whole canvas", torch.cat(tokens, dim=1), data["greedy"])


@torch.no_grad()
def test_released_infill_prefill_and_first_step_agree(reference, parity) -> None:
    gpt, data = load(reference, "gpt_hier_interp")
    past, new, future = (tuple(range(start, stop)) for start, stop in ((0, 16), (16, 64), (64, 80)))
    plan = plan_slots(gpt, Window(write=new, past=past, future=future), 1, "released")
    cache = gpt.new_cache(2, plan.n_prefill + 1)
    video = data["target"][:, [*past, *future]]
    hidden = prefill(gpt, torch.cat([data["c_indices"], video], dim=1), plan, cache)
    parity.activations("GPT logits, infill", gpt.head(hidden), data["fwpf_logits_prefix"])
    hidden = decode_one_token(gpt, data["target"][:, 16], plan.n_prefill, plan, cache)
    parity.activations("GPT logits, infill", gpt.head(hidden)[:, None], data["fwpf_logits_step1"])
