"""A cluster that a test leads by the hand: words for stories.

In: the steps of a story. Out: a `Cluster` without random faults, whose flows are opened
and ended one by one. The watch looks on as in the seeded runs.
"""

import random
from collections.abc import Iterable

from syncd.replication.peer import Peer
from syncd.replication.seal import Security
from syncd.replication.settings import Settings

from tests.sim.cluster import Cluster
from tests.sim.ctnetlink import SRC_NAT, TCP, Tracker
from tests.sim.kernel import Entry
from tests.sim.network import CALM, Weather
from tests.sim.node import Habits, SimulatedNode
from tests.sim.opening import Opening
from tests.sim.plan import Plan
from tests.sim.takeover import take_over
from tests.sim.warm import Warmth
from tests.sim.workload import Pace

QUIET = Pace(initial=0, births=0.0)
_ESTABLISHED_S = 432000


class Story(Cluster):
    """Nodes `names`, all of them up and in step when the story begins."""

    def __init__(
        self,
        *names: str,
        seed: int = 1,
        pace: Pace = QUIET,
        weather: Weather = CALM,
        habits: Habits = Habits(),  # noqa: B008 - frozen
        settings: Settings = Settings(),  # noqa: B008 - frozen
        security: Security = Security(),  # noqa: B008 - frozen
        wires: int = 1,
        old: tuple[str, ...] = (),
        warmth: Warmth | None = None,
    ) -> None:
        super().__init__(
            Plan(
                seed=seed,
                nodes=names,
                weather=weather,
                settings=settings,
                paces=(pace,),
                habits=(habits,),
                security=security,
                wires=wires,
                old=old,
                warmths=(warmth,) * len(names) if warmth is not None else (),
            )
        )
        self._opening = Opening(random.Random(seed), ports=20000, zones=0)
        for node in self.nodes.values():
            self.clock.after(self.rng.uniform(0.0, 0.3), node.start)
        self.wait(0.4)
        self.settle(3.0)
        self.network.weather = weather
        for workload in self.workloads.values():
            workload.start()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run_until(self.clock.now + seconds)

    def open(self, name: str, count: int = 1) -> list[Entry]:
        """Established TCP connections through that firewall, all masqueraded."""
        kernel = self.nodes[name].kernel
        opened: list[Entry] = []
        while len(opened) < count:
            facts = self._opening.draw(TCP)
            if facts.status & SRC_NAT:
                tracker = Tracker(3, 7, 7, 0x23, 0x23)
                facts = facts._replace(status=facts.status | 0x6, tracker=tracker)
                opened.append(kernel.create(facts, _ESTABLISHED_S))
        return opened

    def mark(self, name: str, entries: Iterable[Entry], mark: int) -> None:
        """A rule changes their marks."""
        for entry in entries:
            facts = entry.facts._replace(mark=mark)
            self.nodes[name].kernel.change(entry, facts, _ESTABLISHED_S)

    def close(
        self, name: str, entries: Iterable[Entry], *, early: bool = False
    ) -> None:
        """They end."""
        for entry in entries:
            self.nodes[name].kernel.end(entry, early=early)

    def peer(self, at: str, of: str) -> Peer:
        """What one node knows of another."""
        return self.nodes[at].running.peers[of]

    def cut(self, source: str, target: str) -> None:
        """Nothing comes through from the one to the other."""
        self.network.cut(source, target)

    def isolate(self, name: str) -> None:
        """Nothing comes to that node and nothing from it, until `network.heal`."""
        for other in self.nodes:
            if other != name:
                self.network.cut(name, other)
                self.network.cut(other, name)

    # Failover as `syncd promote` does it

    def promote(self, name: str) -> None:
        """Put the peers' flows into this kernel, then take the role."""
        node = self.nodes[name]
        take_over(node)
        node.command("promote")
        node.command("resync kernel")

    def switch_over(self, old: str, new: str) -> None:
        """Planned: demote, move the address, promote. Masquerading dies with it."""
        self.nodes[old].command("demote")
        self._flush(self.nodes[old])
        for entry in list(self.nodes[old].kernel.flows.values()):
            self.nodes[old].kernel.end(entry, early=True)
        self.promote(new)

    def _flush(self, node: SimulatedNode) -> None:
        """The command waits until all that happened before has been told."""
        outbox, own = node.running.outbox, node.running.own
        for _ in range(100):
            if not outbox.acked or not (outbox.unacked or own.flows.marks):
                return
            self.wait(0.05)
        raise AssertionError(f"{node.name} does not get rid of what it has to tell")
