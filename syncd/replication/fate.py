"""What decides how long a restored flow lives: the same on all nodes, or named.

In: what this node's kernel is set to, as items (name, value), and what HELLOs of peers
say. Out: what is said about it, and for each peer the differences. The rule of the
room: this never changes a peer's state; it is there to be read.

Every HELLO tells a digest of the sender's items (`Fate`). Who hears another one than
its own asks for the items, by name, in its HELLOs: less and less often, while the peer
is live. Who is asked says them in further HELLOs, a few at a time, and that all begins
anew no sooner than after a second. Items are believed when they have the digest that
was told with them.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Protocol

from syncd.replication.hello import (
    FATE_ITEMS_LIMIT,
    FATE_TEXT_LIMIT,
    Fate,
    Hello,
    Item,
    Value,
)

Items = tuple[Item, ...]

_PARTS_AT_ONCE = 4  # HELLOs with items that leave together
_REST_S = 1.0  # between two times that all of it is told
_ASK_S = 1.0  # until it is asked again, doubled each time ...
_ASK_LIMIT_S = 8.0  # ... up to this
_WANTED_AT_ONCE = 8  # peers that are asked in one HELLO
_NAMED = 4  # differences that a log line names
_SLACK = 32  # bytes by which a HELLO may grow until the last part leaves
_PARTS_LIMIT = 255


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is another one at a peer; None: it is not there."""

    what: str
    here: Value | None
    there: Value | None

    def __str__(self) -> str:
        return f"{self.what}: {_shown(self.here)} here, {_shown(self.there)} there"


class Fits(Protocol):
    """Has a HELLO room for this, and for so many bytes beside it?"""

    def __call__(self, fate: Fate, beside: int) -> bool: ...


@dataclass(slots=True)
class Told:
    """What one peer told of its kernel."""

    digest: int = 0  # 0 = it tells nothing
    items: Items | None = None  # None = not heard in full yet
    parts: dict[int, Items] = field(default_factory=dict)
    count: int = 0  # of the parts
    ask_at: float = 0.0
    wait_s: float = _ASK_S
    differences: tuple[Difference, ...] | None = None  # None = not known
    said: tuple[Difference, ...] = ()  # that the log has

    def renew(self, digest: int) -> None:
        """Its kernel is set in another way now."""
        self.digest = digest
        self.items = self.differences = None
        self.parts.clear()
        self.count = 0
        self.ask_at, self.wait_s = 0.0, _ASK_S

    def collect(self, fate: Fate) -> None:
        """One part of its items."""
        if fate.parts != self.count:
            self.parts.clear()
            self.count = fate.parts
        if fate.part not in self.parts:
            self.parts[fate.part] = fate.items
            self.wait_s = _ASK_S  # it is worth while to ask for the rest
        if len(self.parts) < self.count:
            return
        items = tuple(item for at in sorted(self.parts) for item in self.parts[at])
        self.parts.clear()
        if digest_of(items) == self.digest:
            self.items = items


