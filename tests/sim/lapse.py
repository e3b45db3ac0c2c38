"""A long quiet time: packets without events here, timers that run down there.

In: a cluster with warm standbys that agrees. Out: the same cluster minutes later, some
of them with a node that was away meanwhile. The rule: flows that live have packets at
their kernels, so they stay; the timers of copies run down and are to be set again; what
is not told any more is gone in time.
"""

from typing import TYPE_CHECKING

from tests.sim.copies import wrong_rest
from tests.sim.faults import ROLES
from tests.sim.watch import Violation

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

_COLLECTED_S = 15.0
_STEP_S = 1.0
_PATIENCE_S = 12.0  # for agreement after all that time


def keep_alive(cluster: "Cluster") -> None:
    """From now on what packets have met is kept alive by packets without events."""
    for node in cluster.nodes.values():
        for entry in node.kernel.flows.values():
            if entry.met_at >= entry.began_at:
                node.kernel.disarm(entry)


def lapse(cluster: "Cluster") -> None:
    """Minutes go by."""
    warm = [node for node in cluster.nodes.values() if node.warm is not None]
    if not warm:
        return  # they run the engine of before
    longest_s = max(node.warmth.long_s for node in warm if node.warmth is not None)
    for fault in cluster.plan.lapses:
        cluster.apply(fault)
        cluster.clock.run_until(cluster.clock.now + fault.for_s + fault.at_s)
        cluster.network.heal()
        keep_alive(cluster)
    if any(fault.what in ("takeover", *ROLES) for fault in cluster.plan.lapses):
        cluster.give_the_traffic(1)  # ends may be held back until then
        keep_alive(cluster)
    rest_s = longest_s + _COLLECTED_S
    end = cluster.clock.now + (rest_s if not cluster.plan.lapses else 2 * rest_s)
    while cluster.clock.now < end:
        cluster.clock.run_until(cluster.clock.now + _STEP_S)
    for node in warm:
        node.looked_through = True
    cluster.settle(_PATIENCE_S)
    for node in warm:
        if wrong := wrong_rest(node):
            raise Violation(wrong)
