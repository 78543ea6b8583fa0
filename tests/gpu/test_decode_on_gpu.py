"""Decoding on a GPU: captured steps give the tokens the processor gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_models import small_gpt
from tiny import tiny_vqgan

from tats.sampling import TokenFilter, engines, fill, infill, sliding, whole
from tats.sampling.engines import quantize_
from tats.sampling.pixels import FrameDecoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
FILTERS = [
    TokenFilter(temperature=0.0),
    TokenFilter(top_k=9, top_p=0.9),
    TokenFilter(top_p=0.8),
    TokenFilter(),
]


@pytest.fixture(autouse=True)
def exact_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("token_filter", FILTERS, ids=str)
@pytest.mark.parametrize("schedule", [whole(300), sliding(40, 16, 3)], ids=["whole", "sliding"])
def test_captured_steps_give_the_processors_tokens(token_filter: TokenFilter, schedule) -> None:
    gpt = small_gpt(vocab_size=40, block_size=300)
    n_tokens = schedule[-1].write[-1] + 1
    canvas, condition = torch.full((3, n_tokens), -1), torch.randint(40, (3, 1))
    settings: dict[str, Any] = {"token_filter": token_filter, "seeds": [1, 2, 3]}
    expected = fill(gpt, canvas, condition, schedule, **settings)
    on_gpu = copy.deepcopy(gpt).cuda()
    for _ in range(2):  # the second time replays what the first captured
        made = fill(on_gpu, canvas.cuda(), condition.cuda(), schedule, **settings).cpu()
        # Another order of additions may flip a token whose number lies on a boundary, and with
        # it the tokens behind it.
        same = (made == expected).all(dim=1)
        assert same.sum() >= 2


def test_captured_infill_sees_both_key_frames() -> None:
    gpt = small_gpt(vocab_size=40, block_size=12, n_unmasked=3, n_layer=3)
    canvas = torch.randint(40, (2, 12))
    canvas[:, 3:9] = -1
    condition = torch.zeros(2, 1, dtype=torch.int64)
    for interpolation in ("released", "trained"):
        settings: dict[str, Any] = {"token_filter": FILTERS[0], "interpolation": interpolation}
        expected = fill(gpt, canvas, condition, infill(4, 3, 3), **settings)
        on_gpu = copy.deepcopy(gpt).cuda()
        made = fill(on_gpu, canvas.cuda(), condition.cuda(), infill(4, 3, 3), **settings)
        assert torch.equal(made.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", ["full", "int8"])
def test_half_precision_and_int8_weights_sample(dtype: torch.dtype, weights: Any) -> None:
    gpt = small_gpt(vocab_size=40, block_size=64).to("cuda", dtype)
    if weights == "int8":
        quantize_(gpt)
    canvas = torch.full((4, 64), -1, device="cuda")
    condition = torch.zeros(4, 1, dtype=torch.int64, device="cuda")
    made = fill(gpt, canvas, condition, whole(64), seeds=range(4))
    assert made.min() >= 0 and made.max() < 40 and len(set(made.flatten().tolist())) > 5


def test_a_step_waits_for_no_token() -> None:
    gpt = small_gpt(vocab_size=40, block_size=64).cuda()
    canvas = torch.full((2, 64), -1, device="cuda")
    condition = torch.zeros(2, 1, dtype=torch.int64, device="cuda")
    fill(gpt, canvas, condition, whole(64), seeds=[0, 1])
    engine = engines._kept[gpt].engine
    engine.cache.length = 1
    engine._slot.fill_(1)
    token = engine._token[:, 0]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(1, 40):
            token = engine.step(token)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_frames_agree_with_the_processors() -> None:
    vqgan, codes = tiny_vqgan(), torch.randint(32, (9, 4, 4))
    expected = FrameDecoder(vqgan)(codes[None])
    made = FrameDecoder(vqgan.cuda(), latents_per_piece=4)(codes[None].cuda())
    assert (made.int() - expected.int()).abs().max() <= 1
