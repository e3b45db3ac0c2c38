"""Does the kernel hold each copy as it is told? A dump is looked through, fast.

In: the copies that there are, records of a dump, what peers tell. Out: keys of copies
to ask for: held otherwise, with another timer than was written, or not shown. The rule:
a dump is no proof, for everything changes while it is read. Who doubts asks.

Copies of TCP differ in flags that were written on purpose: what the caller has said of
one pair of states holds for all flows that differ in nothing else.
"""

from collections.abc import Callable

from syncd.flows.planted import END_SHIFT
from syncd.flows.record import EXPECTATION, Record
from syncd.flows.rollcall import RollCall

_SHIFT = END_SHIFT
_SLACK_S = 3  # seconds are whole, and a batch took a moment
_PAIRS_LIMIT = 4096
_EXPECTATION = EXPECTATION
_TIMEOUT_HEAD, _TCP_HEADS = b"\x08\0\x07\0", b"\x30\0\x04\x80\x2c\0\x01\x80"


class Doubts:
    """About the copies, during one dump."""

    __slots__ = (
        "_differ",
        "_ends",
        "_pairs",
        "_planted",
        "_roll",
        "compared",
        "untold",
    )

    def __init__(
        self,
        planted: dict[bytes, bytes],
        ends: dict[bytes, int],
        differ: Callable[[bytes, bytes, bytes], bool],
    ) -> None:
        """`planted` and `ends`, as `Planted` has them, go on changing meanwhile.

        `differ` judges: key, what is told, what is held.
        """
        self.compared = 0  # copies that the kernel showed, and that somebody tells
        self.untold = 0  # that it showed, and nobody tells any more
        self._planted = planted
        self._ends = ends
        self._differ = differ
        self._pairs: dict[bytes, bool] = {}  # of states: do they differ?
        self._roll = RollCall()
        self._roll.begin(planted)

    def note(self, limit: int) -> bool:
        """Note some of what is to be shown; is there more to do?"""
        return self._roll.note(limit)

    def look(
        self, records: list[Record], told: dict[bytes, bytes], now: float
    ) -> list[bytes]:
        """The doubtful ones of a part of the dump."""
        planted, ends, roll = self._planted, self._ends, self._roll
        found: list[bytes] = []
        second = int(now)
        for record in records:
            key, held = record[1], record[2]
            if key not in planted:
                continue
            roll.saw(key)
            body = told.get(key)
            if body is None:
                self.untold += 1
            else:
                self.compared += 1
            known = ends.get(key)
            at = held[0]
            if known is not None and held[at + 8 : at + 12] == _TIMEOUT_HEAD:
                end = known >> _SHIFT
                left = end - second - (held[at + 14] << 8 | held[at + 15])
                left -= held[at + 12] << 24 | held[at + 13] << 16
                if left > _SLACK_S or left < -_SLACK_S:
                    found.append(key)  # packets have been here, maybe
                    continue
            if body is not None and self._differs(key, body, held):
                found.append(key)
        return found

    def unseen(self, limit: int) -> list[bytes]:
        """Copies that a complete dump has not shown; empty: that was all."""
        while keys := self._roll.take(limit):
            found = [k for k in keys if k in self._planted and k[6] != _EXPECTATION]
            if found:
                return found
        return []

    def _differs(self, key: bytes, told: bytes, held: bytes) -> bool:
        """The layout of nearly all: reply tuple, STATUS, TIMEOUT, PROTOINFO, others."""
        if len(told) != len(held):
            return self._differ(key, told, held)
        at = told[0]
        if (
            told[: at + 8] == held[: at + 8]
            and told[at + 8 : at + 12] == _TIMEOUT_HEAD == held[at + 8 : at + 12]
            and told[at + 16 :] == held[at + 16 :]
        ):
            return False
        if (
            told[:at] != held[:at]
            or told[at + 16 : at + 24] != _TCP_HEADS
            or held[at + 16 : at + 24] != _TCP_HEADS
            or told[at + 64 :] != held[at + 64 :]
        ):
            return self._differ(key, told, held)
        pair = told[at : at + 8] + told[at + 16 : at + 64]
        pair += held[at : at + 8] + held[at + 16 : at + 64]
        verdict = self._pairs.get(pair)
        if verdict is None:
            verdict = self._differ(key, told, held)
            if len(self._pairs) < _PAIRS_LIMIT:
                self._pairs[pair] = verdict
        return verdict
