"""Records that the kernel refused, and when each is tried again.

In: keys with the reason. Out: keys whose time has come. The rule: what found the table
full waits for room, in order; anything else for a time that grows with each try.
"""

from collections.abc import Iterator
from itertools import islice

from syncd.flows.commit import BATCH_MESSAGES, TABLE_FULL

FIRST_RETRY_S, LAST_RETRY_S = 1, 120


class Refused:
    """Of one node."""

    __slots__ = ("_at", "_crowded", "_retries", "_tries", "reasons")

    def __init__(self) -> None:
        self.reasons: dict[bytes, str] = {}
        self._tries: dict[bytes, int] = {}
        self._retries: dict[int, list[bytes]] = {}  # by the second
        self._at = 0
        self._crowded: dict[bytes, None] = {}  # these found the table full

    def __contains__(self, key: bytes) -> bool:
        return key in self.reasons

    @property
    def crowded(self) -> int:
        """How many wait for room."""
        return len(self._crowded)

    def counts(self) -> dict[str, int]:
        """How many records, by reason."""
        counts: dict[str, int] = {}
        for reason in self.reasons.values():
            counts[reason] = counts.get(reason, 0) + 1
        return counts

    def add(self, key: bytes, reason: str, now: float) -> None:
        """The kernel does not take it, for this reason."""
        self.reasons[key] = reason
        if reason == TABLE_FULL:
            self._crowded[key] = None
            return
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        wait_s = min(FIRST_RETRY_S * 4 ** min(tries - 1, 8), LAST_RETRY_S)
        self.retry(key, int(now) + wait_s)

    def retry(self, key: bytes, second: int) -> None:
        """Say this key again in that second."""
        self._retries.setdefault(max(second, self._at), []).append(key)

    def awaits(self, key: bytes) -> bool:
        """Is its second still to come?"""
        return any(key in keys for keys in self._retries.values())

    def forget(self, key: bytes) -> None:
        """It was taken, or nobody tells it any more."""
        self.reasons.pop(key, None)
        self._tries.pop(key, None)
        self._crowded.pop(key, None)

    def due(self, room: int | None, now: float) -> Iterator[bytes]:
        """The keys to try now; `room` is that of the kernel's table, if it is known."""
        if not self._at:
            self._at = int(now)
        while self._at <= now:
            yield from self._retries.pop(self._at, ())
            self._at += 1
        fitting = BATCH_MESSAGES if room is None else min(room, BATCH_MESSAGES)
        for key in list(islice(self._crowded, max(fitting, 0))):
            del self._crowded[key]
            yield key

    def all(self) -> Iterator[bytes]:
        """Every key, to be tried at once; the waiting times begin anew."""
        self._tries.clear()
        for keys in self._retries.values():
            yield from keys
        self._retries.clear()
        yield from self.reasons
