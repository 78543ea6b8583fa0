"""Samples made from captions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tats.errors import UserError
from tats.models.transformer import Net2NetTransformer
from tats.sampling.passes import VIEWING_RATE, Given
from tats.text import default_tokenizer, tokenize

log = logging.getLogger(__name__)


def captions(
    model: Net2NetTransformer, texts: Sequence[str], *, frame_rate: float = VIEWING_RATE
) -> Given:
    """Samples made from captions, which they take in turn.

    Args:
        model: a text-conditioned transformer.
        texts: at least one.
        frame_rate: of the clips, frames a second.
    """
    tokens = caption_tokens(texts, model.conditioner.n_tokens)

    def tokens_of(model: Net2NetTransformer, samples: Sequence[int]) -> Tensor:
        return model.conditioner.encode(tokens[torch.tensor(list(samples)) % len(tokens)])

    def describe(sample: int) -> dict[str, Any]:
        return {"text": texts[sample % len(texts)]}

    return Given(
        tokens=tokens_of,
        describe=describe,
        identity=lambda: {"texts": list(texts)},
        frame_rate=frame_rate,
    )


def caption_tokens(texts: Sequence[str], n_tokens: int) -> Int[Tensor, "B n_tokens"]:
    """Tokenize captions, with a warning where one is cut off."""
    tokenizer = default_tokenizer()
    for text in texts:
        length = len(tokenizer.encode(text)) + 2  # start and end
        if length > n_tokens:
            log.warning(
                "the caption %r has %d tokens; what comes after the first %d is cut off",
                text[:60] + "…", length, n_tokens,
            )  # fmt: skip
    return tokenize(list(texts), context_length=n_tokens)


def read_captions(text: str | None, text_file: str | None) -> list[str]:
    """Give the captions of ``--text`` or of the lines of ``--text_file``, at least one.

    Raises:
        UserError: there is none, both are given, or the file cannot be read.
    """
    if (text is None) == (text_file is None):
        raise UserError("--text or --text_file is missing, or both are given; expected one of them")
    if text is not None:
        if not text.strip():
            raise UserError("--text is empty; expected a caption, such as 'Mugen jumps up'")
        return [text.strip()]
    try:
        content = Path(str(text_file)).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--text_file {text_file} cannot be read ({error})") from error
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--text_file {text_file} is empty; expected one caption a line")
    return lines
