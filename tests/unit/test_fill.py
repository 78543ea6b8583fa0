"""The sampling loop: equal to full forwards, one sample's tokens its own, mistakes refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from small_models import small_gpt
from torch import Tensor

from tats.flags import Interpolation
from tats.models.gpt import GPT
from tats.sampling import TokenFilter, Window, fill, filled_windows, infill, sliding, spatial, whole
from tats.sampling.engines.plain import prefill
from tats.sampling.slots import plan_slots

GREEDY = TokenFilter(temperature=0.0)
NARROW = TokenFilter(top_k=8, top_p=0.9)


def unknown(n_samples: int, n_tokens: int) -> Tensor:
    return torch.full((n_samples, n_tokens), -1)


def by_full_forwards(gpt: GPT, canvas: Tensor, condition: Tensor, schedule: list[Window]) -> Tensor:
    """Greedy tokens, each from its own uncached forward over the window's tokens so far."""
    canvas = canvas.clone()
    for window in schedule:
        for i, index in enumerate(window.write):
            video = canvas[:, [*window.past, *window.write[:i]]]
            logits = gpt(torch.cat([condition, video], dim=1))
            canvas[:, index] = logits[:, -1].argmax(dim=1)
    return canvas


@pytest.mark.parametrize(
    "schedule",
    [whole(11), sliding(6, 3, 1), sliding(6, 3, 2), spatial((3, 3, 3), (2, 2, 2), 1)],
    ids=["whole", "context-1", "context-2", "spatial"],
)
@pytest.mark.parametrize("n_condition", [1, 2])
def test_cached_decoding_equals_full_forwards(schedule: list[Window], n_condition: int) -> None:
    gpt = small_gpt(vocab_size=40)
    canvas = unknown(2, max(window.write[-1] for window in schedule) + 1)
    condition = torch.randint(40, (2, n_condition))
    expected = by_full_forwards(gpt, canvas, condition, schedule)
    assert torch.equal(fill(gpt, canvas, condition, schedule, token_filter=GREEDY), expected)


def test_spatial_windows_give_each_token_its_place_in_the_grid() -> None:
    gpt = small_gpt(vocab_size=40, vtokens_grid=(2, 3, 4))
    schedule = spatial((5, 3, 4), (2, 2, 3), context_frames=1)
    canvas, condition = unknown(2, 60), torch.zeros(2, 1, dtype=torch.int64)
    expected = canvas.clone()
    for token in range(60):
        t, y, x = token // 12, token // 4 % 3, token % 4
        t0, y0, x0 = max(t - 1, 0), min(max(y - 1, 0), 1), min(max(x - 1, 0), 1)
        box = expected.view(2, 5, 3, 4)[:, t0 : t0 + 2, y0 : y0 + 2, x0 : x0 + 3].flatten(1)
        n_known = ((t - t0) * 2 + y - y0) * 3 + x - x0
        cbox = torch.tensor([[y0, y0 + 2, x0, x0 + 3]]).expand(2, 4)
        inputs = torch.cat([condition, box[:, :n_known]], dim=1)
        expected[:, token] = gpt(inputs, cbox=cbox)[:, -1].argmax(dim=1)
    assert torch.equal(fill(gpt, canvas, condition, schedule, token_filter=GREEDY), expected)


def interpolation_model(tokens_per_frame: int, n_frames: int) -> GPT:
    block_size = tokens_per_frame * n_frames
    return small_gpt(vocab_size=40, block_size=block_size, n_unmasked=tokens_per_frame, n_layer=3)


def key_frame_canvas(n_frames: int, tokens_per_frame: int, stride: int) -> Tensor:
    canvas = unknown(2, n_frames * tokens_per_frame).view(2, n_frames, tokens_per_frame)
    canvas[:, ::stride] = torch.randint(40, canvas[:, ::stride].shape)
    return canvas.flatten(1)


def test_trained_infill_equals_the_full_training_forward() -> None:
    tokens_per_frame = 3
    gpt = interpolation_model(tokens_per_frame, n_frames=4)
    canvas = key_frame_canvas(4, tokens_per_frame, stride=3)
    condition = torch.randint(40, (2, 1))
    schedule = infill(4, tokens_per_frame, stride=3)
    result = fill(gpt, canvas, condition, schedule, token_filter=GREEDY, interpolation="trained")
    logits = gpt(torch.cat([condition, result], dim=1)[:, :-1])
    assert torch.equal(logits.argmax(dim=2)[:, 3:9], result[:, 3:9])
    assert torch.equal(result[:, :3], canvas[:, :3]) and torch.equal(result[:, 9:], canvas[:, 9:])


