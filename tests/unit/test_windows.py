"""Schedules of windows: what each sampler writes and reads, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from tats.sampling import Window, check_schedule, infill, sliding, spatial, whole
from tats.sampling.windows import longest_window


def frames(*numbers: int, tokens: int = 2) -> tuple[int, ...]:
    return tuple(itertools.chain(*(range(n * tokens, (n + 1) * tokens) for n in numbers)))


def test_whole_writes_everything_at_once() -> None:
    assert whole(3) == [Window(write=(0, 1, 2))]


def test_sliding_writes_the_context_and_then_frame_by_frame() -> None:
    assert sliding(4, tokens_per_frame=2, context_frames=2) == [
        Window(write=frames(0, 1)),
        Window(write=frames(2), past=frames(0, 1)),
        Window(write=frames(3), past=frames(1, 2)),
    ]


def test_sliding_shorter_than_its_context_is_one_window() -> None:
    assert sliding(2, tokens_per_frame=3, context_frames=5) == whole(6)


def test_infill_writes_between_neighbouring_key_frames() -> None:
    assert infill(5, tokens_per_frame=2, stride=2) == [
        Window(write=frames(1), past=frames(0), future=frames(2)),
        Window(write=frames(3), past=frames(2), future=frames(4)),
    ]


def test_spatial_window_is_the_whole_canvas_where_sizes_agree() -> None:
    schedule = spatial((2, 2, 2), (2, 2, 2), context_frames=1)
    assert list(schedule) == [Window(write=(i,), past=tuple(range(i))) for i in range(8)]


@pytest.mark.parametrize("canvas", [5, 6, 9])
@pytest.mark.parametrize("window", [1, 2, 4, 5])
def test_spatial_windows_sit_as_published_on_every_axis(canvas: int, window: int) -> None:
    def local_index(i: int, centre: int) -> int:
        if i <= centre:
            return i
        left = canvas - i
        return window - left if left <= window - centre else centre

    for centre in range(window):  # in time the centre is the number of context frames
        column = spatial((canvas, 1, 1), (window, 1, 1), context_frames=centre)
        for i, box in enumerate(column):
            start = i - local_index(i, centre)
            assert box == Window(write=(i,), past=tuple(range(start, i)))
    row = spatial((1, 1, canvas), (1, 1, window), context_frames=0)
    for i, box in enumerate(row):
        assert box.past == tuple(range(i - local_index(i, window // 2), i))


def test_spatial_windows_skip_what_lies_outside_their_box() -> None:
    last = spatial((2, 3, 3), (2, 2, 2), context_frames=1)[-1]
    assert last == Window(write=(17,), past=(4, 5, 7, 8, 13, 14, 16))


@pytest.mark.parametrize(
    ("schedule", "known"),
    [
        (whole(6), ()),
        (sliding(6, 2, 3), ()),
        (sliding(6, 2, 1), frames(0, 1)),
        (infill(9, 2, 4), frames(0, 4, 8)),
        (spatial((3, 4, 5), (2, 3, 4), 1), ()),
    ],
    ids=["whole", "sliding", "primed", "infill", "spatial"],
)
def test_every_schedule_passes_its_own_check(schedule: list[Window], known: tuple) -> None:
    n_tokens = max(max(window.write + window.future) for window in schedule) + 1
    longest = max(window.n_tokens for window in schedule)
    check_schedule(schedule, n_tokens=n_tokens, known=known, block_size=longest)
    with pytest.raises(ValueError, match=f"expected at most block_size {longest - 1}"):
        check_schedule(schedule, n_tokens=n_tokens, known=known, block_size=longest - 1)


def test_a_window_may_fill_the_block_because_its_last_token_is_never_fed() -> None:
    check_schedule(whole(8), n_tokens=8, n_condition_tokens=1, block_size=8)
    with pytest.raises(ValueError, match="needs 9 inputs"):
        check_schedule(whole(8), n_tokens=8, n_condition_tokens=2, block_size=8)


@pytest.mark.parametrize(
    ("schedule", "known", "message"),
    [
        ([Window(write=(0, 1)), Window(write=(1, 2))], (), "window 1 writes token 1, which was"),
        ([Window(write=(0, 0, 1, 2))], (), "window 0 writes token 0, which was"),
        ([Window(write=(0,), past=(1,)), Window(write=(1, 2))], (), "reads token 1 before"),
        ([Window(write=(0,), past=(0,))], (), "reads token 0 before"),
        (infill(3, 1, 2), (0,), "window 0 reads token 2 before"),
        ([Window(write=(0, 1, 3))], (), "writes token 3; expected 0 to 2"),
        ([Window(write=(-1, 0, 1, 2))], (), "writes token -1"),
        ([Window(write=())], (0, 1, 2), "window 0 writes no token"),
        ([Window(write=(0,))], (1,), "leaves 1 tokens unknown; the first is 2"),
        ([], (), "leaves 3 tokens unknown; the first is 0"),
    ],
)
def test_schedules_that_cannot_work_are_refused(
    schedule: list[Window], known: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_schedule(schedule, n_tokens=3, known=known)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: whole(0), "n_tokens got 0"),
        (lambda: sliding(0, 1, 1), "n_frames got 0"),
        (lambda: sliding(3, 1, 0), "context_frames got 0"),
        (lambda: infill(6, 1, 4), "n_frames got 6; expected a multiple of stride 4 plus 1"),
        (lambda: infill(5, 1, 1), "stride got 1; expected at least 2"),
        (lambda: spatial((2, 2, 2), (2, 3, 2), 1), "window_shape got"),
        (lambda: spatial((2, 2, 2), (2, 2, 2), 2), "context_frames got 2; expected 0 to 1"),
        (lambda: spatial((2, 0, 2), (2, 2, 2), 1), "canvas rows got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_spatial_windows_are_made_when_asked_for() -> None:
    schedule = spatial((256, 16, 16), (4, 15, 15), 1)
    check_schedule(schedule, n_tokens=len(schedule), block_size=4 * 15 * 15)
    assert len(schedule) == 65536 and schedule[65535] == schedule[-1] == schedule[65530:][-1]
    assert schedule[0] == Window(write=(0,))
    assert longest_window(schedule) == max(len(w.past) for w in schedule[-16:]) + 1 == 900
    for n_tokens, message in ((65535, "writes token 65535"), (65537, "leaves 1 tokens unknown")):
        with pytest.raises(ValueError, match=message):
            check_schedule(schedule, n_tokens=n_tokens)


def test_lazy_windows_are_sound_by_the_check_of_all() -> None:
    schedule = spatial((3, 4, 5), (2, 3, 4), 1)
    check_schedule(list(schedule), n_tokens=60, block_size=24)
