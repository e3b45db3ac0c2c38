"""Packets of flows that come to a node which has only copies of them.

In: a cluster with warm standbys. Out: entries that packets meet: one at a time while
nobody announced anything (two active firewalls, a router that chooses another way), or
all that a promotion took over. The random stream is one of its own.
"""

import random
from typing import TYPE_CHECKING

from tests.sim.ctnetlink import ASSURED, SEEN_REPLY
from tests.sim.kernel import Entry

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.node import SimulatedNode

_STREAM = 0x57A4
_TAKEN_S = 0.2  # after a takeover


class Migration:
    """Where flows go on."""

    def __init__(self, cluster: "Cluster", seed: int, mean_s: float) -> None:
        self._cluster = cluster
        self._rng = random.Random(seed ^ _STREAM)
        self._mean_s = mean_s
        self._moved: set[Entry] = set()

    def start(self) -> None:
        """Stray packets until the load stops."""
        if self._mean_s:
            self._wait()

    def _wait(self) -> None:
        delay_s = self._rng.expovariate(1 / self._mean_s)
        self._cluster.clock.after(delay_s, self._stray)

    def _stray(self) -> None:
        nodes = list(self._cluster.nodes.values())
        if not self._cluster.workloads[nodes[0].name].running:
            return
        node = self._rng.choice([node for node in nodes if node.warmth is not None])
        copies = [
            entry
            for key, entry in sorted(node.kernel.flows.items())
            if entry.injected and not entry.hidden
        ]
        if copies:
            self._meet(node, self._rng.choice(copies))
        self._wait()

    def _meet(self, node: "SimulatedNode", entry: Entry) -> None:
        """A packet that moves the timer, or one that changes more; others follow."""
        rng, kernel = self._rng, node.kernel
        match rng.randrange(4):
            case 0 | 1:
                kernel.refresh(entry, rng.choice((30, 120, 300, 432000)))
            case 2:
                facts = entry.facts
                status = facts.status | SEEN_REPLY | ASSURED
                kernel.change(entry, facts._replace(status=status), 300)
            case _:
                self._go_on(node, entry)

    def _go_on(self, node: "SimulatedNode", entry: Entry) -> None:
        if entry not in self._moved:
            self._moved.add(entry)
            self._cluster.workloads[node.name].adopt(entry)

    def taken_over(self, node: "SimulatedNode") -> None:
        """Soon the packets of what a promotion takes over come here."""

        def come() -> None:
            warm = node.warm
            for key in sorted(warm.taken) if warm is not None else ():
                entry = node.kernel.flows.get(key)
                if entry is not None and not entry.hidden:
                    self._go_on(node, entry)

        self._cluster.clock.after(_TAKEN_S, come)
