"""CLIP's byte-pair encoding: captions to the 49408-token vocabulary of the text models.

A text is repaired (ftfy, HTML entities), its white space collapsed and its letters lower-cased,
then split into words whose bytes are merged pair by pair in the order the vocabulary file lists.
The file is CLIP's published ``bpe_simple_vocab_16e6.txt.gz``; it is read on first use, never on
import.
"""

from __future__ import annotations

import functools
import gzip
import html
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import regex
import torch
from torch import Tensor

from tats.errors import UserError
from tats.weights.catalogue import check_sha256, find

START_TOKEN = 49406
END_TOKEN = 49407
VOCAB_SIZE = 49408
PAD_TOKEN = 0

_SPECIAL_TEXTS = {"<|startoftext|>": START_TOKEN, "<|endoftext|>": END_TOKEN}
_N_BYTES = 256
# The file lists more merges than the vocabulary holds: it ends where the special tokens begin.
_N_MERGES = START_TOKEN - 2 * _N_BYTES
_WORD_END = "</w>"
_WORDS = regex.compile(
    r"<\|(?:start|end)oftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


class Tokenizer:
    """Turns texts into tokens and back with one vocabulary file."""

    def __init__(self, *, vocabulary: Path) -> None:
        """Read the vocabulary.

        Args:
            vocabulary: the published ``bpe_simple_vocab_16e6.txt.gz``.

        Raises:
            UserError: the file is missing or is not the published one.
        """
        letters = _byte_letters()
        merges = _read_merges(vocabulary)
        symbols = [
            *letters.values(),
            *(letter + _WORD_END for letter in letters.values()),
            *(left + right for left, right in merges),
            *_SPECIAL_TEXTS,
        ]
        assert len(symbols) == VOCAB_SIZE
        self._letter_of_byte = letters
        self._byte_of_letter = {letter: byte for byte, letter in letters.items()}
        self._symbols = symbols
        self._token_of_symbol = {symbol: token for token, symbol in enumerate(symbols)}
        self._merge_rank = {pair: rank for rank, pair in enumerate(merges)}
        self._tokens_of_word: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Turn one text into tokens, without start, end or padding.

        Args:
            text: any text.

        Returns:
            Tokens in [0, 49408); empty for an empty text.
        """
        tokens: list[int] = []
        for word in _WORDS.findall(_clean(text)):
            if word not in self._tokens_of_word:
                self._tokens_of_word[word] = self._encode_word(word)
            tokens += self._tokens_of_word[word]
        return tokens

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """Turn tokens into text; start and end tokens and what follows the last end are dropped.

        Args:
            tokens: (n,) tokens in [0, 49408).

        Returns:
            The text, lower-case, a space after every word.

        Raises:
            ValueError: a token is out of range.

        Source: DEVIATIONS D24: the token of "!" (0, also the padding) is kept before the end.
        """
        ids = [int(token) for token in tokens]
        if outside := [token for token in ids if not 0 <= token < VOCAB_SIZE]:
            raise ValueError(f"token {outside[0]} is outside the vocabulary [0, {VOCAB_SIZE})")
        if END_TOKEN in ids:
            last_end = len(ids) - 1 - ids[::-1].index(END_TOKEN)
            ids = ids[:last_end]
        letters = "".join(
            self._symbols[token].replace(_WORD_END, " ")
            for token in ids
            if token not in (START_TOKEN, END_TOKEN)
        )
        # A space is the one character of a decoded text that is not a byte's letter.
        raw = bytes(ord(" ") if c == " " else self._byte_of_letter[c] for c in letters)
        return raw.decode("utf-8", errors="replace")

    def _encode_word(self, word: str) -> list[int]:
        if word in _SPECIAL_TEXTS:
            return [_SPECIAL_TEXTS[word]]
        symbols = [self._letter_of_byte[byte] for byte in word.encode("utf-8")]
        symbols[-1] += _WORD_END
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            best = min(pairs, key=lambda pair: self._merge_rank.get(pair, _N_MERGES))
            if best not in self._merge_rank:
                break
            symbols = _merge_pair(symbols, best)
        return [self._token_of_symbol[symbol] for symbol in symbols]


def tokenize(
    texts: str | list[str],
    context_length: int = 256,
    truncate: bool = True,
    vocabulary: Path | None = None,
) -> Tensor:
    """Turn texts into rows ``[start, tokens…, end, 0, 0, …]`` of one length.

    Args:
        texts: one text or B texts.
        context_length: tokens of a row, at least 2.
        truncate: cut a text that is too long; its last token becomes the end token.
        vocabulary: CLIP's vocabulary file; by default the one ``find_vocabulary`` finds.

    Returns:
        int64 (B, context_length).

    Raises:
        ValueError: a text is too long and ``truncate`` is false.
        UserError: the vocabulary, or the package ftfy, is not there.

    Source: Ge et al. §4.1 (MUGEN captions); the vocabulary is CLIP's.
    """
    if context_length < 2:
        raise ValueError(
            f"context_length is {context_length}; expected at least 2: start and end take one each"
        )
    tokenizer = default_tokenizer(vocabulary)
    texts = [texts] if isinstance(texts, str) else texts
    rows = torch.full((len(texts), context_length), PAD_TOKEN, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        tokens = [START_TOKEN, *tokenizer.encode(text), END_TOKEN]
        if len(tokens) > context_length:
            if not truncate:
                raise ValueError(
                    f"the text {text[:60]!r} has {len(tokens)} tokens; expected at most "
                    f"{context_length}: shorten it, or pass truncate=True"
                )
            tokens = [*tokens[: context_length - 1], END_TOKEN]
        row[: len(tokens)] = torch.tensor(tokens)
    return rows  # (B, context_length)


def decode(tokens: Sequence[int] | Tensor, vocabulary: Path | None = None) -> str:
    """Turn one row of tokens into text, see ``Tokenizer.decode``.

    Args:
        tokens: (n,) tokens in [0, 49408).
        vocabulary: CLIP's vocabulary file; by default the one ``find_vocabulary`` finds.

    Returns:
        The text, lower-case, a space after every word.

    Raises:
        ValueError: a token is out of range.
        UserError: the vocabulary is not there.
    """
    return default_tokenizer(vocabulary).decode(tokens)


def default_tokenizer(vocabulary: Path | None = None) -> Tokenizer:
    """Give the tokenizer of a vocabulary file, read once for the whole process.

    Args:
        vocabulary: CLIP's vocabulary file; by default the one ``find_vocabulary`` finds.

    Returns:
        The tokenizer.

    Raises:
        UserError: the file is missing or is not the published one.
    """
    return _read_once(find_vocabulary(vocabulary))


def find_vocabulary(path: str | Path | None = None) -> Path:
    """Find CLIP's vocabulary file: the given path, the cache, or an installed openai-clip.

    Args:
        path: the user's own file, which always wins.

    Returns:
        An existing file.

    Raises:
        UserError: there is none; the message says how to get it.
    """
    return find("clip_vocabulary", path)


@functools.lru_cache(maxsize=2)
def _read_once(vocabulary: Path) -> Tokenizer:
    return Tokenizer(vocabulary=vocabulary)


def _read_merges(vocabulary: Path) -> list[tuple[str, str]]:
    check_sha256("clip_vocabulary", vocabulary)
    lines = gzip.decompress(vocabulary.read_bytes()).decode("utf-8").split("\n")
    pairs = [line.split() for line in lines[1 : 1 + _N_MERGES]]  # line 0 is a version note
    return [(left, right) for left, right in pairs]


def _byte_letters() -> dict[int, str]:
    """Give every byte a visible letter, in the order of the vocabulary's first 256 tokens."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    visible += range(ord("®"), ord("ÿ") + 1)
    hidden = [byte for byte in range(_N_BYTES) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    letters.update({byte: chr(_N_BYTES + i) for i, byte in enumerate(hidden)})
    return letters


def _merge_pair(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


def _clean(text: str) -> str:
    repaired = _import_ftfy().fix_text(text)
    # Captions from the web are often escaped twice.
    unescaped = html.unescape(html.unescape(repaired))
    return " ".join(unescaped.split()).lower()


def _import_ftfy() -> ModuleType:
    try:
        import ftfy
    except ImportError as error:
        raise UserError(
            "text conditioning needs the package ftfy, which is not installed; "
            "run `pip install ftfy`"
        ) from error
    return ftfy