class FateExchange:
    """This node's items, and whom they were compared with."""

    __slots__ = ("_answered_at", "_asked", "_leaving", "_say", "digest", "items")

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self.items: Items = ()
        self.digest = 0
        self._say = say
        self._asked = False
        self._answered_at = -_REST_S
        self._leaving: list[Fate] = []  # parts that were not said yet, last one first

    def use(self, items: Iterable[Item], told: Mapping[str, Told]) -> bool:
        """This kernel's settings as they are now; are they others than before?"""
        fitting = bounded(items)
        digest = digest_of(fitting)
        if digest == self.digest:
            return False
        self.items, self.digest = fitting, digest
        self._leaving.clear()
        for name, there in told.items():
            there.ask_at, there.wait_s = 0.0, _ASK_S
            self._judge(name, there)
        return True

    def heard(self, name: str, there: Told, hello: Hello, me: str, now: float) -> bool:
        """A HELLO of a peer; True if it should be answered at once."""
        fate = hello.fate
        digest = 0 if fate is None else fate.digest
        if digest != there.digest:
            there.renew(digest)
        if fate is None or not self.digest:
            return False
        if there.items is None:
            if fate.parts and digest != self.digest:
                there.collect(fate)
            self._judge(name, there)
        if me in fate.wanted:
            self._asked = True
        return self._asked and now >= self._answered_at + _REST_S

    def _judge(self, name: str, there: Told) -> None:
        if there.digest == self.digest:
            there.items = self.items
        if there.items is None:
            there.differences = None
            return
        there.differences = differences(self.items, there.items)
        if there.differences == there.said:
            return
        there.said = there.differences
        if not there.said:
            self._say("info", f"the kernels here and on {name} are set alike now")
            return
        named = "; ".join(map(str, there.said[:_NAMED]))
        more = len(there.said) - _NAMED
        named += f"; and {more} more, see syncd status" if more > 0 else ""
        self._say(
            "warning",
            f"restored flows fare otherwise on {name}, its kernel is set differently: "
            + named,
        )

    def told(self, live: Mapping[str, Told], now: float) -> Fate | None:
        """What the next HELLO says: the digest, and whose items are asked for."""
        if not self.digest:
            return None
        lacking = (
            name
            for name, there in live.items()
            if there.digest and there.items is None and now >= there.ask_at
        )
        wanted = tuple(islice(lacking, _WANTED_AT_ONCE))
        for name in wanted:
            there = live[name]
            there.ask_at = now + there.wait_s
            there.wait_s = min(2 * there.wait_s, _ASK_LIMIT_S)
        return Fate(self.digest, wanted)

    def parts(self, fits: Fits, now: float) -> list[Fate]:
        """Those that leave now, if somebody asked."""
        if not self._leaving and self._asked and now >= self._answered_at + _REST_S:
            self._divide(fits, 0)
            self._asked = False
        if not all(_is_one(part) or fits(part, 0) for part in self._next()):
            self._divide(fits, _SLACK)  # what else a HELLO says has grown
        if self._leaving:
            self._answered_at = now
        return [self._leaving.pop() for _ in self._next()]

    def _next(self) -> list[Fate]:
        return self._leaving[-_PARTS_AT_ONCE:]

    def _divide(self, fits: Fits, beside: int) -> None:
        pieces = _split(self.digest, self.items, partial(fits, beside=beside))
        self._leaving = [
            Fate(self.digest, (), part, len(pieces), piece)
            for part, piece in reversed(list(enumerate(pieces)))
            if len(pieces) <= _PARTS_LIMIT
        ]


def digest_of(items: Items) -> int:
    """63 bits over all names and values; never 0."""
    text = json.dumps(sorted(items, key=lambda item: item[0]))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1 or 1


def bounded(items: Iterable[Item]) -> Items:
    """Sorted by name; of what is too many only the number and a digest."""
    named = {_plain(name): value for name, value in items}
    sorted_items = tuple(
        (name, value if isinstance(value, int) else _plain(value))
        for name, value in sorted(named.items(), key=lambda item: item[0])
    )
    if len(sorted_items) <= FATE_ITEMS_LIMIT:
        return sorted_items
    kept, rest = sorted_items[: FATE_ITEMS_LIMIT - 1], sorted_items
    rest = rest[FATE_ITEMS_LIMIT - 1 :]
    return *kept, ("further settings", f"{len(rest)}, digest {digest_of(rest):x}")


def _plain(text: str) -> str:
    """What a frame may carry: short, printable, ASCII."""
    if not (text.isascii() and text.isprintable()):
        text = text.encode("unicode_escape").decode("ascii")
    return text[:FATE_TEXT_LIMIT]


def differences(here: Items, there: Items) -> tuple[Difference, ...]:
    """What is not the same, by name."""
    ours, theirs = dict(here), dict(there)
    return tuple(
        Difference(name, ours.get(name), theirs.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    )


def _is_one(part: Fate) -> bool:
    """Can it not be divided any more?"""
    return len(part.items) < 2


def _split(digest: int, items: Items, fits: Callable[[Fate], bool]) -> list[Items]:
    """Pieces of which each fits a HELLO, unless it is a single item."""
    whole = Fate(digest, (), _PARTS_LIMIT, _PARTS_LIMIT, items)
    if _is_one(whole) or fits(whole):
        return [items]
    middle = len(items) // 2
    return _split(digest, items[:middle], fits) + _split(digest, items[middle:], fits)


def _shown(value: Value | None) -> str:
    return "absent" if value is None else str(value)
