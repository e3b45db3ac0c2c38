"""What a warm standby's kernel has to hold when nothing happens any more.

In: a warm node that is up. Out: the first thing that is wrong, or nothing. The rules
are those of docs/adr/0012-planted.md and docs/operation.md: the kernel has the node's
own flows, and of each peer's flows a copy, in the state that was told, and nothing
else. What the kernel refuses has to have a reason that is there to be seen.
"""

from collections import Counter
from typing import TYPE_CHECKING

from syncd.flows.record import plain_key
from syncd.replication.standby import Standby
from syncd.replication.told import told_of

from tests.sim.ctnetlink import (
    ASSURED,
    DST_NAT,
    GRE,
    SEEN_REPLY,
    SRC_NAT,
    TCP,
    Facts,
    Tracker,
    Zoned,
    ways_of,
)
from tests.sim.decode import flow_facts
from tests.sim.kernel import ModelKernel

if TYPE_CHECKING:
    from tests.sim.node import SimulatedNode

_SYN_SENT = 1
_SCALED, _KEPT_FLAGS = 0x01, 0x07
_LASTING = SEEN_REPLY | ASSURED
_FILLED = 0.9  # of a kernel's table: copies may find no room


def wrong_copies(node: "SimulatedNode") -> str:
    """Is each flow that a peer tells in this kernel, as it was told?"""
    assert node.warm is not None
    engine, kernel = node.running, node.kernel
    standby = node.warm.standby
    peers = engine.peers.values()
    if standby.adopting:
        return f"{node.name} has not adopted what it took over"
    told_keys = {key: None for peer in peers for key in peer.flows.bodies}
    for key in told_keys:
        if key in engine.own.flows.bodies:
            continue
        told = told_of(peers, key)
        assert told is not None
        facts = flow_facts(key, told[1])
        entry = kernel.flows.get(key)
        if entry is None or entry.hidden:
            if is_refused(node, key, facts) or _awaits(standby, key):
                continue  # awaited: it was own until now, and may end there as well
            return f"{node.name}'s kernel lacks {key.hex()} of {told[0].name}"
        if standby.register.get(key) is None:
            if key in engine.own.sown:
                continue  # its request has not been answered yet
            return f"{node.name} has no note of its copy of {key.hex()}"
        if other := difference(facts, entry.facts):
            lost = node.losses > 0
            many = node.watch.owners(key) > 1
            if key in standby.refused or ((lost or many) and not node.looked_through):
                continue  # found when the copy is looked at: an event was lost, or
                # another peer's word counts since a promotion or a restart
            return (
                f"{node.name}'s copy of {key.hex()} of {told[0].name} has another "
                f"{other}: {entry.facts}, told {facts}"
            )
    for key in engine.own.planted:
        if key[6] == 1 and key not in kernel.flows:
            return f"{node.name} believes in a copy of {key.hex()}"
    return wrong_expectations(node)


def wrong_expectations(node: "SimulatedNode") -> str:
    """The same for expectations, whose masters have to be there."""
    assert node.warm is not None
    engine, kernel = node.running, node.kernel
    standby = node.warm.standby
    own = engine.own
    told = {key for p in engine.peers.values() for key in p.expectations.bodies}
    zones = Counter(map(plain_key, told))
    for peer in engine.peers.values():
        for key in peer.expectations.bodies:
            if zones[plain_key(key)] > 1:
                continue  # of two that differ in zone only there is one copy
            if own.has(key) or key in standby.refused or _awaits(standby, key):
                continue
            if standby.register.get(key) is None:
                return f"{node.name} has no copy of expectation {key.hex()}"
    for key in engine.own.planted:
        if key[6] != 1 and key not in kernel.expectations:
            return f"{node.name} believes in a copy of expectation {key.hex()}"
    return ""


def wrong_rest(node: "SimulatedNode") -> str:
    """After all timers have run out: what should not be in this kernel any more."""
    assert node.warm is not None
    engine, kernel = node.running, node.kernel
    for key in engine.own.planted:
        if key[6] != 1 or not kernel.flows[key].armed_at < 1e9:
            continue
        if told_of(engine.peers.values(), key) is None:
            if kernel.flows[key].facts.orig.protocol == GRE:
                continue  # its timer cannot be set
            return f"{node.name}'s copy of {key.hex()} outlives its flow"
    for key in engine.own.flows.bodies:
        entry = kernel.flows.get(key)
        if entry is None or entry.met_at >= entry.began_at:
            continue
        if entry.facts.orig.protocol == GRE:
            continue  # what a restarted node finds has no timer that tells
        told = told_of(engine.peers.values(), key)
        if told is not None and not node.watch.was_adopted(node.name, key):
            return f"{node.name} takes its copy of {key.hex()} for its own"
    return ""


def _awaits(standby: Standby, key: bytes) -> bool:
    """Is it to be decided later?"""
    return standby.refused.awaits(key) or standby.endings.awaits(key)


def is_refused(node: "SimulatedNode", key: bytes, facts: Facts) -> bool:
    """Does this kernel refuse the copy, and for a reason?"""
    warm = node.warm
    return (
        warm is not None
        and key in warm.standby.refused
        and _cannot_be(node.kernel, facts)
    )


def _cannot_be(kernel: ModelKernel, facts: Facts) -> bool:
    """Is there a reason for a refusal?"""
    if kernel.limit and len(kernel.flows) >= int(kernel.limit * _FILLED) - 1:
        return True
    return any(_is_taken(kernel, way) for way in ways_of(facts))


def _is_taken(kernel: ModelKernel, way: Zoned) -> bool:
    return way in kernel.holders


def difference(told: Facts, there: Facts) -> str:
    """What a copy is to have as it was told, and has not."""
    for name in ("reply", "zone", "helper", "labels", "mark"):
        if getattr(told, name) != getattr(there, name):
            return name
    if told.master is not None and there.master not in (None, told.master):
        return "master"
    if told.status & _LASTING & ~there.status:
        return "status"
    if (told.status ^ there.status) & (SRC_NAT | DST_NAT):
        return "NAT"
    for name in ("adjust_orig", "adjust_reply", "synproxy"):
        if getattr(told, name) not in (None, getattr(there, name)):
            return name
    return "" if _tracked_alike(told, there) else "state"


def _tracked_alike(told: Facts, there: Facts) -> bool:
    ours, theirs = told.tracker, there.tracker
    if ours is None or theirs is None or told.orig.protocol != TCP:
        return ours == theirs
    if ours.state != theirs.state:
        return False
    if ours.state == _SYN_SENT:
        return True  # the scale of a client without an answer takes a detour
    both = ours.orig_flags & ours.reply_flags & _SCALED
    return _kept(ours) == _kept(theirs) and (
        not both or (ours.orig, ours.reply) == (theirs.orig, theirs.reply)
    )


def _kept(tracker: Tracker) -> tuple[int, int]:
    return tracker.orig_flags & _KEPT_FLAGS, tracker.reply_flags & _KEPT_FLAGS
