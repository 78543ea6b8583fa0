"""Reading pickles of numpy arrays and plain containers without ever running a pickle.

Python's own unpickler imports and calls whatever a file names. Here a file is walked opcode by
opcode; the few opcodes and names below are all there is, arrays are rebuilt from their bytes by
this module, and nothing a file says is imported or called.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tats.errors import UserError

MAX_BYTES = 2**30
_NUMBER_OR_STRING = re.compile(r"[|<>=]?[biufcSU][0-9]{1,6}")
_KEY_TYPES = (str, bytes, int, float, complex, bool, type(None), np.generic)


class _Refused(Exception):
    """The file holds something that is neither a number, a string nor a plain container."""


class _Global:
    """A name found in the file: only ever compared with the table, never imported."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Unbuilt:
    """An array or dtype announced by the file, whose content follows in a BUILD opcode."""

    def __init__(self, build: Callable[[Any], Any]) -> None:
        self.build = build
        self.memo_index = -1


def restricted_unpickle(source: str | Path | BinaryIO, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read a pickle that holds only numpy arrays, numbers, strings and plain containers.

    Args:
        source: path of the file, or a binary file open for reading.
        max_bytes: a larger file is refused before it is read.

    Returns:
        The object: dict (also for OrderedDict), list, tuple, set, frozenset, str, bytes,
        bytearray, numbers, None, numpy arrays and scalars of numbers, booleans or strings.

    Raises:
        UserError: the file is missing, truncated, too large, or holds anything else; it names
            the file and what was found. Nothing in the file is executed.
    """
    name = str(source if isinstance(source, (str, Path)) else getattr(source, "name", "pickle"))
    try:
        if isinstance(source, (str, Path)):
            with open(source, "rb") as file:
                data = file.read(max_bytes + 1)
        else:
            data = source.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None
    if len(data) > max_bytes:
        raise UserError(f"{name}: got more than {max_bytes} bytes; expected a smaller pickle")
    try:
        return _Machine().run(data)
    except _Refused as refusal:
        raise UserError(
            f"{name}: got a pickle with {refusal}; expected only numpy arrays and plain "
            "containers; the file was not executed"
        ) from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as error:
        raise UserError(
            f"{name}: got a truncated or malformed file ({error}); expected a pickle of protocol "
            "2 to 5"
        ) from None


class _Machine:
    """A pickle machine with a closed set of opcodes and names."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.n_unbuilt = 0

    def run(self, data: bytes) -> Any:
        """Walk the opcodes of ``data`` and return the object they describe."""
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                break
            if opcode.name in _PUSH_ARGUMENT:
                self.stack.append(argument)
            elif opcode.name in _HANDLERS:
                _HANDLERS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise _Refused(f"the opcode {opcode.name}")
        (result,) = self.stack
        if self.n_unbuilt or isinstance(result, _Global):
            raise _Refused("an object that is named but not filled")
        return result

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        start = self.marks.pop()
        items, self.stack[start:] = self.stack[start:], []
        if any(isinstance(item, (_Global, _Unbuilt)) for item in items):
            raise _Refused("a class or function as a value")
        return items

    def pop_items(self, count: int) -> list[Any]:
        """Take the top ``count`` values off the stack, reaching below no mark."""
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise ValueError("stack underflow")
        self.marks.append(len(self.stack) - count)
        return self.pop_mark()

    def top(self, kind: type) -> Any:
        """Return the container on top of the stack, which items are about to be added to."""
        if type(self.stack[-1]) is not kind:
            raise _Refused(f"items added to a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def append(self, items: list[Any]) -> None:
        """Add items to the list on top of the stack."""
        self.top(list).extend(items)

    def add_items(self, items: list[Any]) -> None:
        """Add items to the set on top of the stack."""
        self.top(set).update(map(_checked_key, items))

    def set_items(self, items: list[Any]) -> None:
        """Add alternating keys and values to the dict on top of the stack."""
        keys = map(_checked_key, items[::2])
        self.top(dict).update(zip(keys, items[1::2], strict=True))

    def put(self, index: int) -> None:
        """Remember the top of the stack under a number."""
        self.memo[index] = self.stack[-1]
        if isinstance(self.stack[-1], _Unbuilt):
            self.stack[-1].memo_index = index

    def get(self, index: int) -> None:
        """Push a remembered value; an array not yet filled cannot be one."""
        if isinstance(self.memo[index], _Unbuilt):
            raise _Refused("a reference into an unfinished array")
        self.stack.append(self.memo[index])

    def push_global(self, module: str, name: str) -> None:
        """Push a name, if it is one of the table."""
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        full_name = f"{module}.{name}"
        if full_name not in _CALLS and full_name != "numpy.ndarray":
            raise _Refused(f"the name {full_name[:200]!r}")
        self.stack.append(_Global(full_name))

    def stack_global(self) -> None:
        """Push the name whose module and attribute lie on the stack."""
        module, name = self.pop_items(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is not a string")
        self.push_global(module, name)

    def reduce(self) -> None:
        """Replace a name and its arguments by the value they stand for."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise _Refused("a call of something that is not a name")
        value = _CALLS[function.name](*arguments)
        self.n_unbuilt += isinstance(value, _Unbuilt)
        self.stack.append(value)

    def build(self) -> None:
        """Fill the announced array or dtype below the top with the state on top."""
        (state,) = self.pop_items(1)
        unbuilt = self.stack.pop()
        if not isinstance(unbuilt, _Unbuilt):
            raise _Refused(f"state set on a {type(unbuilt).__name__}")
        value = unbuilt.build(state)
        self.n_unbuilt -= 1
        if unbuilt.memo_index >= 0:
            self.memo[unbuilt.memo_index] = value
        self.stack.append(value)

    def tuple3(self) -> None:
        """Push a tuple of three: numpy announces an array as (ndarray, (0,), b"b")."""
        if len(self.stack) >= 3 and isinstance(self.stack[-3], _Global):
            self.stack[-3] = self.stack[-3].name
        self.stack.append(tuple(self.pop_items(3)))


def _checked_key(key: Any) -> Any:
    # Only keys whose hash costs nothing: nested tuples can be made to take forever.
    if not isinstance(key, _KEY_TYPES):
        raise _Refused(f"a {type(key).__name__} as a key")
    return key


def _announce_array(class_name: Any, shape: Any, code: Any) -> _Unbuilt:
    if class_name != "numpy.ndarray" or shape != (0,) or code not in (b"b", "b"):
        raise _Refused("an array subclass or a preset shape")
    return _Unbuilt(_array_from_state)


def _array_from_state(state: Any) -> np.ndarray:
    _, shape, dtype, fortran, raw = state
    return _array(raw, dtype, shape, "F" if fortran else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise _Refused("an array without a dtype")
    if isinstance(raw, str):  # Python 2 wrote bytes as strings
        raw = raw.encode("latin-1")
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(shape, tuple):
        raise _Refused("an array that is not made of bytes")
    flat = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    if axis_order is not None:
        return flat.reshape(shape).transpose(axis_order).copy()
    return flat.reshape(shape, order="F" if order == "F" else "C").copy(order="K")


def _announce_dtype(code: Any, align: Any = False, copy: Any = True) -> _Unbuilt:
    if not isinstance(code, str) or not _NUMBER_OR_STRING.fullmatch(code):
        raise _Refused(f"the array type {str(code)[:40]!r}")
    return _Unbuilt(lambda state: _dtype_from_state(np.dtype(code), state))


def _dtype_from_state(dtype: np.dtype, state: Any) -> np.dtype:
    byte_order, subarray, names, fields = state[1:5]
    if byte_order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
        raise _Refused("a structured array type")
    return dtype.newbyteorder(byte_order)


def _scalar(dtype: Any, raw: Any = None) -> np.generic:
    return _array(raw, dtype, (1,), "C")[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("an encoding other than latin1")
    return text.encode("latin-1")


def _container(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple)):
            raise _Refused("a container made of something that is not a list")
        return kind(map(_checked_key, items))

    return make


def _bytes(text: Any = "", encoding: Any = "latin-1") -> bytes:
    return bytes(text) if isinstance(text, (bytes, bytearray)) else _encode(text, encoding)


def _empty_dict() -> dict[Any, Any]:
    return {}


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _announce_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array,
    "numpy.dtype": _announce_dtype,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _empty_dict,
    "builtins.set": _container(set),
    "builtins.frozenset": _container(frozenset),
    "builtins.bytes": _bytes,
    "builtins.bytearray": lambda *arguments: bytearray(_bytes(*arguments)),
    "builtins.complex": lambda real, imaginary: complex(float(real), float(imaginary)),
}

_PUSH_ARGUMENT = {
    *("NONE", "BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}

_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.pop_items(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.pop_items(2))),
    "TUPLE3": lambda machine, _: machine.tuple3(),
    "FROZENSET": lambda machine, _: machine.stack.append(
        frozenset(map(_checked_key, machine.pop_mark()))
    ),
    "APPEND": lambda machine, _: machine.append(machine.pop_items(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_items(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_mark()),
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "GLOBAL": lambda machine, names: machine.push_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
