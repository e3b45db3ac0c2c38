"""Who holds the others up: peers that leave the window full for too long.

In: the outbox, whether something waits to be told, the time. Out: the peers that
should fall out of the window. The rule of the room: a peer is to blame while the window
is full, it alone (or with others like it) leaves more than half of it unacknowledged,
and somebody else does not. The time adds up until everything was told. A peer that fell
out before may cost the others an eighth of the time that it was out, and no more.
"""

from collections.abc import Mapping

from syncd.replication.outbox import Outbox
from syncd.replication.peer import Peer

_RETRY_SHARE = 1 / 8  # of the time that a peer was out
_STEP_S = 0.5  # at most counted between two looks: this process may have slept


class Pace:
    """Blame, in seconds, since everything was last told."""

    __slots__ = ("_blame_s", "_blamed", "_looked_at")

    def __init__(self) -> None:
        self._blame_s: dict[str, float] = {}
        self._blamed: frozenset[str] = frozenset()  # at the last look
        self._looked_at = 0.0

    def look(
        self,
        outbox: Outbox,
        peers: Mapping[str, Peer],
        *,
        waiting: bool,
        limit_s: float,
        now: float,
    ) -> list[str]:
        """The peers to blame for more than `limit_s`; they begin anew."""
        elapsed_s = min(now - self._looked_at, _STEP_S)
        self._looked_at = now
        for name in self._blamed:
            self._blame_s[name] = self._blame_s.get(name, 0.0) + elapsed_s
        self._blamed = frozenset()
        if not waiting:
            self._blame_s.clear()
            return []
        if not outbox.window_open and len(outbox.acked) > 1:
            self._blamed = _slow(outbox)
        late = [
            name
            for name, blame_s in self._blame_s.items()
            if name in outbox.acked and blame_s >= _limit_s(peers[name], limit_s)
        ]
        for name in late:
            del self._blame_s[name]
        self._blamed -= set(late)
        return late

    @property
    def watching(self) -> bool:
        """Is somebody to blame right now?"""
        return bool(self._blamed)


def _limit_s(peer: Peer, limit_s: float) -> float:
    """How long the others wait for this one."""
    if not peer.patience_s:
        return limit_s
    return min(limit_s, _RETRY_SHARE * peer.patience_s)


def _slow(outbox: Outbox) -> frozenset[str]:
    """Who has half a window to acknowledge, if somebody else has not."""
    numbers = list(outbox.unacked)
    middle = numbers[len(numbers) // 2]
    slow = frozenset(name for name, acked in outbox.acked.items() if acked < middle)
    return slow if len(slow) < len(outbox.acked) else frozenset()
