"""Weights come from the user's path or the cache, checked and converted, never from the network."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tats import paths
from tats.errors import UserError
from tats.evaluation.i3d import WeightSource, convert_i3d, i3d_source, load_i3d_state
from tats.models.lpips import load_lpips_heads, load_vgg16_state
from tats.paths import file_sha256
from tats.text import find_vocabulary
from tats.weights.catalogue import CATALOGUE, check_sha256, is_fetched
from tats.weights.files import is_torchscript, read_weights, tensors_sha256


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TATS_CACHE", str(folder))
    return folder


def vgg16_state() -> dict[str, torch.Tensor]:
    state = {}
    for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        state[f"features.{index}.weight"] = torch.randn(2, 3, 3, 3)
        state[f"features.{index}.bias"] = torch.randn(2)
    return state


def test_the_cache_folder_follows_the_environment_and_is_not_made(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert paths.cache_dir() == empty_cache
    assert not empty_cache.exists()
    monkeypatch.delenv("TATS_CACHE")
    assert paths.cache_dir() == Path.home() / ".cache" / "tats"


@pytest.mark.parametrize(
    ("load", "own_file"),
    [
        (load_vgg16_state, "vgg16-397923af.pth"),
        (load_i3d_state, "i3d_pretrained_400.pt"),
        (find_vocabulary, "bpe_simple_vocab_16e6.txt.gz"),
    ],
)
def test_missing_weights_name_the_command_and_the_file(load, own_file: str) -> None:
    with pytest.raises(UserError, match=r"python scripts/fetch_weights\.py --only") as error:
        load()
    assert own_file in str(error.value)


def test_a_users_own_vgg16_is_read_whole_or_as_torchvision_saves_it(tmp_path: Path) -> None:
    state = vgg16_state()
    file = tmp_path / "vgg16.pth"
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, file)
    loaded = load_vgg16_state(file)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_the_original_file_may_lie_in_the_cache(empty_cache: Path) -> None:
    empty_cache.mkdir()
    torch.save(vgg16_state(), empty_cache / "vgg16-397923af.pth")
    assert len(load_vgg16_state()) == 26


def test_a_changed_cached_file_is_not_used(empty_cache: Path) -> None:
    empty_cache.mkdir()
    torch.save(vgg16_state(), empty_cache / "vgg16.ckpt")
    assert not is_fetched("vgg16")
    with pytest.raises(UserError, match=r"vgg16\.ckpt has sha256 .* expected 2ecbe4ce"):
        load_vgg16_state()


def test_a_file_that_is_not_the_published_one_is_told_from_it(tmp_path: Path) -> None:
    file = tmp_path / "vgg16.ckpt"
    file.write_bytes(pickle.dumps({"VGG16_0": np.zeros(3)}))
    with pytest.raises(UserError, match=r"run `python scripts/fetch_weights\.py --only vgg16`"):
        check_sha256("vgg16", file)


def test_every_file_whose_bytes_are_known_is_kept_under_a_name_of_its_own() -> None:
    others = [file for file in CATALOGUE.values() if not file.stage]
    assert all(len(file.sha256) == 64 and all(file.package) for file in others)
    assert len({file.path for file in CATALOGUE.values()}) == len(CATALOGUE)


def test_the_published_vgg16_layout_is_transposed_to_torch(tmp_path: Path) -> None:
    kernels = {k: np.random.rand(3, 3, 2, 4).astype(np.float32) for k in range(13)}
    tree = {f"Conv_{k}": {"kernel": v, "bias": v[0, 0, 0]} for k, v in kernels.items()}
    file = tmp_path / "vgg16.ckpt"
    file.write_bytes(pickle.dumps({"VGG16_0": tree, "NetLinLayer_0": {}}, protocol=3))
    state = load_vgg16_state(file)
    image = torch.randn(1, 2, 8, 8)
    got = nn.functional.conv2d(image, state["features.28.weight"], state["features.28.bias"])
    kernel, bias = kernels[12], kernels[12][0, 0, 0]
    by_hand = np.einsum("hwio,ihw->o", kernel, image[0, :, 2:5, 3:6].numpy()) + bias
    np.testing.assert_allclose(got[0, :, 2, 3].numpy(), by_hand, rtol=1e-5, atol=1e-5)


def i3d_unit_arrays() -> dict[str, torch.Tensor]:
    unit = "Mixed_3b/Branch_1/Conv3d_0b_3x3"
    return {
        f"params/{unit}/Conv_0/kernel": torch.randn(3, 3, 3, 2, 4),
        f"params/{unit}/BatchNorm_0/bias": torch.randn(4),
        f"batch_stats/{unit}/BatchNorm_0/mean": torch.randn(1, 1, 1, 1, 4),
        f"batch_stats/{unit}/BatchNorm_0/var": torch.rand(1, 1, 1, 1, 4) * 1e-3,
    }


def test_the_converted_i3d_batch_norm_equals_the_original_at_its_own_eps() -> None:
    arrays = i3d_unit_arrays()
    state = convert_i3d(arrays)
    norm = nn.BatchNorm3d(4, eps=1e-5).eval()
    prefix = "Mixed_3b.b1b.bn."
    norm.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, strict=False
    )
    x = torch.randn(2, 4, 1, 1, 1)
    bias, mean, var = list(arrays.values())[1:]
    by_hand = (x - mean.view(-1, 1, 1, 1)) / (var.view(-1, 1, 1, 1) + 1e-3).sqrt()
    torch.testing.assert_close(norm(x), by_hand + bias.view(-1, 1, 1, 1), rtol=1e-5, atol=1e-5)
    assert state["Mixed_3b.b1b.conv3d.weight"].shape == (4, 2, 3, 3, 3)


def test_lpips_heads_are_found_without_importing_torchmetrics() -> None:
    heads = load_lpips_heads()
    assert {name: tuple(head.shape) for name, head in heads.items()} == {
        f"lin{k}.model.1.weight": (1, width, 1, 1)
        for k, width in enumerate((64, 128, 256, 512, 512))
    }
    assert all((head >= 0).all() for head in heads.values())


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04broken", b"\x80\x04."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".ckpt"])
def test_a_broken_weight_file_gets_one_line(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"i3d{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match="i3d") as error:
        load_i3d_state(file)
    assert "\n" not in str(error.value)


class Executes:
    """Pickles into a call that leaves a trace."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("save", [torch.save, lambda x, file: file.write_bytes(pickle.dumps(x))])
