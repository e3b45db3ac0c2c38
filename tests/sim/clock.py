"""Virtual time.

In: actions with the time at which they are due. Out: the actions run in order of time,
equal times in the order in which they were asked for. Nothing here ever waits.
"""

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Clock:
    """A heap of (time, order, action); `now` moves only in `run_until`."""

    __slots__ = ("_heap", "_order", "now")

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._heap: list[tuple[float, int, Action]] = []
        self._order = 0

    def at(self, time: float, action: Action) -> None:
        """Run the action at that time, at once if it has passed."""
        self._order += 1
        heapq.heappush(self._heap, (max(time, self.now), self._order, action))

    def after(self, delay: float, action: Action) -> None:
        """Run the action that many seconds from now."""
        self.at(self.now + delay, action)

    def run_until(self, time: float) -> None:
        """Run what is due up to that time, then stand there."""
        heap = self._heap
        while heap and heap[0][0] <= time:
            due, _, action = heapq.heappop(heap)
            self.now = due
            action()
        self.now = time
