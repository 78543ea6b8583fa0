"""The encoder and decoder: shapes, time-agnosticism, padding."""

from __future__ import annotations

import pytest
import torch

from tats.models.autoencoder import (
    Decoder,
    Encoder,
    SamePadConv3d,
    SamePadConvTranspose3d,
    same_padding,
    stage_strides,
)


@pytest.mark.parametrize("downsample", [(4, 8, 8), (4, 4, 4), (1, 2, 8), (2, 1, 4)])
@pytest.mark.parametrize("norm_type", ["batch", "group"])
def test_encoder_divides_and_decoder_multiplies_each_axis_by_its_factor(downsample, norm_type):
    shared = {"n_hiddens": 16, "norm_type": norm_type}
    encoder = Encoder(downsample=downsample, **shared).eval()
    decoder = Decoder(upsample=downsample, **shared).eval()
    video = torch.rand(2, 3, 8, 16, 8) - 0.5
    features = encoder(video)
    t, h, w = downsample
    assert features.shape == (2, encoder.out_channels, 8 // t, 16 // h, 8 // w)
    assert decoder(features).shape == video.shape


def test_halvings_are_spread_over_the_first_stages():
    assert stage_strides((4, 8, 8)) == [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert stage_strides((1, 2, 4)) == [(1, 2, 2), (1, 1, 2)]


def test_padding_puts_its_larger_half_in_front():
    assert same_padding((4, 4, 4), (1, 2, 2)) == [1, 1, 1, 1, 2, 1]
    assert same_padding((3, 3, 3), (1, 1, 1)) == [1, 1, 1, 1, 1, 1]


@torch.no_grad()
def test_a_constant_clip_stays_constant_up_to_its_borders():
    """Replicated padding shows no border, which zero padding would."""
    x = torch.full((1, 4, 4, 8, 8), 0.3)
    for layer in (
        SamePadConv3d(4, 2, kernel=3),
        SamePadConv3d(4, 2, kernel=4, stride=(2, 2, 1)),
    ):
        y = layer(x)
        torch.testing.assert_close(y, y[:, :, :1, :1, :1].expand_as(y))
    bordered = SamePadConv3d(4, 2, kernel=3, padding_type="constant")(x)
    assert not torch.allclose(bordered, bordered[:, :, 2:3, 4:5, 4:5].expand_as(bordered))


@torch.no_grad()
def test_upsampling_a_constant_clip_repeats_one_cell_up_to_the_borders():
    x = torch.full((1, 4, 4, 8, 8), 0.3)
    y = SamePadConvTranspose3d(4, 2, kernel=4, stride=(2, 1, 2))(x)
    assert y.shape == (1, 2, 8, 8, 16)
    cell = y[:, :, :2, :1, :2]  # even and odd outputs see different taps of the kernel
    torch.testing.assert_close(y, cell.repeat(1, 1, 4, 8, 8))


@torch.no_grad()
def test_a_longer_clip_has_the_same_features_away_from_its_ends():
    encoder = Encoder(n_hiddens=4, downsample=(4, 4, 4), norm_type="batch").eval()
    video = torch.rand(1, 3, 80, 8, 8) - 0.5
    whole, part = encoder(video), encoder(video[:, :, 16:64])  # 20 and 12 latent frames
    # A feature sees less than 5 latent frames to either side.
    torch.testing.assert_close(part[:, :, 5:-5], whole[:, :, 9:11])
    assert not torch.allclose(part[:, :, 0], whole[:, :, 4])
