"""How often one node wakes up and says HELLO: never in circles.

In: every wake-up, every HELLO. Out: `Violation` when one second has too many of those
that the node causes itself; a datagram of another one is somebody else's fault.
"""

import math

from tests.sim.clock import Clock
from tests.sim.watch import Violation

_STORM_LIMIT = 5000  # wake-ups within one second
_HELLOS_SLACK = 60  # in one second, of all that the pace of HELLOs does not count


class Wakes:
    """The counts of one node, second by second."""

    __slots__ = ("_clock", "_hellos", "_name", "_second", "_told_at", "_woken", "total")

    def __init__(self, name: str, clock: Clock) -> None:
        self.total = 0
        self._name = name
        self._clock = clock
        self._second = 0
        self._woken = self._hellos = 0
        self._told_at = -math.inf

    def woke(self) -> None:
        """It has something to do, or thinks so."""
        second = int(self._clock.now)
        if second != self._second:
            self._second, self._woken, self._hellos = second, 0, 0
        self.total += 1
        self._woken += 1
        if self._woken > _STORM_LIMIT:
            raise Violation(f"{self._name} woke {_STORM_LIMIT} times in a second")

    def woken_by_others(self) -> None:
        """The wake-up that comes now is caused by a datagram."""
        self._woken -= 1

    def said_hello(self, told_at: float, gap_s: float) -> None:
        """When its latest HELLO left: whatever others say, they keep a distance."""
        if told_at == self._told_at:
            return
        self._told_at = told_at
        self._hellos += 1
        if self._hellos > _HELLOS_SLACK + 1.2 / max(gap_s, 0.001):
            raise Violation(f"{self._name} said HELLO {self._hellos} times in a second")
