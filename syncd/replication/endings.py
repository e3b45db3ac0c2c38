"""What was own, ended in this kernel, and is still told by a peer: a copy again?

In: keys that are own no more. Out: those that a peer has told on for a while. The rule:
a peer that has lived on since would have told the end, if it had seen it. Who died
before that knew of no end: what ended here has ended, and leaves that peer's table.
"""

import math
from collections.abc import Iterable, Mapping

from syncd.replication.peer import Peer
from syncd.replication.told import told_among

LEFT_S = 2  # in which a flow that ended here mostly ends at the peer too
_AGAIN_S = 0.5  # between two looks at a peer that may be dead


class Endings:
    """Of one warm standby."""

    __slots__ = ("_ended", "_peers")

    def __init__(self, peers: Mapping[str, Peer]) -> None:
        self._peers = peers
        self._ended: list[tuple[float, float, list[bytes]]] = []  # due, since, keys

    def awaits(self, key: bytes) -> bool:
        """Is it not decided yet?"""
        return any(key in keys for _, _, keys in self._ended)

    def look(self, ended: Iterable[bytes], now: float) -> list[bytes]:
        """These have just ended; which of all are to be copies now?"""
        if told := list(told_among(self._peers.values(), list(ended))):
            self._ended.append((now + LEFT_S, now, told))
        copies: list[bytes] = []
        for waiting in [item for item in self._ended if item[0] <= now]:
            self._ended.remove(waiting)
            _, since, keys = waiting
            lived = since + LEFT_S / 2
            copies += self._told(keys, lived)
            peers = self._peers.values()
            if any(peer.live and peer.heard_at < lived for peer in peers):
                self._ended.append((now + _AGAIN_S, since, keys))
        return copies

    def hurry(self, ended: Iterable[bytes]) -> list[bytes]:
        """The same at once: whoever seems to live does."""
        waiting, self._ended = self._ended, []
        keys = [*ended, *(key for _, _, keys in waiting for key in keys)]
        return self._told(keys, -math.inf)

    def _told(self, keys: list[bytes], lived: float) -> list[bytes]:
        """Those that a living peer tells, which was heard at that time or later."""
        told: list[bytes] = []
        for peer in self._peers.values():
            if not peer.live:
                peer.flows.drop(keys)
                peer.expectations.drop(keys)
            elif peer.heard_at >= lived:
                told += told_among([peer], keys)
        return told