@pytest.mark.parametrize("interpolation", ["released", "trained"])
def test_infill_equals_one_uncached_pass_over_the_same_slots(interpolation: Interpolation) -> None:
    gpt, (window,) = interpolation_model(3, n_frames=4), infill(4, 3, stride=3)
    canvas, condition = key_frame_canvas(4, 3, stride=3), torch.zeros(2, 1, dtype=torch.int64)
    result = fill(
        gpt, canvas, condition, [window], token_filter=GREEDY, interpolation=interpolation
    )
    plan = plan_slots(gpt, window, 1, interpolation)
    inputs = torch.cat([condition, result[:, list(plan.canvas_indices)]], dim=1)
    hidden = prefill(gpt, inputs, plan, gpt.new_cache(2, inputs.shape[1]))
    rows = [plan.read_slot, *range(plan.n_prefill, inputs.shape[1])]
    assert torch.equal(gpt.head(hidden)[:, rows].argmax(dim=2), result[:, list(window.write)])


def test_trained_infill_never_reads_the_last_token_of_the_next_key_frame() -> None:
    gpt = interpolation_model(3, n_frames=4)
    canvas, condition = key_frame_canvas(4, 3, stride=3), torch.zeros(2, 1, dtype=torch.int64)
    changed = canvas.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 40
    schedule = infill(4, 3, stride=3)

    def new_tokens(start: Tensor, interpolation: Interpolation) -> Tensor:
        result = fill(
            gpt, start, condition, schedule, token_filter=GREEDY, interpolation=interpolation
        )
        return result[:, 3:9]

    assert torch.equal(new_tokens(canvas, "trained"), new_tokens(changed, "trained"))
    assert not torch.equal(new_tokens(canvas, "released"), new_tokens(changed, "released"))


@pytest.mark.parametrize("interpolation", ["released", "trained"])
def test_infilled_tokens_depend_on_both_key_frames(interpolation: Interpolation) -> None:
    gpt = interpolation_model(3, n_frames=4)
    condition = torch.zeros(2, 1, dtype=torch.int64)
    canvas = key_frame_canvas(4, 3, stride=3)
    results = []
    for frame in (None, 0, 3):
        changed = canvas.view(2, 4, 3).clone()
        if frame is not None:
            changed[:, frame] = (changed[:, frame] + 1) % 40
        tokens = fill(
            gpt, changed.flatten(1), condition, infill(4, 3, 3), token_filter=GREEDY,
            interpolation=interpolation,
        )  # fmt: skip
        results.append(tokens[:, 3:9])
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("token_filter", [NARROW, TokenFilter(top_p=0.9), TokenFilter()])
def test_a_sample_is_the_same_in_any_batch(token_filter: TokenFilter) -> None:
    gpt = small_gpt(vocab_size=40)
    condition, seeds = torch.randint(40, (5, 1)), [11, 12, 13, 14, 15]
    schedule = sliding(5, 3, 2)
    together = fill(
        gpt, unknown(5, 15), condition, schedule, token_filter=token_filter, seeds=seeds
    )
    assert len({tuple(row) for row in together.tolist()}) == 5
    for part in ([0], [4], [3, 1], [2, 0, 4]):
        some = fill(
            gpt, unknown(len(part), 15), condition[part], schedule, token_filter=token_filter,
            seeds=[seeds[i] for i in part],
        )  # fmt: skip
        assert torch.equal(some, together[part])


@pytest.mark.parametrize("n_known", [1, 4, 6, 7, 14, 15])
def test_an_interrupted_canvas_continues_as_if_it_had_not_been(n_known: int) -> None:
    gpt = small_gpt(vocab_size=40)
    condition, schedule = torch.randint(40, (2, 1)), sliding(5, 3, 2)
    settings: dict[str, Any] = {"token_filter": NARROW, "seeds": [3, 4]}
    at_once = fill(gpt, unknown(2, 15), condition, schedule, **settings)
    canvas = unknown(2, 15)
    canvas[:, :n_known] = at_once[:, :n_known]
    assert torch.equal(fill(gpt, canvas, condition, schedule, **settings), at_once)


@pytest.mark.parametrize("interpolation", ["released", "trained"])
@pytest.mark.parametrize("known", [[3], [3, 4, 5, 6], [3, 5, 7]])
def test_an_interrupted_infill_continues_too(
    interpolation: Interpolation, known: list[int]
) -> None:
    gpt = interpolation_model(3, n_frames=4)
    condition = torch.zeros(2, 1, dtype=torch.int64)
    start = key_frame_canvas(4, 3, stride=3)
    settings: dict[str, Any] = {
        "token_filter": NARROW,
        "seeds": [3, 4],
        "interpolation": interpolation,
    }
    at_once = fill(gpt, start, condition, infill(4, 3, 3), **settings)
    canvas = start.clone()
    canvas[:, known] = at_once[:, known]
    assert torch.equal(fill(gpt, canvas, condition, infill(4, 3, 3), **settings), at_once)


