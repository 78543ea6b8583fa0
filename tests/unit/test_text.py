"""The byte-pair tokenizer."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch

from tats.errors import UserError
from tats.text import (
    END_TOKEN,
    START_TOKEN,
    VOCAB_SIZE,
    decode,
    default_tokenizer,
    find_vocabulary,
    tokenize,
)


@pytest.fixture
def vocabulary() -> Path:
    try:
        return find_vocabulary()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_row_starts_ends_and_is_padded_to_256(vocabulary: Path) -> None:
    rows = tokenize(["a", "Mugen jumps"])
    assert rows.shape == (2, 256)
    assert rows.dtype == torch.int64
    assert rows[0, :4].tolist() == [START_TOKEN, 320, END_TOKEN, 0]
    assert not rows[0, 3:].any()


def test_one_text_gives_one_row_and_no_text_none(vocabulary: Path) -> None:
    assert tokenize("a").shape == (1, 256)
    assert tokenize([]).shape == (0, 256)


def test_a_cut_row_still_ends(vocabulary: Path) -> None:
    row = tokenize("a " * 300, 8)[0]
    assert row.tolist() == [START_TOKEN, *[320] * 6, END_TOKEN]


def test_a_text_that_fits_exactly_is_not_too_long(vocabulary: Path) -> None:
    assert tokenize("a a", 4, truncate=False)[0].tolist() == [START_TOKEN, 320, 320, END_TOKEN]
    with pytest.raises(ValueError, match="has 5 tokens; expected at most 4"):
        tokenize("a a a", 4, truncate=False)


def test_texts_are_repaired_before_they_are_split(vocabulary: Path) -> None:
    plain = tokenize("a < b & c")
    assert torch.equal(tokenize("  A <\n\tb &amp;amp; C "), plain)
    assert torch.equal(tokenize("cafÃ©"), tokenize("café"))


@pytest.mark.parametrize("length", [0, 1])
def test_a_row_has_room_for_start_and_end(vocabulary: Path, length: int) -> None:
    with pytest.raises(ValueError, match="context_length"):
        tokenize("a", length)


@pytest.mark.parametrize(
    "text", ["mugen jumps up to the right", "!!", "tell, me!", "12 ünïcode 你好 😀", "!"]
)
def test_decoding_gives_the_text_back(vocabulary: Path, text: str) -> None:
    spaced = decode(tokenize(text)[0])
    assert spaced.replace(" ", "") == text.replace(" ", "")
    assert decode(default_tokenizer().encode(text)) == spaced


def test_an_exclamation_mark_inside_a_word_survives_decoding(vocabulary: Path) -> None:
    assert decode([START_TOKEN, 0, 256, END_TOKEN, 0, 0]) == "!! "


def test_a_token_outside_the_vocabulary_is_refused(vocabulary: Path) -> None:
    for token in (VOCAB_SIZE, -1):
        with pytest.raises(ValueError, match=str(token)):
            decode([token])


def test_every_token_encodes_to_itself_where_it_is_a_word(vocabulary: Path) -> None:
    tokenizer = default_tokenizer()
    words = {token: tokenizer.decode([token]) for token in range(1000, 2000)}
    whole = {t: word for t, word in words.items() if word.endswith(" ") and word.isascii()}
    kept = [t for t, word in whole.items() if tokenizer.encode(word) == [t]]
    assert len(whole) > 400
    assert len(kept) > 0.95 * len(whole)


def test_a_missing_vocabulary_says_how_to_get_it(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    with pytest.raises(UserError, match=r"fetch_weights.py --only clip_vocabulary"):
        find_vocabulary()


def test_the_vocabulary_of_an_installed_clip_is_found(
    vocabulary: Path, tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "clip" / vocabulary.name
    target.parent.mkdir()
    target.write_bytes(vocabulary.read_bytes())

    class Installed:
        def __init__(self, name: str) -> None:
            assert name == "openai-clip"

        def locate_file(self, path: str) -> Path:
            return tmp_path / path

    monkeypatch.setattr(importlib.metadata, "distribution", Installed)
    assert find_vocabulary() == target
    assert tokenize("a", 3)[0].tolist() == [START_TOKEN, 320, END_TOKEN]


def test_a_damaged_vocabulary_is_refused(vocabulary: Path, tmp_path: Path) -> None:
    damaged = tmp_path / vocabulary.name
    damaged.write_bytes(vocabulary.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{vocabulary.name} has sha256"):
        tokenize("a", vocabulary=damaged)


def test_a_users_own_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.gz is not there"):
        tokenize("a", vocabulary=tmp_path / "nowhere.gz")


def test_a_missing_ftfy_is_named(vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UserError, match="pip install ftfy"):
        tokenize("a")
