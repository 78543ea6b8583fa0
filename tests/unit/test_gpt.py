"""The GPT: what may influence what, and that its two ways through agree."""

from __future__ import annotations

import pytest
import torch
from small_models import small_gpt
from torch import Tensor

from tats.models.gpt import GPT, training_mask


def influence(gpt: GPT, tokens: Tensor) -> Tensor:
    """Bool (S, S): does the output at row depend on the token at column?"""
    embedded = gpt.tok_emb(tokens).detach().requires_grad_()
    hook = gpt.tok_emb.register_forward_hook(lambda *_: embedded)
    logits = gpt(tokens)
    hook.remove()
    rows = []
    for row in range(tokens.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, row].sum(), embedded, retain_graph=True)
        rows.append(gradient.abs().amax(dim=(0, 2)) > 0)
    return torch.stack(rows)


def test_masks_follow_the_rule_by_hand() -> None:
    assert torch.equal(training_mask(3), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool())
    by_hand = torch.tensor(
        [  # n_unmasked 2: columns 0-2 and the last one are open, its row skips what is between
            [1, 1, 1, 0, 0, 1],
            [1, 1, 1, 0, 0, 1],
            [1, 1, 1, 0, 0, 1],
            [1, 1, 1, 1, 0, 1],
            [1, 1, 1, 1, 1, 1],
            [1, 1, 1, 0, 0, 1],
        ]
    ).bool()
    assert torch.equal(training_mask(6, 2), by_hand)


@pytest.mark.parametrize("n_unmasked", [0, 2, 3, 5])
@pytest.mark.parametrize("n_tokens", [12, 7])
def test_gradients_flow_exactly_where_the_mask_allows(n_unmasked: int, n_tokens: int) -> None:
    gpt = small_gpt(n_unmasked=n_unmasked, n_layer=1)
    expected = training_mask(12, n_unmasked)[:n_tokens, :n_tokens]
    assert torch.equal(influence(gpt, torch.randint(11, (1, n_tokens))), expected)


def test_deep_causal_model_never_looks_ahead() -> None:
    seen = influence(small_gpt(n_layer=3), torch.randint(11, (2, 12)))
    assert torch.equal(seen, training_mask(12))


def test_cache_gives_what_the_full_pass_gives_however_it_is_filled() -> None:
    gpt, tokens = small_gpt(), torch.randint(11, (3, 12))
    expected = gpt(tokens)
    for steps in ([12], [1] * 12, [5, 1, 4, 2]):
        cache = gpt.new_cache(3, 12)
        hidden, start = [], 0
        for n in steps:
            part = slice(start, start + n)
            hidden.append(gpt.forward_cached(tokens[:, part], torch.arange(12)[part], cache))
            start += n
        torch.testing.assert_close(gpt.head(torch.cat(hidden, dim=1)), expected)


def test_cache_refuses_more_than_it_holds_and_can_be_reset() -> None:
    gpt, tokens = small_gpt(), torch.randint(11, (1, 4))
    cache = gpt.new_cache(1, 4)
    first = gpt.forward_cached(tokens, torch.arange(4), cache)
    with pytest.raises(ValueError, match="cache got 5 slots; expected at most 4"):
        gpt.forward_cached(tokens[:, :1], torch.tensor([4]), cache)
    cache.reset()
    torch.testing.assert_close(gpt.forward_cached(tokens, torch.arange(4), cache), first)


def test_crop_boxes_choose_rows_of_the_video_position_embedding() -> None:
    gpt = small_gpt(vtokens_grid=(3, 4, 5))
    tokens = torch.randint(11, (1, 8)).expand(2, 8)
    cbox = torch.tensor([[1, 3, 2, 4], [0, 2, 0, 2]])
    tbox = torch.tensor([[1, 3], [0, 2]])
    together = gpt(tokens, cbox=cbox, tbox=tbox)
    for i, ((y, _, x, _), (t, _)) in enumerate(zip(cbox.tolist(), tbox.tolist(), strict=True)):
        crop = gpt.vtokens_pos_emb[0, t : t + 2, y : y + 2, x : x + 2].reshape(8, -1)
        plain = small_gpt()
        plain.load_state_dict(gpt.state_dict(), strict=False)
        plain.pos_emb.data[0, :8] += crop.data
        torch.testing.assert_close(together[i], plain(tokens[:1])[0])
    # Without a time box the crop starts at frame 0.
    first_frames = gpt(tokens, cbox=cbox, tbox=torch.tensor([[0, 3], [0, 3]]))
    torch.testing.assert_close(gpt(tokens, cbox=cbox), first_frames)


@pytest.mark.parametrize(
    ("cbox", "message"),
    [
        (None, "cbox got None"),
        ([[0, 2, 4, 6]], "inside the grid"),
        ([[2, 2, 0, 2]], "inside the grid"),
        ([[-1, 1, 0, 2]], "inside the grid"),
        ([[0, 1, 0, 2]], "for 8 tokens"),
    ],
)
def test_crop_boxes_outside_the_grid_are_refused(cbox: list | None, message: str) -> None:
    gpt = small_gpt(vtokens_grid=(3, 4, 5))
    with pytest.raises(ValueError, match=message):
        gpt(torch.zeros(1, 8, dtype=torch.int64), None if cbox is None else torch.tensor(cbox))


def test_inputs_longer_than_the_block_are_refused() -> None:
    with pytest.raises(ValueError, match="got 13 tokens; expected at most block_size 12"):
        small_gpt()(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match="n_embd got 9; expected a multiple of n_head 2"):
        small_gpt(n_embd=9)


def test_fresh_weights_have_the_published_distribution_and_names() -> None:
    gpt = GPT(vocab_size=300, block_size=12, n_layer=2, n_head=2, n_embd=64, n_unmasked=3,
              vtokens_grid=(1, 2, 3))  # fmt: skip
    state = gpt.state_dict()
    assert not any("mask" in name for name in state)
    for name in ("tok_emb.weight", "head.weight", "blocks.1.attn.query.weight",
                 "blocks.0.mlp.2.weight"):  # fmt: skip
        assert state[name].std().item() == pytest.approx(0.02, rel=0.05)
    zeros = ("pos_emb", "vtokens_pos_emb", "blocks.0.attn.key.bias", "blocks.1.mlp.0.bias")
    assert all(not state[name].any() for name in zeros)
    assert state["ln_f.weight"].eq(1).all() and not state["ln_f.bias"].any()
    assert state["pos_emb"].shape == (1, 12, 64)
    assert state["vtokens_pos_emb"].shape == (1, 1, 2, 3, 64)
    assert "head.bias" not in state


def test_skipped_logits_leave_the_others_as_they_are() -> None:
    gpt, tokens = small_gpt(), torch.randint(11, (2, 9))
    torch.testing.assert_close(gpt(tokens, n_skipped=4), gpt(tokens)[:, 4:])
