"""The pickle reader rebuilds arrays and plain containers, and executes nothing."""

from __future__ import annotations

import collections
import contextlib
import datetime
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tats.errors import UserError
from tats.weights.pickles import restricted_unpickle


def read(data: bytes) -> Any:
    return restricted_unpickle(io.BytesIO(data))


def assert_same(got: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert isinstance(got, np.ndarray)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(got) is type(expected) and len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(got) is type(expected) and got == expected


PLAIN = {
    "arrays": [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3).astype(">i2")),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(20)[::2],
        np.array(True),
        np.zeros((0, 3)),
        np.array(["ab", "c"]),
    ],
    "numpy scalars": (np.float32(3), np.int64(-4), np.bool_(True)),
    "numbers": [0, -1, 2**70, 1.5, 1j, True, False, None],
    "bytes": (b"", b"\x00\xff", bytearray(b"xy")),
    "containers": {
        "empty": ((), [], {}, set()),
        3: {1, 2},
        None: frozenset("ab"),
        1.5: (1, 2, 3, 4),
    },
    "long": "é" * 300,
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_plain_containers_come_back_as_they_were(protocol: int) -> None:
    assert_same(read(pickle.dumps(PLAIN, protocol=protocol)), PLAIN)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_numpy_1_and_numpy_2_are_read(protocol: int) -> None:
    data = pickle.dumps(np.arange(3), protocol=2)
    assert b"numpy._core" in data or b"numpy.core" in data
    for module in (b"numpy.core", b"numpy._core"):
        written = data.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module)
        assert_same(read(written), np.arange(3))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_array_met_twice_stays_one_array(protocol: int) -> None:
    array = np.arange(3)
    first, second = read(pickle.dumps([array, array], protocol=protocol))
    assert first is second


def test_arrays_read_can_be_written_to() -> None:
    read(pickle.dumps(np.zeros(3), protocol=5))[0] = 1


class Calls:
    """Pickles into a call of the given function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class SetsState:
    """Pickles into an object with state."""

    def __init__(self) -> None:
        self.state = 1


STRUCTURED = np.zeros(2, dtype=[("a", "f4")])
HOSTILE = {
    "os.system": Calls(os.system, "touch executed"),
    "eval": Calls(eval, "open('executed', 'w')"),
    "nested in a list": [1, {"a": Calls(os.system, "touch executed")}],
    "a call inside a key": {frozenset([Calls(os.system, "touch executed")]): 1},
    "getattr": Calls(getattr, "abc", "upper"),
    "huge bytearray": Calls(bytearray, 10**12),
    "huge range": Calls(range, 10**12),
    "an object with state": SetsState(),
    "a date": datetime.date(2020, 1, 1),
    "a function": len,
    "a class": collections.OrderedDict,
    "an array of objects": np.array([{}, None], dtype=object),
    "a structured array": STRUCTURED,
    "a structured dtype": STRUCTURED.dtype,
    "an array subclass": np.ma.masked_array([1, 2], [False, True]),
    "a nested key": {((1,),): 1},
    "a path": Path("x"),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused_unexecuted(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "hostile.pickle"
    file.write_bytes(pickle.dumps(HOSTILE[name], protocol=protocol))
    with pytest.raises(UserError, match=r"hostile\.pickle: got a pickle with "):
        restricted_unpickle(file)
    assert not (tmp_path / "executed").exists()


RAW = {
    "empty": b"",
    "text": b"frame 1\nframe 2\n",
    "protocol 0": pickle.dumps([1, 2], protocol=0),
    "no value": b"\x80\x04.",
    "bytes that are not there": b"\x80\x04\x8e" + (10**15).to_bytes(8, "little") + b"abc.",
    "a long integer that is not there": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "array refers to itself": b"\x80\x04]\x94h\x00a" + b"h\x05.",
    "underflow": b"\x80\x04\x87.",
    "append to a number": b"\x80\x04K\x01K\x02a.",
    "an unfinished array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
    b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R.",
    "persistent id": b"\x80\x02K\x01Q.",
    "extension registry": b"\x80\x02\x82\x01.",
    "a gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "a name with an escape": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
}


@pytest.mark.parametrize("name", RAW)
def test_a_malformed_file_gets_one_clear_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.pickle"
    file.write_bytes(RAW[name])
    with pytest.raises(UserError, match=r"broken\.pickle: got a (truncated|pickle with)") as error:
        restricted_unpickle(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_truncation_is_refused(protocol: int) -> None:
    data = pickle.dumps([np.arange(4), {"a": (1, "x")}], protocol=protocol)
    for length in range(len(data)):
        with pytest.raises(UserError):
            read(data[:length])


def test_random_damage_never_escapes_as_another_exception() -> None:
    random = np.random.RandomState(0)
    data = [pickle.dumps(PLAIN, protocol=protocol) for protocol in (2, 4, 5)]
    for _ in range(1500):
        damaged = bytearray(data[random.randint(3)])
        for _ in range(random.randint(1, 5)):
            damaged[random.randint(len(damaged))] = random.randint(256)
        with contextlib.suppress(UserError):
            read(bytes(damaged))


def test_an_array_whose_shape_does_not_fit_its_bytes_is_refused() -> None:
    data = pickle.dumps(np.zeros((3, 5), dtype=np.uint8), protocol=4)
    assert data.count(b"K\x03K\x05") == 1
    with pytest.raises(UserError, match="malformed"):
        read(data.replace(b"K\x03K\x05", b"K\xffK\xff"))


def test_a_huge_memo_index_costs_no_memory() -> None:
    assert read(b"\x80\x04Nr\xff\xff\xff\xff.") is None


def test_a_file_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(UserError, match="more than 10 bytes"):
        restricted_unpickle(io.BytesIO(pickle.dumps(np.zeros(9))), max_bytes=10)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.pickle: cannot be read"):
        restricted_unpickle("nowhere.pickle")