def test_known_tokens_are_kept_and_the_canvas_given_is_left_alone() -> None:
    gpt, condition = small_gpt(vocab_size=40), torch.zeros(2, 1, dtype=torch.int64)
    canvas = unknown(2, 12)
    canvas[:, 2:7] = torch.randint(40, (2, 5))
    before = canvas.clone()
    result = fill(gpt, canvas, condition, sliding(4, 3, 2), seeds=[0, 1])
    assert torch.equal(canvas, before)
    assert torch.equal(result[:, 2:7], before[:, 2:7])
    assert (result >= 0).all()
    assert torch.equal(fill(gpt, result, condition, sliding(4, 3, 2)), result)


def test_only_valid_tokens_are_drawn_as_if_the_others_did_not_exist() -> None:
    gpt = small_gpt(vocab_size=40)
    condition = torch.randint(40, (4, 1))
    sampled = fill(gpt, unknown(4, 12), condition, whole(12), valid_tokens=(7, 20))
    assert sampled.min() >= 7 and sampled.max() < 20
    greedy = fill(
        gpt, unknown(4, 1), condition, whole(1), token_filter=GREEDY, valid_tokens=(7, 20)
    )
    assert torch.equal(greedy, gpt(condition)[:, :, 7:20].argmax(dim=2) + 7)
    # The two likeliest of all tokens may both be invalid; top-k then still leaves valid ones.
    narrow = TokenFilter(top_k=2)
    drawn = {
        token
        for seed in range(40)
        for token in fill(gpt, unknown(1, 1), condition[:1], whole(1), token_filter=narrow,
                            seeds=[seed], valid_tokens=(7, 20)).flatten().tolist()
    }  # fmt: skip
    best = gpt(condition[:1])[0, 0, 7:20].topk(2).indices + 7
    assert drawn == set(best.tolist())


def test_draws_follow_the_model_given_the_seeds() -> None:
    gpt, n_samples = small_gpt(vocab_size=6), 4000
    condition = torch.zeros(n_samples, 1, dtype=torch.int64)
    first = fill(gpt, unknown(n_samples, 1), condition, whole(1), seeds=range(n_samples))
    share = torch.bincount(first.flatten(), minlength=6) / n_samples
    expected = gpt(condition[:1])[0, 0].softmax(dim=0)
    # Four standard deviations of a count.
    assert ((share - expected).abs() < 4 * (expected / n_samples).sqrt()).all()


def test_every_canvas_token_is_decided_by_a_number_of_its_own() -> None:
    gpt, n_samples = small_gpt(vocab_size=4), 500
    torch.nn.init.zeros_(gpt.head.weight)  # every token is equally likely
    condition = torch.zeros(n_samples, 1, dtype=torch.int64)
    tokens = fill(gpt, unknown(n_samples, 3), condition, whole(3), seeds=range(n_samples))
    counts = torch.bincount((tokens * torch.tensor([16, 4, 1])).sum(dim=1), minlength=64)
    expected = n_samples / 64
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 63 + 5 * (2 * 63) ** 0.5


def test_a_longer_canvas_begins_as_the_shorter_one() -> None:
    gpt, condition = small_gpt(vocab_size=40), torch.zeros(2, 1, dtype=torch.int64)
    short, long = (
        fill(gpt, unknown(2, 3 * n), condition, sliding(n, 3, 1), seeds=[5, 6]) for n in (3, 7)
    )
    assert torch.equal(long[:, :9], short)


