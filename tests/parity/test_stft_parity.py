"""Spectrogram clips against the published code's reference outputs."""

from __future__ import annotations

from tats.data.stft import stft_clip
from tats.data.transforms import preprocess


def test_spectrogram_clip_is_equal(reference, parity) -> None:
    data = reference.tensors("data/stft.safetensors")
    clip = stft_clip(data["stft_raw"].numpy(), int(data["start"]))
    parity.exact("STFT clips", clip, data["stft"])


def test_video_beside_it_is_equal(reference, parity) -> None:
    data = reference.tensors("data/stft.safetensors")
    clip = preprocess(data["video_raw_window"], 96)[..., ::5, ::5]  # stored in strides of 5
    parity.close("video beside STFT", clip, data["video"], rtol=0, atol=1e-6)
