"""The shape of a message: one comes in, a template for all that look like it goes out.

A listing has a million messages, but few shapes: the same attributes at the same
places, the same protocol, the same status. Whoever makes the text of a message asks a
`Shape` for its parts, in one of two ways: what decides about the text (`number`,
`word`) is read at once, what only stands in it (`value`, `address`) becomes a field.
The shape keeps account of both. A `Template` is the text with its fields, and the mask
of the bytes that have to be alike for it to hold.

The rule: no byte is used that was neither decided upon nor made a field, so a template
says of each message that fits what a reading of that message alone would say.
"""

from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import Final, NamedTuple

from syncd.errors import RecordError
from syncd.flows import nla

Place = tuple[int, int]  # start and end of a value in the message
Test = tuple[int, int, int, int]  # start, end, mask, what is left under the mask
Value = int | str | bytes

IPV4: Final = 2
IPV6: Final = 10
_FAMILIES: Final = {IPV4: "ipv4", IPV6: "ipv6"}
FLOW_MESSAGE: Final = 1  # nfnetlink subsystems
EXPECTATION_MESSAGE: Final = 2
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_ADDRESSES: Final = 1 << 16  # texts of IPv6 addresses that are remembered


class Template(NamedTuple):
    """The text of all messages that are alike where `mask` has ones."""

    mask: int
    format: str | None  # None: these are not wanted
    unpack: Callable[[bytes], tuple[int | bytes, ...]]
    pick: Callable[[tuple[int | bytes, ...]], tuple[Value, ...]]
    # (Which field, its text); the second ones ask the whole message.
    converted: tuple[tuple[int, Callable[[bytes], str]], ...]
    numbers: tuple[tuple[int, Callable[[int], Value]], ...]
    computed: tuple[tuple[int, Callable[[bytes], str]], ...]
    tests: tuple[tuple[Test, ...], ...]  # one group has to pass; none: all pass


