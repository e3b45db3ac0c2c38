"""TCP connections that close: their copies may wait, for mostly they end at once.

In: a key whose connection is beyond ESTABLISHED, the time. Out: may its copy wait, and
which have waited long enough. The rule: half a second, counted from the first word.
"""

import math
from collections import deque
from collections.abc import Iterator

CLOSING_S = 0.5  # that a connection may be over before its copy says so
_NEVER = math.inf, 0


class Closing:
    """Of one node."""

    __slots__ = ("_order", "_waiting")

    def __init__(self) -> None:
        # When their copies are told, and how far they are.
        self._waiting: dict[bytes, tuple[float, int]] = {}
        self._order: deque[bytes] = deque()  # these, in that order

    def wait(self, key: bytes, state: int, now: float) -> bool:
        """The connection is in this state by now; may its copy wait?"""
        due, _ = self._waiting.get(key, _NEVER)
        if now >= due:
            return False
        if due == math.inf:
            due = now + CLOSING_S
            self._order.append(key)
        self._waiting[key] = due, state
        return True

    def end(self, key: bytes) -> int:
        """It does not wait any more; how far it was, 0 if it did not wait."""
        return self._waiting.pop(key, _NEVER)[1]

    def due(self, now: float) -> Iterator[bytes]:
        """The keys that have waited long enough."""
        order, waiting = self._order, self._waiting
        while order and waiting.get(order[0], (0.0, 0))[0] <= now:
            yield order.popleft()

    def hurry(self) -> list[bytes]:
        """Nothing is to wait: all keys, which are due now."""
        self._waiting = {key: (0.0, told[1]) for key, told in self._waiting.items()}
        return list(self._waiting)
