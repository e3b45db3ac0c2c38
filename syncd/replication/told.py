"""What the peers say of a record: whose word counts, how old it is, how long it holds.

In: the peers, a key. Out: the peer that counts, and its body. The rule is that of
docs/adr/0011: the higher claim, then the newer state, then the name.
"""

import math
from collections.abc import Collection, Iterable, Iterator

from syncd.flows import restore
from syncd.flows.batch import TimedRecord
from syncd.flows.likeness import alike
from syncd.flows.record import FLOW
from syncd.flows.selection import is_newer
from syncd.replication.peer import Peer
from syncd.replication.roles import Roles

Told = tuple[Peer, bytes]  # who says it, and the body


def told_of(peers: Iterable[Peer], key: bytes) -> Told | None:
    """The word that counts; None if nobody tells it."""
    best: Told | None = None
    flow = key[6] == FLOW
    for peer in peers:
        body = (peer.flows if flow else peer.expectations).bodies.get(key)
        if body is not None and (best is None or _counts_more(key, (peer, body), best)):
            best = peer, body
    return best


def told_among(peers: Iterable[Peer], keys: Collection[bytes]) -> Iterator[bytes]:
    """Those of these keys that somebody tells."""
    for peer in peers:
        for bodies in (peer.flows.bodies, peer.expectations.bodies):
            if bodies:
                yield from [key for key in keys if key in bodies]


def told_s(key: bytes, peer: Peer) -> int:
    """The second in which the peer's present word of it came."""
    return (peer.flows if key[6] == FLOW else peer.expectations).told_s[key]


def age_s(peers: Iterable[Peer], key: bytes, now: float) -> float:
    """How long ago its present state was told; 0 if nobody tells it any more."""
    told = told_of(peers, key)
    return 0.0 if told is None else max(now - told_s(key, told[0]), 0.0)


def outdated(
    records: Iterable[tuple[bytes, bytes]],
    peers: Collection[Peer],
    sources: Collection[Peer],
    roles: Roles,
    now: float,
) -> list[TimedRecord]:
    """Of these own records those of which one of the sources has another state."""
    newer = []
    for key, ours in records:
        told = told_of(peers, key)
        if told is None or told[0] not in sources or roles.above(told[0]):
            continue
        if not alike(key, ours, told[1]):
            newer.append((key, told[1], now - told_s(key, told[0])))
    return newer


def holds_until(key: bytes, told: Told) -> float:
    """Until when there is to be a copy: of a lost peer, up to the estimate."""
    peer, body = told
    if peer.live:
        return math.inf
    before_s = max(peer.heard_at - told_s(key, peer), 0.0)
    return peer.heard_at + restore.estimate_s(key, body, before_s)


def _counts_more(key: bytes, one: Told, other: Told) -> bool:
    if one[0].claim != other[0].claim:
        return one[0].claim > other[0].claim
    newer, older = (told_s(key, one[0]), one[1]), (told_s(key, other[0]), other[1])
    if newer == older:
        return one[0].name < other[0].name
    return is_newer(newer, older)
