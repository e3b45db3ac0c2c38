"""One TOML table is read key by key; what is wrong with it is gathered as lines.

A parsed table comes in, typed values go out; a refused value is replaced by its
default so that reading goes on and every problem is found at once. A problem is
`KEY: what is wrong, what is allowed`.
"""

import difflib
import re
from collections.abc import Callable
from typing import Final, TypeVar

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

Check = Callable[[str], bool]
_Item = TypeVar("_Item")
_UNITS: Final = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_SIZE: Final = re.compile(r"([0-9]{1,12}) ?([A-Za-z]*)")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]{1,60}")
_LATER: Final = "is not in this version yet"


class Section:
    """One TOML table: values are taken by key, what is left over is unknown."""

    def __init__(
        self, data: dict[str, object], where: str, problems: list[str]
    ) -> None:
        self._data = data
        self._where = where
        self._problems = problems
        self._known: dict[str, None] = {}  # in the order they were taken

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def take(self, key: str) -> object:
        """The raw value, None if it is not given."""
        self._known[key] = None
        return self._data.get(key)

    def refuse(self, key: str, problem: str) -> None:
        place = f"{self._where}.{key}".strip(".")
        self._problems.append(f"{place}: {problem}")

    def section(self, key: str) -> "Section":
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, f"is {shown(value)}, must be a table: [{key}]")
        return self.table(key, value if isinstance(value, dict) else {})

    def table(self, place: str, data: dict[str, object]) -> "Section":
        """A table inside that was found by other means, `place` is its name."""
        return Section(data, f"{self._where}.{place}".strip("."), self._problems)

    def text(self, key: str, default: str, rule: str, check: Check) -> str:
        """A string that `check` accepts; `rule` says what that is."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, str) and check(value):
            return value
        self.refuse(key, f"is {shown(value)}, must be {rule}")
        return default

    def word(
        self,
        key: str,
        default: str,
        words: tuple[str, ...],
        later: tuple[str, ...] = (),
    ) -> str:
        """One of `words`; those of `later` are refused as not there yet."""
        value = self.take(key)
        if value is None or value in words:
            return str(value or default)
        allowed = " or ".join(f'"{word}"' for word in words)
        if value in later:
            self.refuse(key, f"{shown(value)} {_LATER}, write {allowed}")
        else:
            self.refuse(key, f"is {shown(value)}, must be {allowed}")
        return default

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.refuse(key, f"is {shown(value)}, must be true or false")
        return default

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, int) and value is not True and low <= value <= high:
            return value
        self.refuse(key, f"is {shown(value)}, must be a number from {low} to {high}")
        return default

    def seconds(self, key: str, default: float, low: float, high: float) -> float:
        value = self.take(key)
        if value is None:
            return default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and isinstance(value, int | float) and low <= value <= high:
            return float(value)
        self.refuse(key, f"is {shown(value)}, must be seconds from {low} to {high}")
        return default

    def size(self, key: str, default: int) -> int:
        value = self.take(key)
        if value is None:
            return default
        size = _bytes(value)
        if size is not None and 16 * KIB <= size <= 1 * GIB:
            return size
        self.refuse(
            key,
            f"is {shown(value)}, must be bytes or a size such as"
            ' "16 MiB", from "16 KiB" to "1 GiB"',
        )
        return default

    def items(
        self, key: str, rule: str, read: "Callable[[object], _Item | None]"
    ) -> tuple[_Item, ...]:
        """A list without doubles; `read` gives None for an item that is not `rule`."""
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not value:
            self.refuse(key, f"is {shown(value)}, must be a list of {rule}")
            return ()
        found: dict[_Item, None] = {}
        for item in value:
            entry = read(item)
            if entry is None:
                self.refuse(key, f"{shown(item)} is not allowed, must be {rule}")
            elif entry in found:
                self.refuse(key, f"{shown(item)} is there twice, write it once")
            else:
                found[entry] = None
        return tuple(found)

    def finish(self) -> None:
        """Refuse what nobody took."""
        for key in self._data:
            if key in self._known:
                continue
            near = difflib.get_close_matches(key, self._known, 1)
            hint = f'did you mean "{near[0]}"? ' if near else ""
            known = ", ".join(self._known)
            self.refuse(_bare(key), f"is not known, {hint}allowed: {known}")


def shown(value: object) -> str:
    """A value as a person wrote it, on one line, cut."""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    if isinstance(value, bool):
        text = text.lower()
    if not text.isprintable():
        text = ascii(text)[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."


def _bytes(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS:
        return None
    return int(match[1]) * _UNITS[match[2]]


def _bare(key: str) -> str:
    return key if _BARE.fullmatch(key) else shown(key)
