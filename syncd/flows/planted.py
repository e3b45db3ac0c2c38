"""What a warm standby has written into this kernel, and until when it lasts there.

In: records that were written with a timer, the time. Out: which of them are due to be
looked at, and whether an entry that the kernel shows is still as it was written. The
rules:

- A copy gets one of two timers, whatever is left of its own: the short one, or the long
  one if its stored timeout is at least as long. GRE has the timer of `restore`.
- A copy is due before half of its timer is gone; those written together are due one
  after the other.
- Nobody but packets and programs changes a timer: an entry whose timer is not the one
  that was written, run down since, lives here.
"""

from collections.abc import Iterator, Sequence

from syncd.flows import restore
from syncd.flows.own import Own
from syncd.flows.record import EXPECTATION, FLOW, plain_key, timeout_of

SHORT_S = 120  # the timer of copies of flows that have less than the long one
SLACK_S = 3  # seconds are whole, and a batch takes a moment
GONE_S = 15  # in which the kernel reports an entry whose timer has run out
_GRE = 47
_IPV4 = 2


class Planted:
    """The register; bodies are in `Own`, which loses those that live here."""

    __slots__ = ("_at", "_count", "_ends", "_own", "_wheel", "_zoned", "long_s")

    def __init__(self, own: Own, long_s: int) -> None:
        self.long_s = long_s
        self._own = own
        self._zoned: dict[bytes, bytes] = {}  # what the kernel names without its zone
        self._ends: dict[bytes, int] = {}  # the second in which the timer ends
        self._wheel: dict[int, list[bytes]] = {}  # by the second in which they are due
        self._at = 0
        self._count = 0

    def __len__(self) -> int:
        return len(self._own.planted)

    def get(self, key: bytes) -> bytes | None:
        """The body that was written, None if that is not planted."""
        planted = self._own.planted
        return planted.get(key if key[6] == FLOW else plain_key(key))

    def keys(self) -> list[bytes]:
        """All that is planted."""
        return list(map(self.name, self._own.planted))

    def name(self, plain: bytes) -> bytes:
        """The key, with its zone, of what the kernel names without."""
        return self._zoned.get(plain, plain)

    def timer_s(self, key: bytes, body: bytes) -> int:
        """The timer that a copy gets."""
        if key[6] == EXPECTATION:
            stored_s = restore.stored_timeout_s(key, body)
        elif key[36 if key[0] == _IPV4 else 60] == _GRE:
            return restore.GRE_TIMEOUT_S
        else:
            stored_s = timeout_of(body)
        if stored_s is not None and stored_s >= self.long_s:
            return self.long_s
        return min(SHORT_S, self.long_s)

    def note(
        self, records: Sequence[tuple[bytes, bytes]], timer_s: int, now: float
    ) -> None:
        """These were written just now, with this timer."""
        second = int(now)
        ends = self._ends
        self._own.plant(records)
        span, half = max(timer_s // 8, 1), min(timer_s, self.long_s) // 2
        for key, _ in records:
            ends[key] = second + timer_s
            self._count += 1
            self._put(key, second + half - self._count % span)
            if key[6] == EXPECTATION and (plain := plain_key(key)) != key:
                self._zoned[plain] = key

    def postpone(self, key: bytes) -> None:
        """It is not extended any more; forget it when its timer has run out."""
        self._put(key, self._ends.get(key, self._at) + GONE_S)

    def forget(self, key: bytes) -> None:
        """It is not planted any more."""
        plain = plain_key(key)
        self._own.planted.pop(plain, None)
        self._ends.pop(key, None)
        self._zoned.pop(plain, None)

    def due(self, now: float) -> Iterator[bytes]:
        """The keys whose time has come; each is told once, and to be noted again."""
        bodies, ends, second = self.get, self._ends, int(now)
        if not self._at:
            self._at = min(self._wheel, default=second)
        while self._at <= second:
            for key in self._wheel.pop(self._at, ()):
                body = bodies(key)
                if body is None:  # it became own, or ended
                    ends.pop(key, None)
                    continue
                timer_s = self.timer_s(key, body)
                left_s = ends.get(key, 0) - second
                if left_s <= timer_s - timer_s * 3 // 8 or timer_s > self.long_s:
                    yield key  # else it was written again since
            self._at += 1

    def ended(self, key: bytes, now: float) -> bool:
        """Has its timer run out, so that the kernel has ended it by now?"""
        return self._ends.get(key, 0) <= now

    def lives(self, key: bytes, held: bytes, now: float) -> bool:
        """Has a packet of it been here? `held` is what the kernel shows."""
        left_s, end = timeout_of(held), self._ends.get(key)
        if key[6] == EXPECTATION or left_s is None or end is None:
            return False
        if self.timer_s(key, held) > self.long_s:
            return False  # GRE: packets do not set its timer
        return abs(end - now - left_s) > SLACK_S

    def clear(self) -> dict[bytes, bytes]:
        """Nothing is planted any more; what was, by key."""
        planted = {self.name(k): body for k, body in self._own.planted.items()}
        self._own.planted.clear()
        self._zoned.clear()
        self._ends.clear()
        self._wheel.clear()
        self._at = 0
        return planted

    def _put(self, key: bytes, second: int) -> None:
        self._wheel.setdefault(max(second, self._at), []).append(key)
