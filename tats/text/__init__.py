"""Texts to tokens: CLIP's byte-pair encoding, as the text-conditioned models use it."""

from tats.text.bpe import (
    END_TOKEN,
    START_TOKEN,
    VOCAB_SIZE,
    Tokenizer,
    decode,
    default_tokenizer,
    find_vocabulary,
    tokenize,
)

__all__ = [
    "END_TOKEN",
    "START_TOKEN",
    "VOCAB_SIZE",
    "Tokenizer",
    "decode",
    "default_tokenizer",
    "find_vocabulary",
    "tokenize",
]