class Shape:
    """A message that is taken apart, and the text that is put together from it."""

    __slots__ = (
        "_computed",
        "_converted",
        "_decided",
        "_fields",
        "_numbers",
        "_pieces",
        "attributes",
        "family",
        "flags",
        "kind",
        "message",
        "subsystem",
    )

    def __init__(self, message: bytes) -> None:
        if len(message) < 20:
            raise RecordError(f"a message of {len(message)} bytes")
        length = int.from_bytes(message[:4], "little")
        if length != len(message):
            raise RecordError(f"a message of {len(message)} bytes says it has {length}")
        self.message = message
        self._decided: list[Place] = [(0, 8), (16, 17)]
        self._pieces: list[str] = []
        self._fields: list[Place] = []
        self._converted: dict[int, Callable[[bytes], str]] = {}
        self._numbers: dict[int, Callable[[int], Value]] = {}
        self._computed: dict[int, Callable[[bytes], str]] = {}
        self.kind = message[4]
        self.subsystem = message[5]
        self.flags = message[6] | message[7] << 8
        self.family = message[16]
        if self.family not in _FAMILIES:
            raise RecordError(f"address family {self.family}")
        self.attributes = self._walk(20, length)

    @property
    def family_name(self) -> str:
        return _FAMILIES[self.family]

    # Taking apart

    def nested(self, place: Place) -> dict[int, Place]:
        """The attributes inside a value; of duplicates the last one."""
        return self._walk(*place)

    def number(self, place: Place, size: int) -> int:
        """A number that decides about the text."""
        self._check(place, size)
        self._decided.append(place)
        return int.from_bytes(self.message[place[0] : place[1]])

    def word(self, place: Place) -> str:
        """A NUL-terminated string of somebody else, printable; it is decided upon."""
        self._decided.append(place)
        value = self.message[place[0] : place[1]]
        text = value.split(b"\0", 1)[0].decode("ascii", "replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    # Putting together

    def add(self, text: str) -> None:
        """Text that all messages of this shape have."""
        if text:
            self._pieces.append(text.replace("%", "%%"))

    def value(self, place: Place, size: int, form: str = "%d") -> None:
        """A number as it stands in the message."""
        self._check(place, size)
        self._pieces.append(form)
        self._fields.append(place)

    def reckoned(self, place: Place, size: int, text: Callable[[int], Value]) -> None:
        """What is made of a number, for each message anew."""
        self._numbers[len(self._fields)] = text
        self.value(place, size, "%s")

    def converted(self, place: Place, text: Callable[[bytes], str]) -> None:
        """What is made of bytes."""
        start, end = place
        if end - start in _CODES:  # these the template reads as numbers
            self.computed(lambda message: text(message[start:end]))
            return
        self._converted[len(self._fields)] = text
        self._pieces.append("%s")
        self._fields.append(place)

    def computed(self, text: Callable[[bytes], str]) -> None:
        """What is made of the whole message, or of the moment."""
        self._computed[len(self._fields)] = text
        self._pieces.append("%s")
        self._fields.append((16, 17))

    def differing(self, one: Place, other: Place, same: str, different: str) -> None:
        """One of two texts, by whether two values differ."""
        (start, end), (begin, stop) = one, other
        self.computed(
            lambda message: (
                different if message[start:end] != message[begin:stop] else same
            )
        )

    def address(self, place: Place, *, full: bool = False) -> None:
        """An address; `full` as the kernel prints those of IPv6, all digits."""
        start, end = place
        if end - start == 4:
            self._pieces.append("%d.%d.%d.%d")
            self._fields += [(at, at + 1) for at in range(start, end)]
        elif end - start == 16:
            self.converted(place, full_ipv6 if full else short_ipv6)
        else:
            raise RecordError(f"an address of {end - start} bytes")

    def strip(self) -> None:
        """Take one blank from the end of the text, if there is one."""
        if self._pieces and self._pieces[-1].endswith(" "):
            self._pieces[-1] = self._pieces[-1][:-1]

    def template(
        self, *, wanted: bool = True, tests: tuple[tuple[Test, ...], ...] = ()
    ) -> Template:
        """What was put together; `tests` is what is left of the filters."""
        size = len(self.message)
        mask = bytearray(size)
        for start, end in self._decided:
            mask[start:end] = b"\xff" * (end - start)
        places = sorted(set(self._fields))
        form, at = ">", 0
        for start, end in places:
            form += f"{start - at}x{_CODES.get(end - start, f'{end - start}s')}"
            at = end
        indexes = [places.index(place) for place in self._fields]
        return Template(
            int.from_bytes(mask, "little"),
            "".join(self._pieces) if wanted else None,
            Struct(f"{form}{size - at}x").unpack,
            itemgetter(*indexes) if len(indexes) > 1 else _picker(indexes),
            tuple(self._converted.items()),
            tuple(self._numbers.items()),
            tuple(self._computed.items()),
            tests,
        )

    def _walk(self, start: int, end: int) -> dict[int, Place]:
        found = {}
        for kind, at, value_start, value_end in nla.walk(self.message, start, end):
            self._decided.append((at, value_start))
            found[kind] = (value_start, value_end)
        return found

    def _check(self, place: Place, size: int) -> None:
        if place[1] - place[0] != size:
            found = place[1] - place[0]
            raise RecordError(f"a value of {found} bytes at {place[0]}, not {size}")


def fill(template: Template, message: bytes) -> str:
    """The text of a message that fits the template."""
    assert template.format is not None
    values = template.pick(template.unpack(message))
    if template.converted or template.numbers or template.computed:
        changed = list(values)
        for at, text in template.converted:
            value = values[at]
            assert isinstance(value, bytes)
            changed[at] = text(value)
        for at, reckon in template.numbers:
            number = values[at]
            assert isinstance(number, int)
            changed[at] = reckon(number)
        for at, text in template.computed:
            changed[at] = text(message)
        values = tuple(changed)
    return template.format % values


def passes(groups: tuple[tuple[Test, ...], ...], message: bytes) -> bool:
    """Does one of the groups of tests pass as a whole?"""
    for group in groups:
        for start, end, mask, value in group:
            if int.from_bytes(message[start:end]) & mask != value:
                break
        else:
            return True
    return False


def _picker(
    indexes: list[int],
) -> Callable[[tuple[int | bytes, ...]], tuple[Value, ...]]:
    """As itemgetter() for less than two places."""
    return lambda values: tuple([values[index] for index in indexes])


@lru_cache(_ADDRESSES)
def short_ipv6(value: bytes) -> str:
    """As inet_ntop() of glibc writes it."""
    words = [value[at] << 8 | value[at + 1] for at in range(0, 16, 2)]
    start, length = 0, 0
    at = 0
    while at < 8:
        end = at
        while end < 8 and not words[end]:
            end += 1
        if end - at > length:
            start, length = at, end - at
        at = end + 1
    if start == 0 and (length == 6 or (length == 5 and words[5] == 0xFFFF)):
        # Addresses of IPv4 in disguise.
        return f"::{'ffff:' if length == 5 else ''}{'.'.join(map(str, value[12:]))}"
    if length < 2:
        return ":".join([f"{word:x}" for word in words])
    left = ":".join([f"{word:x}" for word in words[:start]])
    right = ":".join([f"{word:x}" for word in words[start + length :]])
    return f"{left}::{right}"


@lru_cache(_ADDRESSES)
def full_ipv6(value: bytes) -> str:
    """As the kernel's %pI6 writes it."""
    digits = value.hex()
    return ":".join([digits[at : at + 4] for at in range(0, 32, 4)])
