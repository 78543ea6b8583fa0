"""Frames out of codes: in chunks as at once, and as the VQGAN decodes."""

from __future__ import annotations

import logging

import pytest
import torch
from tiny import tiny_vqgan

from tats.models.autoencoder import Stream
from tats.models.vqgan import VQGAN
from tats.sampling.pixels import CLIPS_TOGETHER, FrameDecoder
from tats.video_io import to_uint8


def trained_vqgan(**flags: object) -> VQGAN:
    """A VQGAN whose norms do something and whose pictures have contrast."""
    vqgan = tiny_vqgan(**flags)
    for module in vqgan.decoder.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    vqgan.codebook.embeddings.normal_()
    return vqgan


SHAPES = [(4, 4, 4), (4, 8, 8), (2, 2, 2), (1, 2, 2), (8, 4, 4)]


@pytest.mark.parametrize("downsample", SHAPES)
def test_prepared_decoding_equals_the_vqgans_to_float_noise(
    downsample: tuple[int, int, int],
) -> None:
    vqgan = trained_vqgan(downsample=downsample)
    codes = torch.randint(32, (2, 3, 2, 4))
    with torch.no_grad():
        expected, video = vqgan.decode(codes), FrameDecoder(vqgan).video(codes)
    torch.testing.assert_close(video, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("downsample", SHAPES)
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("clips_together", [1, 2])
def test_pieces_equal_the_whole_clips(
    downsample: tuple[int, int, int],
    size: int,
    clips_together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Compare before rounding: float32 noise, not steps of 1/255.
    monkeypatch.setattr("tats.sampling.pixels.to_uint8", lambda video: video.movedim(-4, -1))
    monkeypatch.setitem(CLIPS_TOGETHER, "cpu", clips_together)
    vqgan = trained_vqgan(downsample=downsample)
    codes = torch.randint(32, (3, 23, 2, 2))
    with torch.no_grad():
        expected = vqgan.decode(codes).movedim(1, -1)
    pieces = list(FrameDecoder(vqgan, latents_per_piece=size).pieces(codes))
    assert len(pieces) > 1
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=1e-4, atol=2e-5)


def test_a_clip_has_the_same_pixels_in_any_batch_on_a_cpu() -> None:
    decoder = FrameDecoder(trained_vqgan())
    codes = torch.randint(32, (5, 20, 4, 4))
    together = decoder(codes)
    assert all(torch.equal(together[i : i + 1], decoder(codes[i : i + 1])) for i in range(5))


def test_a_streams_memory_does_not_grow() -> None:
    decoder, stream, sizes = FrameDecoder(trained_vqgan()), Stream(), []
    for _ in range(12):
        decoder.video(torch.randint(32, (1, 2, 2, 2)), stream)
        sizes.append(stream.n_bytes)
    assert len(set(sizes[6:])) == 1 and sizes[0] > 0


def test_only_the_decoder_is_cast() -> None:
    vqgan = trained_vqgan()
    codes = torch.randint(32, (1, 4, 4, 4))
    exact = FrameDecoder(vqgan)(codes)
    half = FrameDecoder(vqgan, dtype=torch.bfloat16)
    assert half.video(codes).dtype == torch.bfloat16
    assert {tensor.dtype for tensor in vqgan.parameters()} == {torch.float32}
    assert (half(codes).int() - exact.int()).abs().float().mean() < 3


def test_group_norm_is_decoded_at_once_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    vqgan = trained_vqgan(norm_type="group", n_hiddens=16)
    codes = torch.randint(32, (6, 2, 2))
    with caplog.at_level(logging.WARNING):
        (frames,) = FrameDecoder(vqgan, latents_per_piece=2)(codes[None])
    assert "group norm" in caplog.text
    with torch.no_grad():
        expected = to_uint8(vqgan.decode(codes[None]))[0]
    assert (frames.int() - expected.int()).abs().max() <= 1


def test_the_vqgan_given_is_left_alone() -> None:
    vqgan = trained_vqgan()
    before = {name: tensor.clone() for name, tensor in vqgan.state_dict().items()}
    FrameDecoder(vqgan)
    after = vqgan.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("code", [-1, 32])
def test_codes_out_of_range_are_refused(code: int) -> None:
    codes = torch.zeros(2, 2, 2, dtype=torch.int64)
    codes[1, 1, 1] = code
    with pytest.raises(ValueError, match=r"expected 0\.\.31"):
        FrameDecoder(trained_vqgan())(codes[None])
