"""TCP connections that close: their copies may wait, for mostly they end at once.

In: a key whose connection is beyond ESTABLISHED, its state, the time. Out: may its copy
wait, and which have waited long enough. The rule: a second at most, which is as long as
the first retransmission of a FIN may take (RFC 6298), counted from the first word.
"""

from collections import deque

CLOSING_S = 1.0  # that a connection may be over before its copy says so
_DUE = 0x80  # beside the state: it has waited long enough
_STATE = 0x7F


class Closing:
    """Of one node."""

    __slots__ = ("_order", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[bytes, int] = {}  # how far each is, and `_DUE`
        # When they are due, in that order; one that ended and waits again is due early.
        self._order: deque[tuple[float, bytes]] = deque()

    def wait(self, key: bytes, state: int, now: float) -> bool:
        """The connection is in this state by now; may its copy wait?"""
        known = self._waiting.get(key)
        if known is None:
            self._order.append((now + CLOSING_S, key))
        elif known & _DUE:
            return False
        self._waiting[key] = state & _STATE
        return True

    def end(self, key: bytes) -> int:
        """It does not wait any more; how far it was, 0 if it did not wait."""
        known = self._waiting.pop(key, 0)
        return known & _STATE

    def due(self, now: float) -> list[bytes]:
        """The keys that have waited long enough."""
        order, waiting, keys = self._order, self._waiting, []
        while order and order[0][0] <= now:
            _, key = order.popleft()
            known = waiting.get(key, _DUE)
            if not known & _DUE:
                waiting[key] = known | _DUE
                keys.append(key)
        return keys

    def hurry(self) -> list[bytes]:
        """Nothing is to wait: all keys, which are due now."""
        waiting = self._waiting
        for key, known in waiting.items():
            waiting[key] = known | _DUE
        return list(waiting)
