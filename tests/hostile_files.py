"""Files that try to run code, exhaust the machine or confuse the reader, as checkpoints."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MARKER = "executed"


class Calls:
    """Pickles into a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class SetsState:
    """Pickles into an object whose ``__setstate__`` would run."""

    def __reduce__(self) -> Any:
        return (Namespace, (), {"a": Calls(os.system, f"touch {MARKER}")})


def touch() -> Calls:
    return Calls(os.system, f"touch {MARKER}")


Write = Callable[[dict[str, Any], Path], Any]


def changed(save: Callable[[dict[str, Any]], None]) -> Write:
    """A file like a good one but for what ``save`` does to its content."""

    def write(content: dict[str, Any], path: Path) -> None:
        save(content)
        torch.save(content, path)

    return write


def put(*keys: Any, value: Any) -> Write:
    """A good checkpoint with one entry replaced."""

    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return changed(change)


def weight(change: Callable[[torch.Tensor], Any]) -> Write:
    """A good checkpoint with its largest weight changed."""

    def apply(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        name = max(own_names(state), key=lambda name: state[name].numel())
        state[name] = change(state[name])

    return changed(apply)


def own_names(state: dict[str, Any]) -> list[str]:
    """Names of weights that loading for use needs."""
    unused = ("image_discriminator.", "video_discriminator.", "first_stage_model.")
    return [name for name in state if not name.startswith(unused)]


def put_weight(name: str, value: Any) -> Write:
    return changed(lambda content: content["state_dict"].update({name: value}))


def drop_weight(content: dict[str, Any]) -> None:
    del content["state_dict"][own_names(content["state_dict"])[0]]


def nested(content: dict[str, Any], path: Path, depth: int = 100_000) -> None:
    """A list in a list in a list …, which no pickler writes."""
    content["hyper_parameters"]["args"]["deep"] = "placeholder"
    torch.save(content, path)
    with zipfile.ZipFile(path) as good:
        entries = [(info.filename, good.read(info)) for info in good.infolist()]
    word = b"X" + struct.pack("<I", len("placeholder")) + b"placeholder"
    with zipfile.ZipFile(path, "w") as bad:
        for name, data in entries:
            bad.writestr(name, data.replace(word, b"]" * depth + b"a" * (depth - 1)))


def recursive(content: dict[str, Any]) -> None:
    content["hyper_parameters"]["args"]["itself"] = content["hyper_parameters"]
    content["state_dict"]["itself"] = content["state_dict"]


def share_storage(content: dict[str, Any]) -> None:
    state = content["state_dict"]
    names = sorted(own_names(state), key=lambda name: state[name].numel())
    large = state[names[-1]].flatten()
    for name in names[:-1]:
        if state[name].is_floating_point():
            state[name] = large[: state[name].numel()].view_as(state[name])


def raw(data: bytes) -> Write:
    return lambda content, path: path.write_bytes(data)


def truncated(share: float) -> Write:
    def write(content: dict[str, Any], path: Path) -> None:
        torch.save(content, path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return write


def damaged(content: dict[str, Any], path: Path) -> None:
    """Zeros over the structure."""
    torch.save(content, path)
    data = bytearray(path.read_bytes())
    data[200:600] = bytes(400)
    path.write_bytes(data)


def legacy(content: dict[str, Any], path: Path, value: Any = None) -> None:
    content["callbacks"] = touch() if value is None else value
    torch.save(content, path, _use_new_zipfile_serialization=False)


def legacy_huge(content: dict[str, Any], path: Path) -> None:
    """Claims a storage of 2⁵⁰ values."""
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    storage = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    storage += b"X\x03\x00\x00\x00cpu" + b"\x8a\x07" + (1 << 50).to_bytes(7, "little") + b"NtQ."
    head = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, head, protocol=2)
    path.write_bytes(head.getvalue() + storage + pickle.dumps(["0"], protocol=2))


def tar(content: dict[str, Any], path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        data = pickle.dumps(touch())
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def archive(
    *members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED, twice: bool = False
) -> Write:
    """A good checkpoint with more members, or all members compressed or doubled."""

    def write(content: dict[str, Any], path: Path) -> None:
        torch.save(content, path)
        with zipfile.ZipFile(path) as good:
            entries = [(info.filename, good.read(info)) for info in good.infolist()]
        with zipfile.ZipFile(path, "w", compression) as bad, quiet():
            for name, data in entries * (2 if twice else 1) + list(members):
                bad.writestr(name, data)

    return write


@contextlib.contextmanager
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubled names
        yield


def zip_that_lies(content: dict[str, Any], path: Path) -> None:
    """The directory claims gigabytes for a member."""
    torch.save(content, path)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, entry + 20, 0xF0000000, 0xF0000000)
    path.write_bytes(data)


def overlapping(content: dict[str, Any], path: Path) -> None:
    """Every entry of the directory points at the same, largest member."""
    torch.save(content, path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as good:
        large = max(good.infolist(), key=lambda info: info.file_size)
        start = data.index(b"PK\x01\x02")
        directory = b""
        for info in good.infolist():
            size = large.file_size if "/data/" in info.filename else info.file_size
            offset = large.header_offset if "/data/" in info.filename else info.header_offset
            name = info.filename.encode()
            directory += struct.pack(
                "<4s6H3I5H2I", b"PK\x01\x02", 0, 0, 0, 0, 0, 0, info.CRC, size, size,
                len(name), 0, 0, 0, 0, 0, offset,
            ) + name  # fmt: skip
        n = len(good.infolist())
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, n, n, len(directory), start, 0)
    path.write_bytes(data[:start] + directory + end)


def polyglot(content: dict[str, Any], path: Path) -> None:
    """A pickle in front, an archive behind."""
    torch.save(content, path)
    path.write_bytes(pickle.dumps(touch()) + path.read_bytes())


def huge_structure(content: dict[str, Any], path: Path) -> None:
    content["callbacks"] = ["x" * (1 << 20) + str(i) for i in range(20)]
    torch.save(content, path)


def directory(content: dict[str, Any], path: Path) -> None:
    path.mkdir()


def sparse(content: dict[str, Any]) -> None:
    name = own_names(content["state_dict"])[0]
    content["state_dict"][name] = content["state_dict"][name].to_sparse()


def arguments(**settings: Any) -> Write:
    return changed(lambda content: content["hyper_parameters"]["args"].update(settings))


def as_namespace(content: dict[str, Any]) -> None:
    args = Namespace(**content["hyper_parameters"]["args"])
    args.evil = touch()
    content["hyper_parameters"]["args"] = args


# What no reader of tensors may take, whatever it is looking for.
HOSTILE_FILES: dict[str, Write] = {
    "os.system at the top": lambda content, path: torch.save(touch(), path),
    "os.system as the weights": put("state_dict", value=touch()),
    "os.system as one weight": put_weight("codebook.extra", touch()),
    "os.system in the settings": put("hyper_parameters", "args", "lr", value=touch()),
    "os.system in a Namespace": changed(as_namespace),
    "os.system in the callbacks": put("callbacks", value={"a": [touch()]}),
    "os.system in the optimiser": put("optimizer_states", value=[touch()]),
    "eval": put("epoch", value=Calls(eval, f"open('{MARKER}', 'w')")),
    "exec": put("epoch", value=Calls(exec, f"open('{MARKER}', 'w')")),
    "__import__": put("epoch", value=Calls(__import__, "antigravity")),
    "getattr": put("epoch", value=Calls(getattr, "", "join")),
    "open": put("epoch", value=Calls(open, MARKER, "w")),
    "state on an object": put("epoch", value=SetsState()),
    "torch.load of another file": put("epoch", value=Calls(torch.load, "other.ckpt")),
    "a callable class of torch": put("epoch", value=torch.nn.Linear(2, 2)),
    "a legacy file": legacy,
    "a plain pickle": lambda content, path: path.write_bytes(pickle.dumps(touch())),
    "a plain pickle of protocol 0": lambda content, path: path.write_bytes(
        pickle.dumps(touch(), protocol=0)
    ),
    "a tar archive": tar,
    "a pickle before an archive": polyglot,
    "a zip slip": archive(("../../executed", b"x")),
    "an absolute path": archive(("/executed", b"x")),
    "a zip bomb": archive(
        ("archive/data/bomb", bytes(20_000_000)), compression=zipfile.ZIP_DEFLATED
    ),
    "a member that claims gigabytes": zip_that_lies,
    "members on top of each other": overlapping,
    "every member twice": archive(twice=True),
    "a structure of megabytes": huge_structure,
    "a legacy storage of petabytes": legacy_huge,
    "nothing": raw(b""),
    "a text": raw(b"epoch 3\nloss 0.5\n"),
    "a web page": raw(b"<!DOCTYPE html><html>Sign in</html>"),
    "noise": raw(bytes(range(256)) * 40),
    "only a zip's beginning": raw(b"PK\x03\x04" + bytes(100)),
    "an empty zip": raw(b"PK\x05\x06" + bytes(18)),
    **{f"cut off at {share * 100:g}%": truncated(share) for share in (0.01, 0.3, 0.7, 0.95, 0.999)},
    "zeros over the structure": damaged,
}
HOSTILE: dict[str, Write] = {
    **HOSTILE_FILES,
    "a directory": directory,
    "a list": lambda content, path: torch.save([1, 2], path),
    "a tensor": lambda content, path: torch.save(torch.zeros(3), path),
    "no weights": lambda content, path: torch.save({"epoch": 1}, path),
    "no settings": changed(lambda content: content.pop("hyper_parameters")),
    "settings that are a list": put("hyper_parameters", value=[1]),
    "args that are a number": put("hyper_parameters", "args", value=3),
    "weights under numbers": put("state_dict", value={1: torch.zeros(2)}),
    "weights that are texts": weight(lambda tensor: "0.5"),
    "a weight missing": changed(drop_weight),
    "a weight too many": put_weight("transformer.extra.codebook", torch.zeros(2)),
    "NaN": weight(lambda tensor: tensor * float("nan")),
    "infinity": weight(lambda tensor: tensor + float("inf")),
    "integers for weights": weight(lambda tensor: tensor.long()),
    "complex weights": weight(lambda tensor: tensor.to(torch.complex64)),
    "a transposed weight": weight(lambda tensor: tensor.movedim(0, -1)),
    "a sparse weight": changed(sparse),
    "a weight of one repeated value": weight(
        lambda tensor: torch.zeros(1).expand(tensor.numel()).view(tensor.shape)
    ),
    "weights that share values": changed(share_storage),
    "a weight of 10¹⁵ values": weight(lambda tensor: torch.zeros(1).expand(10**15)),
    "a structure that holds itself": changed(recursive),
    "settings nested 100,000 deep": nested,
    "settings under numbers": put("hyper_parameters", "args", 5, value=5),
}
HOSTILE_VQGAN: dict[str, Write] = {
    "n_codes as a text": arguments(n_codes="32"),
    "resolution as a text": arguments(resolution="16"),
    "a huge codebook": arguments(n_codes=10**9),
    "a codebook beyond counting": arguments(n_codes=10**30),
    "a negative width": arguments(n_hiddens=-4),
    "a fractional downsampling": arguments(downsample=[4, 4, 3]),
    "a downsampling of one axis": arguments(downsample=[4]),
    "an unknown norm": arguments(norm_type="none"),
    "a norm that is a list": arguments(norm_type=["batch"]),
}
HOSTILE_TRANSFORMER: dict[str, Write] = {
    "a million layers": arguments(n_layer=10**6),
    "layers as a text": arguments(n_layer="2"),
    "no heads": arguments(n_head=0),
    "heads that do not divide the width": arguments(n_head=5),
    "a huge width": arguments(n_embd=10**9),
    "a huge block": arguments(block_size=2**40),
    "a million classes": arguments(class_cond_dim=10**6),
    "classes as a text": arguments(class_cond_dim="3"),
    "an unknown condition": put("hyper_parameters", "cond_stage_key", value="smell"),
    "a condition that is a list": put("hyper_parameters", "cond_stage_key", value=["label"]),
    "a start token that is a text": put("hyper_parameters", "sos_token", value="0"),
    "a data path that is a number": arguments(data_path=3),
}


def hostile_slim(kind: str, content: dict[str, Any], path: Path) -> None:
    """Write a slim checkpoint with something wrong."""
    state = {name: content["state_dict"][name] for name in own_names(content["state_dict"])}
    settings = content["hyper_parameters"]
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    data, text = path.read_bytes(), json.dumps(settings)
    texts = {
        "settings that are no JSON": "{'args': 1}",
        "settings that are a list": "[1, 2]",
        "settings nested too deep": "[" * 100_000,
        "settings without args": "{}",
        "settings with a text for a number": json.dumps(
            {**settings, "args": {**settings["args"], "n_codes": "x", "n_layer": "x"}}
        ),
        "settings with a huge model": json.dumps(
            {**settings, "args": {**settings["args"], "n_codes": 10**9, "n_layer": 10**6}}
        ),
        "settings that are no text": "\ud800",
    }
    weights = {
        "a huge header": struct.pack("<Q", 1 << 60) + data[8:],
        "a header that is no JSON": struct.pack("<Q", 8) + b"{]][[}  ",
        "a header of gigabytes of values": _safetensors({"codebook.embeddings": [0, 2**40]}),
        "offsets past the end": _safetensors({"codebook.embeddings": [0, 400]}),
        "offsets backwards": _safetensors({"codebook.embeddings": [400, 0]}),
        "weights cut off": data[: len(data) // 2],
        "empty weights": b"",
        "a pickle for weights": pickle.dumps(touch()),
    }
    path.write_bytes(weights.get(kind, data))
    if kind != "no settings beside it":
        encoded = texts.get(kind, text).encode("utf-8", "surrogatepass")
        path.with_suffix(".json").write_bytes(encoded)
    assert kind in (*texts, *weights, "no settings beside it")


def _safetensors(offsets: dict[str, list[int]]) -> bytes:
    header = {
        name: {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}
        for name, (start, end) in offsets.items()
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


SLIM_KINDS = (
    "settings that are no JSON", "settings that are a list", "settings nested too deep",
    "settings without args", "settings with a text for a number", "settings with a huge model",
    "settings that are no text", "no settings beside it", "a huge header",
    "a header that is no JSON", "a header of gigabytes of values", "offsets past the end",
    "offsets backwards", "weights cut off", "empty weights", "a pickle for weights",
)  # fmt: skip


def good_content(model: Any) -> dict[str, Any]:
    """What a good checkpoint of ``model`` holds; fresh containers, to be changed."""
    return {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "1.5.4",
        "state_dict": OrderedDict((k, v.clone()) for k, v in model.state_dict().items()),
        "callbacks": {},
        "optimizer_states": [],
        "hyper_parameters": {**model.hparams, "args": dict(model.hparams["args"])},
    }