def test_a_hostile_weight_file_is_not_executed(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "i3d.pt"
    save({"logits.conv3d.bias": Executes()}, file)
    with pytest.raises(UserError, match=r"i3d\.pt"):
        load_i3d_state(file)
    assert not Path("executed").exists()


def test_a_nested_file_that_refers_to_itself_ends(tmp_path: Path) -> None:
    tree: dict = {"a": torch.zeros(1).numpy()}
    tree["self"] = tree
    file = tmp_path / "loop.ckpt"
    file.write_bytes(pickle.dumps(tree))
    with pytest.raises(UserError, match="got a dict at 'self'"):
        read_weights(file)


def test_weights_of_another_network_or_with_nan_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(vgg16_state(), file)
    with pytest.raises(UserError, match=r"without 'Conv3d_1a_7x7.*expected an I3D"):
        load_i3d_state(file)
    state = vgg16_state()
    state["features.5.bias"][1] = float("nan")
    torch.save(state, file)
    with pytest.raises(UserError, match=r"features\.5\.bias holds NaN or infinite values"):
        load_vgg16_state(file)


def test_the_tensor_hash_is_the_same_in_every_file_format(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(2)}
    torch.save(state, tmp_path / "x.pt")
    save_file(state, tmp_path / "x.safetensors")
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(arrays))
    hashes = {tensors_sha256(read_weights(file)) for file in tmp_path.glob("x.*")}
    assert hashes == {tensors_sha256(state)}
    assert tensors_sha256(state | {"b": torch.tensor(3)}) not in hashes


def test_a_figure_can_say_which_i3d_weights_it_used(tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    torch.save({"logits.conv3d.bias": torch.zeros(2)}, file)
    source = i3d_source(file)
    assert source == WeightSource("published-port", "mine.pt", file_sha256(file))
    assert not is_torchscript(file)
    scripted = tmp_path / "scripted.pt"
    with zipfile.ZipFile(scripted, "w") as archive:
        archive.writestr("i3d/constants.pkl", "")
    assert i3d_source(scripted).kind == "torchscript"


def test_a_vocabulary_of_other_bytes_in_the_cache_is_not_used(empty_cache: Path) -> None:
    empty_cache.mkdir()
    (empty_cache / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"x")
    assert not is_fetched("clip_vocabulary")
    with pytest.raises(UserError, match=r"has sha256 .* expected 924691ac"):
        find_vocabulary()
