"""What is always float32 (docs/ARCHITECTURE.md, "Precision"): under autocast, and after a cast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny import tiny_transformer, tiny_vqgan
from torch import nn

from tats.models.codebook import Codebook
from tats.models.transformer import Net2NetTransformer
from tats.models.vqgan import VQGAN

CASTS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
WAYS = [f"autocast {name}" for name in ("bfloat16", "float16")]
WAYS += [f"cast to {name}" for name in CASTS]


@contextmanager
def computing(way: str, module: nn.Module) -> Iterator[None]:
    """Run the block under autocast, or with the module cast."""
    kind, _, name = way.rpartition(" ")
    if kind == "autocast":
        with torch.autocast("cpu", dtype=CASTS[name]):
            yield
    else:
        module.to(CASTS[name])
        yield


def clustered(codebook: Codebook) -> Codebook:
    """Codes close to each other compared with their length, as half precision cannot tell."""
    offset = torch.full_like(codebook.embeddings, 8.0)
    codebook.embeddings.copy_(offset + 0.05 * torch.randn(codebook.embeddings.shape))
    codebook.z_avg.copy_(codebook.embeddings)
    codebook.N.fill_(1.0)
    return codebook


def clustered_vqgan(**flags: object) -> VQGAN:
    """A VQGAN whose codes are features of clips, as training leaves them, far from zero."""
    vqgan = tiny_vqgan(**flags)
    vqgan.pre_vq_conv.conv.bias.data.fill_(8.0)
    channels = vqgan.args.image_channels
    clips = torch.rand(4, channels, 16, 16, 16) - 0.5
    with torch.no_grad():
        features = vqgan.pre_vq_conv(vqgan.encoder(clips)).movedim(1, -1).flatten(0, -2)
    codebook = vqgan.codebook
    codebook.embeddings.copy_(features[torch.randperm(len(features))[: codebook.n_codes]])
    return vqgan


# --- the codebook -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_codes_are_those_of_float32(way):
    codebook = clustered(Codebook(n_codes=64, embedding_dim=8)).eval()
    features = 8 + 0.05 * torch.randn(2, 8, 4, 4, 4)
    expected = codebook.encode(features)
    assert len(expected.unique()) > 16
    with computing(way, codebook):
        assert torch.equal(codebook.encode(features), expected)
        assert torch.equal(codebook(features).codes, expected)
        assert torch.equal(
            codebook.lookup(expected)[0, :, 0, 0, 0], codebook.embeddings[expected[0, 0, 0, 0]]
        )


@pytest.mark.parametrize("way", WAYS)
def test_the_codebook_learns_in_float32(way):
    torch.manual_seed(1)
    plain = clustered(Codebook(n_codes=16, embedding_dim=4, random_restart=False))
    other = Codebook(n_codes=16, embedding_dim=4, random_restart=False)
    other.load_state_dict(plain.state_dict())
    batches = 8 + 0.05 * torch.randn(3, 2, 4, 2, 4, 4)
    with computing(way, other):
        for features in batches:
            torch.manual_seed(2)
            other(features)
    for features in batches:
        torch.manual_seed(2)
        plain(features)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


# --- the frozen first stage -------------------------------------------------------------------


def _video_codes(model: Net2NetTransformer) -> torch.Tensor:
    video = torch.rand(2, 3, 16, 16, 16, generator=torch.Generator().manual_seed(3)) - 0.5
    return model.encode_to_z(video)[1]


def _sound_tokens(model: Net2NetTransformer) -> torch.Tensor:
    sound = torch.rand(2, 1, 16, 64, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return model.encode_to_c(sound)[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tokens_of", [_video_codes, _sound_tokens])
def test_frozen_vqgans_encode_in_float32(way, tokens_of: Callable):
    sound_flags = {"image_channels": 1, "downsample": (4, 4, 4), "stft_data": True}
    model = tiny_transformer(
        clustered_vqgan(),
        cond_stage_key="stft",
        cond_stage_model=clustered_vqgan(**sound_flags),
        block_size=320,
    )
    names = list(model.state_dict())
    expected = tokens_of(model)
    assert len(expected.unique()) > 8
    with computing(way, model):
        assert torch.equal(tokens_of(model), expected)
        loss, _, _ = model.shared_step(
            {"video": torch.rand(2, 3, 16, 16, 16) - 0.5, "stft": torch.rand(2, 1, 16, 64, 16)}, 0
        )
    assert loss.dtype == torch.float32
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("way", WAYS)
def test_a_vqgan_being_trained_encodes_and_decodes(way):
    vqgan = clustered_vqgan()
    video = torch.rand(1, 3, 16, 16, 16) - 0.5
    with computing(way, vqgan), torch.no_grad():
        codes = vqgan.encode(video)
        assert vqgan.decode(codes).shape == video.shape
        assert vqgan(video).video.shape == video.shape