def test_without_seeds_torch_decides_and_can_be_seeded() -> None:
    gpt, condition = small_gpt(vocab_size=40), torch.zeros(3, 1, dtype=torch.int64)
    torch.manual_seed(1)
    first, second = (fill(gpt, unknown(3, 12), condition, whole(12)) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(fill(gpt, unknown(3, 12), condition, whole(12)), first)
    assert not torch.equal(first, second)


def test_nothing_is_left_in_the_cache_between_windows_or_calls() -> None:
    gpt, condition = small_gpt(vocab_size=40), torch.zeros(1, 1, dtype=torch.int64)
    schedule = sliding(4, 3, 1)
    whole_run = fill(gpt, unknown(1, 12), condition, schedule, token_filter=GREEDY)
    other = whole_run.clone()
    other[:, :6] = (other[:, :6] + 1) % 40
    other[:, 6:9], other[:, 9:] = whole_run[:, 6:9], -1
    # Frame 3 sees frame 2 alone, whatever came before it.
    assert torch.equal(
        fill(gpt, other, condition, schedule, token_filter=GREEDY)[:, 9:], whole_run[:, 9:]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canvas": unknown(2, 12).float()}, r"canvas got torch.float32 \(2, 12\)"),
        ({"canvas": unknown(2, 12)[0]}, "canvas got"),
        ({"canvas": torch.full((2, 12), -2)}, "canvas got tokens -2"),
        ({"canvas": torch.full((2, 12), 40)}, "canvas got tokens 40 to 40; expected -1 to 39"),
        ({"canvas": torch.tensor([[-1] * 12, [1] + [-1] * 11])}, "different places"),
        ({"condition": torch.full((2, 1), -1)}, "condition got tokens -1"),
        ({"condition": torch.zeros(2, 0, dtype=torch.int64)}, "condition got"),
        ({"condition": torch.zeros(3, 1, dtype=torch.int64)}, "condition has 3"),
        ({"condition": torch.zeros(2, 2, dtype=torch.int64)}, "block_size 12"),
        ({"schedule": whole(11)}, "leaves 1 tokens unknown"),
        ({"seeds": [1]}, "seeds got 1 values; expected one for each of 2"),
        ({"valid_tokens": (7, 7)}, r"valid_tokens got \(7, 7\)"),
        ({"valid_tokens": (7, 41)}, r"valid_tokens got \(7, 41\)"),
        ({"interpolation": "published"}, "interpolation got 'published'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    settings: dict[str, Any] = {
        "canvas": unknown(2, 12),
        "condition": torch.zeros(2, 1, dtype=torch.int64),
        "schedule": whole(12),
    }
    with pytest.raises(ValueError, match=message):
        fill(small_gpt(vocab_size=40), **{**settings, **changes})


def test_trained_infill_needs_a_model_trained_for_it() -> None:
    canvas, condition = key_frame_canvas(4, 3, 3), torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="3 future tokens; the model was trained with n_unmasked"):
        fill(small_gpt(vocab_size=40), canvas, condition, infill(4, 3, 3),
               interpolation="trained")  # fmt: skip


@pytest.mark.parametrize(
    ("n_condition", "schedule", "message"),
    [
        (2, sliding(4, 4, 1), "condition got 2 tokens; expected 1"),
        (1, [Window(write=tuple(range(12)))], "window 0 spans 3 frames"),
        (1, infill(4, 4, 3), "window 0 has future tokens"),
    ],
)
def test_grid_models_refuse_what_they_have_no_place_for(
    n_condition: int, schedule: list[Window], message: str
) -> None:
    gpt = small_gpt(vocab_size=40, block_size=20, vtokens_grid=(2, 2, 2))
    n_tokens = max(max(w.write + w.future) for w in schedule) + 1
    canvas = unknown(1, n_tokens)
    for window in schedule:
        canvas[:, list(window.future + window.past)] = 0
    canvas[:, list(schedule[0].write)] = -1
    if not schedule[0].future:
        canvas[:] = -1
    with pytest.raises(ValueError, match=message):
        fill(gpt, canvas, torch.zeros(1, n_condition, dtype=torch.int64), schedule)


def test_windows_come_one_by_one_and_a_canvas_left_between_them_goes_on() -> None:
    gpt, condition = small_gpt(vocab_size=40), torch.randint(40, (2, 1))
    schedule = sliding(5, 3, 2)
    settings: dict[str, Any] = {"token_filter": NARROW, "seeds": [3, 4]}
    at_once = fill(gpt, unknown(2, 15), condition, schedule, **settings)
    for n_windows in range(len(schedule) + 1):
        canvas = unknown(2, 15)
        done = list(
            itertools.islice(
                filled_windows(gpt, canvas, condition, schedule, **settings), n_windows
            )
        )
        assert done == schedule[:n_windows]
        written = [index for window in done for index in window.write]
        assert torch.equal(canvas[:, written], at_once[:, written])
        assert (canvas >= 0).sum() == 2 * len(written)
        rest = list(filled_windows(gpt, canvas, condition, schedule, **settings))
        assert rest == schedule[n_windows:] and torch.equal(canvas, at_once)


def test_windows_of_two_canvases_may_come_in_turn() -> None:
    gpt, condition = small_gpt(vocab_size=40), torch.randint(40, (2, 1))
    schedule, canvases = sliding(5, 3, 2), [unknown(2, 15), unknown(2, 15)]
    iterators = [
        filled_windows(gpt, canvas, condition, schedule, token_filter=NARROW, seeds=seeds)
        for canvas, seeds in zip(canvases, ([1, 2], [3, 4]), strict=True)
    ]
    for _ in zip(*iterators, strict=True):
        pass
    for canvas, seeds in zip(canvases, ([1, 2], [3, 4]), strict=True):
        expected = fill(gpt, unknown(2, 15), condition, schedule, token_filter=NARROW, seeds=seeds)
        assert torch.equal(canvas, expected)
