"""JSON read field by field, so that a malformed file is reported by file and field name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeGuard

from tats.errors import UserError

_LIMIT = 2**53  # of the numbers in a file: beyond it a float is no longer exact


class Fields:
    """One JSON object whose values are asked for by name and type.

    Every method that asks raises a ``UserError`` naming file and field when the value is missing
    or of another type.
    """

    def __init__(self, record: object, *, source: str, where: str = "") -> None:
        """Take the object.

        Args:
            record: what ``json.load`` gives.
            source: how error messages call the origin, for example ``game file x.json``.
            where: path of this object in the file, ending in a point; empty for the whole file.

        Raises:
            UserError: it is no object.
        """
        self._source = source
        self._where = where
        if not isinstance(record, dict):
            name = where.rstrip(".") or "the whole file"
            raise UserError(f"{source}: {name} is {_short(record)}; expected an object")
        self._record = record

    @classmethod
    def load(cls, path: str | Path, *, kind: str) -> Fields:
        """Read a file that holds one object.

        Args:
            path: a JSON file.
            kind: what error messages call it, for example ``game file``.

        Returns:
            The object.

        Raises:
            UserError: the file cannot be read, is not JSON, or holds something else.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{kind} {path} cannot be read: {error.strerror}") from error
        except ValueError as error:  # bad JSON and bad UTF-8 alike
            raise UserError(f"{kind} {path} is not valid JSON: {error}") from error
        except RecursionError as error:
            raise UserError(f"{kind} {path} is nested too deeply") from error
        return cls(record, source=f"{kind} {path}")

    def number(self, name: str, default: float | None = None) -> float:
        """Give a finite number."""
        value = self._record.get(name, default)
        if not _is_number(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def integer(self, name: str, default: int | None = None, minimum: int | None = None) -> int:
        """Give a whole number."""
        value = self._record.get(name, default)
        if (
            not _is_number(value)
            or value != int(value)
            or (minimum is not None and value < minimum)
        ):
            bound = "" if minimum is None else f" of at least {minimum}"
            raise self.wrong(name, f"a whole number{bound}")
        return int(value)

    def flag(self, name: str) -> bool:
        """Give a yes or no."""
        value = self._record.get(name)
        if value not in (0, 1):  # some recorders write 0 and 1; True == 1
            raise self.wrong(name, "true or false")
        return bool(value)

    def __contains__(self, name: str) -> bool:
        """Whether the object has a field of this name."""
        return name in self._record

    def text(self, name: str) -> str:
        """Give a text."""
        value = self._record.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def texts(self, name: str) -> list[str]:
        """Give a list of texts."""
        value = self._record.get(name)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(name, "a list of texts")
        return value

    def cells(self, name: str) -> frozenset[tuple[int, int]]:
        """Give a list of [x, y] cells as a set."""
        value = self._record.get(name)
        if not isinstance(value, list) or not all(_is_pair(pair) for pair in value):
            raise self.wrong(name, "a list of [x, y] cells")
        return frozenset((int(x), int(y)) for x, y in value)

    def object(self, name: str) -> Fields:
        """Give an object."""
        if name not in self._record:
            raise self.wrong(name, "an object")
        return Fields(self._record[name], source=self._source, where=f"{self._where}{name}.")

    def objects(self, name: str) -> list[Fields]:
        """Give a list of objects."""
        value = self._record.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return [
            Fields(item, source=self._source, where=f"{self._where}{name}[{i}].")
            for i, item in enumerate(value)
        ]

    def chosen(self, list_name: str, index_name: str) -> str:
        """Give the text of a list that another field chooses."""
        texts = self.texts(list_name)
        return texts[self.index(index_name, list_name, len(texts))]

    def index(self, name: str, list_name: str, length: int) -> int:
        """Give a position in a list of a known length."""
        index = self.integer(name)
        if not 0 <= index < length:
            raise self.wrong(name, f"a position in {list_name}, which has {length}")
        return index

    def wrong(self, name: str, expected: str) -> UserError:
        """Make the error that says what a field holds and what it should."""
        got = f"is {_short(self._record[name])}" if name in self._record else "is missing"
        return UserError(f"{self._source}: {self._where}{name} {got}; expected {expected}")


def _is_number(value: object) -> TypeGuard[float]:
    # True and false are no numbers here; neither are NaN and infinity, which JSON readers accept.
    return type(value) in (int, float) and -_LIMIT < value < _LIMIT  # type: ignore[operator]


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_number(v) for v in value)


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
