"""Virtual time.

In: actions with the time at which they are due. Out: the actions run in order of time,
equal times in the order in which they were asked for. Nothing here ever waits.

Nodes do not see this time. Each has a `LocalClock` of its own: monotonic, from an
origin of its own, too fast or too slow, and it may jump forward.
"""

from collections.abc import Callable
from heapq import heappop, heappush

Action = Callable[[], None]
_ROUNDING_S = 1e-7  # no timer fires too early


class Clock:
    """A heap of (time, order, action); `now` moves only in `run_until`."""

    __slots__ = ("_heap", "_order", "now")

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._heap: list[tuple[float, int, Action]] = []
        self._order = 0

    def at(self, time: float, action: Action) -> None:
        """Run the action at that time, at once if it has passed."""
        self._order = order = self._order + 1
        now = self.now
        heappush(self._heap, (time if time > now else now, order, action))

    def after(self, delay: float, action: Action) -> None:
        """Run the action that many seconds from now."""
        self.at(self.now + delay, action)

    def run_until(self, time: float) -> None:
        """Run what is due up to that time, then stand there."""
        heap = self._heap
        while heap and heap[0][0] <= time:
            self.now, _, action = heappop(heap)
            action()
        self.now = time


class LocalClock:
    """What one node calls `now`: `rate` of its seconds pass in one of the world's."""

    __slots__ = ("_clock", "_origin", "_shown", "rate")

    def __init__(self, clock: Clock, shown: float, rate: float = 1.0) -> None:
        self._clock = clock
        self._origin = clock.now
        self._shown = shown
        self.rate = rate

    @property
    def now(self) -> float:
        """The node's monotonic clock."""
        return self._shown + (self._clock.now - self._origin) * self.rate

    def jump(self, seconds: float) -> None:
        """A guest was moved, or slept: its clock has gone on without it."""
        self._shown += seconds

    def due(self, local: float) -> float:
        """When, in the world's time, will this clock have shown that?"""
        ahead = (local - self._shown) / self.rate
        return max(self._origin + ahead, self._clock.now) + _ROUNDING_S
