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
# C integers when compiled, where those of record.py are objects.
_FLOW, _EXPECTATION, _GRE, _IPV4 = FLOW, EXPECTATION, 47, 2


class Planted:
    """The register; bodies are in `Own`, which loses those that live here."""

    __slots__ = (
        "_at",
        "_count",
        "_out",
        "_own",
        "_wheel",
        "_zoned",
        "ends",
        "late_s",
        "long_s",
    )

    def __init__(self, own: Own, long_s: int) -> None:
        self.long_s = long_s
        self.late_s = min(SHORT_S, long_s) * 3 // 8  # who has less left was forgotten
        self._own = own
        self._zoned: dict[bytes, bytes] = {}  # what the kernel names without its zone
        # The second in which the timer ends, of each key that is in the wheel or out.
        self.ends: dict[bytes, int] = {}
        self._out: set[bytes] = set()  # told to be due, and not noted again yet
        self._wheel: dict[int, list[bytes]] = {}  # by the second in which they are due
        self._at = 0
        self._count = 0

    def __len__(self) -> int:
        return len(self._own.planted)

    def get(self, key: bytes) -> bytes | None:
        """The body that was written, None if that is not planted."""
        planted = self._own.planted
        return planted.get(key if key[6] == _FLOW else plain_key(key))

    def keys(self) -> list[bytes]:
        """All that is planted."""
        return list(map(self.name, self._own.planted))

    def name(self, plain: bytes) -> bytes:
        """The key, with its zone, of what the kernel names without."""
        return self._zoned.get(plain, plain)

    def timer_s(self, key: bytes, body: bytes) -> int:
        """The timer that a copy gets."""
        if key[6] == _EXPECTATION:
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
        self._own.plant(records)
        self.wrote([key for key, _ in records], timer_s, now)

    def wrote(self, keys: list[bytes], timer_s: int, now: float) -> None:
        """Entries of these keys have this timer, if they are in the kernel."""
        second, ends, wheel, out = int(now), self.ends, self._wheel, self._out
        span, half = max(timer_s // 8, 1), min(timer_s, self.long_s) // 2
        latest, count, end = second + half, self._count, second + timer_s
        for key in keys:
            if key not in ends or key in out:  # else it stays where it is
                count += 1
                out.discard(key)
                wheel.setdefault(latest - count % span, []).append(key)
            if key[6] == _EXPECTATION and (plain := plain_key(key)) != key:
                self._zoned[plain] = key
            ends[key] = end
        self._count = count

    def postpone(self, key: bytes) -> None:
        """It is not extended now; forget it when its timer has run out.

        It is due again at half of what is left: it may be told anew until then.
        """
        self._out.discard(key)
        end = self.ends.setdefault(key, self._at)
        left_s = end - self._at
        self._put(key, self._at + left_s // 2 if left_s > GONE_S else end + GONE_S)

    def forget(self, key: bytes) -> None:
        """It is not planted any more."""
        plain = key if key[6] == _FLOW else plain_key(key)
        self._own.planted.pop(plain, None)
        if key in self._out:
            self._out.discard(key)
            del self.ends[key]
        elif key in self.ends:
            self.ends[key] = 0  # an entry that is found now is none of ours
        if self._zoned:
            self._zoned.pop(plain, None)

    def due(self, now: float) -> Iterator[bytes]:
        """The keys whose time has come; each is told once, and to be noted again."""
        bodies, ends, second = self.get, self.ends, int(now)
        if not self._at:
            self._at = min(self._wheel, default=second)
        while self._at <= second:
            for key in self._wheel.pop(self._at, ()):
                body = bodies(key)
                if body is None:  # it became own, or ended
                    ends.pop(key, None)
                    continue
                timer_s = self.timer_s(key, body)
                late_s = ends.get(key, 0) - timer_s * 5 // 8 - second
                if late_s > 0 and timer_s <= self.long_s:  # it was written since
                    self._put(key, second + late_s)
                else:
                    self._out.add(key)
                    yield key
            self._at += 1

    def ended(self, key: bytes, now: float) -> bool:
        """Has its timer run out, so that the kernel has ended it by now?"""
        return self.ends.get(key, 0) <= now

    def lives(self, key: bytes, held: bytes, now: float, took_s: float) -> bool:
        """Has a packet of it been here? `held` is what the kernel showed just now."""
        left_s, end = timeout_of(held), self.ends.get(key)
        if key[6] == _EXPECTATION or left_s is None or end is None:
            return False
        if self.timer_s(key, held) > self.long_s:
            return False  # GRE: packets do not set its timer
        return abs(end - now - left_s) > SLACK_S + took_s

    def ours(self, key: bytes, held: bytes, now: float) -> bool:
        """Is this entry of the kernel a copy, as far as anybody can tell?

        One that a dump has missed, or of a request whose answer was lost, has the timer
        that was written.
        """
        if self.get(key) is not None:
            return True
        return key in self.ends and not self.lives(key, held, now, 0.0)

    def clear(self) -> dict[bytes, bytes]:
        """Nothing is planted any more; what was, by key."""
        planted = {self.name(k): body for k, body in self._own.planted.items()}
        self._own.planted.clear()
        self._zoned.clear()
        self.ends.clear()
        self._out.clear()
        self._wheel.clear()
        self._at = 0
        return planted

    def _put(self, key: bytes, second: int) -> None:
        self._wheel.setdefault(max(second, self._at), []).append(key)
