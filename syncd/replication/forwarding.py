"""Own flows that a peer has seen more of: they are brought forward, never back.

In: keys of such flows. Out: a step that asks the kernel for it. The rules:

- What is asked for follows from what is known when the step is taken, for the kernel
  goes on meanwhile.
- What a peer told before it was in step may be left over from an ended flow of that
  tuple: it counts if the peer still says so a while later.
- Marks and labels are taken from a primary by a node that is none.
"""

import math
from collections.abc import Callable, Iterable, Iterator

from syncd.flows.forward import advance, bring
from syncd.flows.masks import Masks
from syncd.flows.own import Own
from syncd.replication.peer import Peer, PeerState
from syncd.replication.roles import PRIMARY, Roles
from syncd.replication.steps import Step, Task, WarmCounts
from syncd.replication.told import Told, told_s

SETTLED_S = 2.0  # in step, in which a restarted node gives up what is left over


class Forwarding:
    """Of one node; `told` says whose word of a key counts."""

    __slots__ = ("_counts", "_doubted", "_in_step", "_keys", "_own", "_roles", "_told")

    def __init__(
        self,
        own: Own,
        told: Callable[[bytes], Told | None],
        roles: Roles,
        counts: WarmCounts,
    ) -> None:
        self._own = own
        self._told = told
        self._roles = roles
        self._counts = counts
        self._keys: dict[bytes, None] = {}
        self._in_step: dict[str, float] = {}  # since when each peer is
        self._doubted: dict[str, set[bytes]] = {}  # by the peer that tells them

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def undecided(self) -> bool:
        """Are there words of peers that may count later?"""
        return any(self._doubted.values())

    def look(self, peers: Iterable[Peer], now: float) -> Iterator[bytes]:
        """The keys that are to be noted once more: what is told of them counts now."""
        for peer in peers:
            if peer.state is not PeerState.IN_STEP:
                self._in_step.pop(peer.name, None)
            elif now >= self._in_step.setdefault(peer.name, now) + SETTLED_S:
                yield from self._doubted.pop(peer.name, ())

    def note(
        self, key: bytes, ours: bytes, told: Told, masks: Masks, now: float
    ) -> None:
        """Bring this one forward if the peer's state is further, and is believed."""
        peer, theirs = told
        since = self._in_step.get(peer.name, math.inf)
        if told_s(key, peer) <= since and now < since + SETTLED_S:
            self._doubted.setdefault(peer.name, set()).add(key)
        elif advance(ours, theirs, self._followed(peer, masks)):
            self._keys[key] = None

    def _followed(self, peer: Peer, masks: Masks) -> Masks | None:
        """Which bits of the peer's mark and labels count here."""
        follows = peer.role == PRIMARY and self._roles.role != PRIMARY
        return masks if follows else None

    def step(self, masks: Masks) -> Step:
        """All that was noted."""
        keys = list(self._keys)
        messages: list[bytes] = []
        self._keys.clear()
        for key in keys:
            ours, told = self._own.flows.bodies.get(key), self._told(key)
            if not (ours and told):
                continue
            followed = self._followed(told[0], masks)
            if further := advance(ours, told[1], followed):
                number = len(messages) + 1
                messages.append(bring(key, further, number, ours, followed))
        self._counts.advanced += len(messages)
        return Step(Task.ADVANCE, keys, messages=messages)
