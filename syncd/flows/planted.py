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

from collections.abc import Collection, Iterator, Sequence

from syncd.flows import restore
from syncd.flows.own import Own
from syncd.flows.record import EXPECTATION, FLOW, plain_key, timeout_of

SHORT_S = 120  # the timer of copies of flows that have less than the long one
SLACK_S = 3  # seconds are whole, and a batch takes a moment
GONE_S = 15  # in which the kernel reports an entry whose timer has run out
END_SHIFT = 32  # of what is known of a timer: above it the end, below it the due second
# C integers when compiled, where those of record.py are objects.
_FLOW, _EXPECTATION, _GRE, _IPV4 = FLOW, EXPECTATION, 47, 2
_SHIFT, _DUE = END_SHIFT, (1 << END_SHIFT) - 1


class Planted:
    """The register; bodies are in `Own`, which loses those that live here."""

    __slots__ = (
        "_at",
        "_count",
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
        # The second in which its timer ends, and that in which it is due: 0 when it was
        # told to be due, and is not noted again yet.
        self.ends: dict[bytes, int] = {}
        # By that second; an entry of the wheel counts if `ends` says the same.
        self._wheel: dict[int, list[bytes]] = {}
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
        second, ends, wheel = int(now), self.ends, self._wheel
        looked_s = min(timer_s, self.long_s)  # GRE has a longer one
        span, latest = max(looked_s // 8, 1), second + looked_s // 2
        count, end = self._count, (second + timer_s) << _SHIFT
        for key in keys:
            due = ends.get(key, 0) & _DUE  # where it is in the wheel, it stays
            if not due:
                count += 1
                due = latest - count % span
                wheel.setdefault(due, []).append(key)
            if key[6] == _EXPECTATION and (plain := plain_key(key)) != key:
                self._zoned[plain] = key
            ends[key] = end | due
        self._count = count

    def postpone(self, key: bytes) -> None:
        """It is not extended now; forget it when its timer has run out.

        It is due again at half of what is left: it may be told anew until then.
        """
        end = self.ends.get(key, self._at << _SHIFT) >> _SHIFT
        left_s = end - self._at
        due = self._at + left_s // 2 if left_s > GONE_S else end + GONE_S
        self._put(key, end, due)

    def forget(self, key: bytes) -> None:
        """It is not planted any more."""
        plain = key if key[6] == _FLOW else plain_key(key)
        self._own.planted.pop(plain, None)
        self.ends.pop(key, None)
        if self._zoned:
            self._zoned.pop(plain, None)

    def deletable(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of these keys that have not become own in the last moment.

        They are about to be deleted: nobody has to believe in them any more.
        """
        get, own = self.get, self._own.has
        found = [
            key
            for key in keys
            if get(key) is not None or (key[6] == _EXPECTATION and not own(key))
        ]
        self._date(found)
        return found

    def deleted(self, keys: Sequence[bytes]) -> None:
        """They are not in this kernel any more."""
        for key in keys:
            self.forget(key)
        self._date(keys)

    def _date(self, keys: Sequence[bytes]) -> None:
        """What a dump or a commit knows of them is old from now on."""
        flows, expectations = self._own.flows, self._own.expectations
        for noted in (flows.touched, flows.disturbed, expectations.touched):
            if noted is not None:
                noted.update(keys, map(plain_key, keys))

    def with_tuple(self, tuples: Collection[bytes]) -> list[bytes]:
        """Flows that have one of these tuples (without header), in either direction."""
        return [
            key
            for key, body in (self._own.planted.items() if tuples else ())
            if key[6] == FLOW
            if body[4 : body[0]] in tuples or key[8 : 4 + key[4]] in tuples
        ]

    def due(self, now: float) -> Iterator[bytes]:
        """The keys whose time has come; each is told once, and to be noted again."""
        bodies, ends, second = self.get, self.ends, int(now)
        if not self._at:
            self._at = min(self._wheel, default=second)
        while self._at <= second:
            for key in self._wheel.pop(self._at, ()):
                known = ends.get(key, 0)
                if known & _DUE != self._at:
                    continue  # forgotten, or put elsewhere since
                body = bodies(key)
                if body is None:  # it became own
                    del ends[key]
                    continue
                timer_s, end = self.timer_s(key, body), known >> _SHIFT
                late_s = end - timer_s * 5 // 8 - second
                if late_s > 0 and timer_s <= self.long_s:  # it was written since
                    self._put(key, end, second + late_s)
                else:
                    ends[key] = end << _SHIFT
                    yield key
            self._at += 1

    def ended(self, key: bytes, now: float) -> bool:
        """Has its timer run out, so that the kernel has ended it by now?"""
        return self.ends.get(key, 0) >> _SHIFT <= now

    def lives(self, key: bytes, held: bytes, now: float, took_s: float) -> bool:
        """Has a packet of it been here? `held` is what the kernel showed just now."""
        left_s, known = timeout_of(held), self.ends.get(key)
        if key[6] == _EXPECTATION or left_s is None or known is None:
            return False
        if self.timer_s(key, held) > self.long_s:
            return False  # GRE: packets do not set its timer
        return abs((known >> _SHIFT) - now - left_s) > SLACK_S + took_s

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
        self._wheel.clear()
        self._at = 0
        return planted

    def _put(self, key: bytes, end: int, second: int) -> None:
        due = max(second, self._at)
        self._wheel.setdefault(due, []).append(key)
        self.ends[key] = end << _SHIFT | due
