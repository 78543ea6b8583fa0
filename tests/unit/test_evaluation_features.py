"""I3D's padding, its interface, and the stream of clips it is fed with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tats.errors import UserError
from tats.evaluation import I3D, I3DFeatures, load_i3d
from tats.evaluation.i3d import TorchScriptI3D, Unit3D, max_pool, same_padding


def padded_by_definition(x: Tensor, kernel: int, stride: int) -> Tensor:
    pads: list[int] = []
    for n in reversed(x.shape[2:]):
        n_out = -(-n // stride)
        total = max((n_out - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


@pytest.mark.parametrize("size", [(4, 5, 6), (9, 8, 7), (1, 2, 3)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (7, 2)])
def test_padding_is_that_of_tensorflow(size, kernel: int, stride: int):
    x = torch.rand(2, 3, *size)
    weight = torch.randn(4, 3, kernel, kernel, kernel)
    expected = F.conv3d(padded_by_definition(x, kernel, stride), weight, stride=stride)
    padded, padding = same_padding(x, (kernel,) * 3, (stride,) * 3)
    got = F.conv3d(padded, weight, stride=stride, padding=padding)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert got.shape[2:] == tuple(-(-n // stride) for n in size)
    pooled = max_pool(x, kernel=(kernel,) * 3, stride=(stride,) * 3)
    expected = F.max_pool3d(padded_by_definition(x, kernel, stride), kernel, stride)
    torch.testing.assert_close(pooled, expected)


def test_the_folded_batch_norm_equals_the_unfolded_one():
    unit = Unit3D(in_channels=3, out_channels=5, kernel=3, stride=2)
    with torch.no_grad():
        for tensor in unit.bn.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    unit.eval()
    x = torch.randn(2, 3, 5, 6, 7)
    padded, padding = same_padding(x, (3, 3, 3), (2, 2, 2))
    expected = unit.bn(F.conv3d(padded, unit.conv3d.weight, stride=2, padding=padding)).relu()
    torch.testing.assert_close(unit(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 8, 224, 224), (1, 3, 16, 64, 64), (1, 1, 16, 224, 224)])
def test_i3d_names_the_shape_it_needs(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 3, T, 224, 224\) with T >= 9"):
        I3D()(torch.zeros(shape))


class MeanColour(nn.Module):
    """Stands for I3D; remembers how many clips each pass had."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.passes: list[int] = []

    def forward(self, video: Tensor) -> Tensor:
        assert video.shape[1:] == (3, 9, 224, 224)
        self.passes.append(len(video))
        return video.mean(dim=(2, 3, 4))


def numbered_clips(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(n, 9, 4, 6, 3)


def test_features_keep_the_order_and_bound_the_clips_of_a_pass():
    network = MeanColour()
    features = I3DFeatures(network, clips_per_pass=4)(numbered_clips(10))
    expected = torch.arange(10).float() / 127.5 - 1
    torch.testing.assert_close(features, expected.view(-1, 1).expand(10, 3))
    assert network.passes == [4, 4, 2]


@pytest.mark.parametrize("batch_sizes", [[7], [3, 3, 3], [1, 5, 1], [2, 5]])
def test_collecting_takes_exactly_the_first_clips_of_the_stream(batch_sizes: list[int]):
    clips = numbered_clips(sum(batch_sizes))
    features = I3DFeatures(MeanColour()).collect(clips.split(batch_sizes), n_clips=6)
    torch.testing.assert_close(features, I3DFeatures(MeanColour())(clips)[:6])


def test_collecting_reads_no_batch_more_than_it_needs():
    n_read = 0

    def stream() -> Iterator[Tensor]:
        nonlocal n_read
        while True:
            n_read += 1
            yield numbered_clips(2)

    assert I3DFeatures(MeanColour()).collect(stream(), n_clips=4).shape == (4, 3)
    assert n_read == 2


def test_a_stream_that_ends_too_early_is_not_padded():
    with pytest.raises(UserError, match="got only 5; expected 6"):
        I3DFeatures(MeanColour()).collect([numbered_clips(5)], n_clips=6)
    with pytest.raises(UserError, match="got only 0"):
        I3DFeatures(MeanColour()).collect([])


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.zeros(2, 9, 4, 4, 3), r"torch\.float32"),
        (torch.zeros(2, 9, 4, 4, 1, dtype=torch.uint8), r"\(2, 9, 4, 4, 1\)"),
        (torch.zeros(9, 4, 4, 3, dtype=torch.uint8), r"expected uint8 \(B, T, H, W, 3\)"),
        (torch.zeros(0, 9, 4, 4, 3, dtype=torch.uint8), r"\(0, 9, 4, 4, 3\)"),
        (torch.zeros(2, 8, 4, 4, 3, dtype=torch.uint8), "got 8 frames each; expected at least 9"),
    ],
)
def test_what_is_not_a_batch_of_clips_is_refused(clips: Tensor, message: str):
    with pytest.raises(UserError, match=message):
        I3DFeatures(MeanColour())(clips)


def test_weights_load_without_batch_counters_and_stay_as_saved(tmp_path):
    i3d = I3D()
    state = {k: v for k, v in i3d.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "i3d_pretrained_400.pt")
    loaded = load_i3d(tmp_path / "i3d_pretrained_400.pt")
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in state.items())


def test_weights_of_another_shape_are_named(tmp_path):
    state = I3D().state_dict()
    state["logits.conv3d.weight"] = torch.zeros(600, 1024, 1, 1, 1)
    torch.save(state, tmp_path / "i3d.pt")
    with pytest.raises(UserError, match=r"logits\.conv3d\.weight got \(600, 1024, 1, 1, 1\)"):
        load_i3d(tmp_path / "i3d.pt")


class Scripted(nn.Module):
    """Has the interface of the TorchScript I3D in use."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert return_features and not rescale and not resize
        return x.mean(dim=(2, 3, 4))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_file_is_used_when_it_is_named(tmp_path):
    torch.jit.script(Scripted()).save(tmp_path / "i3d_torchscript.pt")
    network = load_i3d(tmp_path / "i3d_torchscript.pt")
    assert isinstance(network, TorchScriptI3D)
    assert I3DFeatures(network)(numbered_clips(2)).shape == (2, 3)
