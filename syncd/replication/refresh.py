"""Mode "refresh": everything is told again and again, and what is not told expires.

In: the own tables, peers' tables, the time. Out: frames of the walk that tells all
keys within `refresh_interval_s`, spread evenly; records of peers that were not told
again. The rule of the room: only a peer that is heard loses records; what a silent one
had is what a promotion commits. A record lives for `expire_s` to twice that time after
it was told last: what was not told within a whole period of `expire_s` has ended.
"""

import math

from syncd.flows.own import Own
from syncd.replication.frame import Numbered
from syncd.replication.outbox import Outbox
from syncd.replication.peer import Peer
from syncd.replication.settings import REFRESH, Settings

_KEYS_OF_A_FRAME = 32
_QUIET_INTERVALS = 1.2  # without a HELLO: the time does not count


class Refresh:
    """The walk over this node's keys, and the periods of the peers' tables."""

    __slots__ = ("_began_at", "_keys", "_settings", "_total", "active", "expired")

    def __init__(self, settings: Settings, now: float) -> None:
        self.active = settings.mode == REFRESH
        self.expired = 0  # records of peers that were not told again
        self._settings = settings
        self._began_at = now
        self._keys: list[tuple[bool, bytes]] = []  # (is a flow, key), the next one last
        self._total = 0

    def frames(
        self, outbox: Outbox, own: Own, limit: int, now: float
    ) -> list[Numbered]:
        """What is due of the walk; a new one begins with each interval."""
        frames: list[Numbered] = []
        if not self.active:
            return frames
        interval_s = self._settings.refresh_interval_s
        if now >= self._began_at + interval_s and not self._keys:
            self._began_at = now
            self._keys = [(True, key) for key in own.flows.bodies]
            self._keys += [(False, key) for key in own.expectations.bodies]
            self._total = len(self._keys)
        due = math.ceil(self._total * (now - self._began_at) / interval_s)
        while self._keys and len(frames) < limit:
            told = self._total - len(self._keys)
            if due - told < min(_KEYS_OF_A_FRAME, len(self._keys)):
                break
            part = self._keys[-_KEYS_OF_A_FRAME:][::-1]
            flows = [k for is_flow, k in part if is_flow and k in own.flows.bodies]
            others = [
                key
                for is_flow, key in part
                if not is_flow and key in own.expectations.bodies
            ]
            frames += outbox.pack_keys(own, flows, others)
            del self._keys[-len(part) :]
        return frames

    def deadline(self) -> float:
        """When the next frame of the walk is due."""
        if not self.active:
            return math.inf
        interval_s = self._settings.refresh_interval_s
        if not self._keys:
            return self._began_at + interval_s
        told = self._total - len(self._keys) + min(_KEYS_OF_A_FRAME, len(self._keys))
        return self._began_at + told / self._total * interval_s

    def period_over(self, peer: Peer, now: float) -> bool:
        """Is it time to drop what this peer did not tell again? Begin a new period."""
        if not self.active:
            return False
        if not peer.live or not peer.swept or peer.inbox.begun:
            if not peer.inbox.begun:
                peer.flows.stale = set()
                peer.expectations.stale = set()
            peer.period_ends_at = math.inf
            return False
        if peer.period_ends_at == math.inf:
            self.begin_period(peer, now)
        if now - peer.heard_at > _QUIET_INTERVALS * self._settings.hello_interval_s:
            # It may be dead, and not counted as lost yet: it cannot tell anything.
            peer.period_ends_at = now + self._settings.expire_s
        return now >= peer.period_ends_at

    def begin_period(self, peer: Peer, now: float) -> None:
        """From now on everything has to be told again."""
        peer.flows.begin_sweep()
        peer.expectations.begin_sweep()
        peer.period_ends_at = now + self._settings.expire_s
