"""One run of a plan: a whole cluster, its faults, and the final reckoning.

In: a `Plan`. Out: a `Report`, or `Violation`. After the load and the faults have ended
the network heals, and within `settle_s` of virtual time every node's own table has to
equal its kernel by meaning, every copy its original byte for byte, and every peer has
to be in step; then all of it has to stay so while nothing but heartbeats is sent.
"""

import random
from dataclasses import dataclass

from syncd.flows.own import EARLY_END_S
from syncd.replication.roles import sources
from syncd.replication.settings import BEST_EFFORT, REFRESH

from tests.sim.attacker import Attacker
from tests.sim.clock import Clock
from tests.sim.copies import difference, is_refused, wrong_copies
from tests.sim.corruption import corrupt
from tests.sim.ctnetlink import TCP, Facts, Tracker
from tests.sim.decode import expectation_facts, flow_facts
from tests.sim.fates import await_fates, draw_fates
from tests.sim.faults import Fault
from tests.sim.lapse import keep_alive, lapse
from tests.sim.migration import Migration
from tests.sim.network import ModelNetwork, Weather
from tests.sim.node import SimulatedNode
from tests.sim.plan import Plan
from tests.sim.takeover import as_injected, take_over
from tests.sim.watch import Violation, Watch
from tests.sim.workload import Workload

_HELD_SLACK_S = 0.6  # held ends come true with a tick, which a HELLO brings
_STEP_S = 0.05
_REST_S = 1.5
_REST_PUMPS = 400  # of one node in `_REST_S`
_LOG_LINES = 40
_UNACKNOWLEDGED = 0x10  # IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED
_STORM = Weather(loss=0.9, duplication=0.5, jitter_s=0.05, corruption=0.5)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run."""

    settled_s: float  # after the faults had ended
    events: int
    datagrams: int
    flows: int
    losses: int
    trail_s: float  # of the copies of a node that was ready, at worst


class Cluster:
    """Nodes, kernels, network and clock of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clock = Clock()
        self.rng = random.Random(plan.seed ^ 0x5EED)
        self.network = ModelNetwork(self.clock, random.Random(plan.seed ^ 0xCAB1E))
        self.network.wires = plan.wires
        self.network.sealed = plan.security.mode == "enforce"
        self.watch = Watch(self.clock, expiring=plan.settings.mode == REFRESH)
        self.nodes: dict[str, SimulatedNode] = {}
        self.workloads: dict[str, Workload] = {}
        for index, name in enumerate(plan.nodes):
            node = SimulatedNode(
                name,
                self.clock,
                self.network,
                random.Random(self.rng.random()),
                self.watch,
                plan.settings,
                plan.habit(index),
                plan.security,
            )
            node.kernel.late_end_share = plan.late_end_share
            node.old = name in plan.old
            if plan.kernel_limits:
                node.kernel.limit = plan.kernel_limits[index]
            if plan.warmths:
                node.warmth = plan.warmths[index]
                node.kernel.exclusive = True
                node.kernel.time = node.local
            node.rekeyed = bool(plan.rotation)
            self.nodes[name] = node
            rng = random.Random(self.rng.random())
            self.workloads[name] = Workload(
                node.kernel, self.clock, rng, plan.pace(index)
            )
        self.migration = Migration(self, plan.seed, plan.strays_s)
        self.fates = draw_fates(plan.seed, self.nodes.values(), self.clock, plan.load_s)

    def run(self) -> Report:
        """The whole plan; raises `Violation` with the story of the run."""
        try:
            return self._run()
        except Exception as error:
            raise Violation(self.story(error)) from error

    def story(self, error: Exception) -> str:
        """What went wrong in which run, and how to see it again."""
        lines = [line for node in self.nodes.values() for line in node.log]
        return "\n".join(
            (
                f"{type(error).__name__}: {error}",
                f"replay: scripts/test --seeds 1 --from {self.plan.seed}"
                + " --warm" * bool(self.plan.warmths),
                f"at {self.clock.now:.4f}",
                str(self.plan),
                *sorted(lines)[-_LOG_LINES:],
            )
        )

    def _run(self) -> Report:
        plan, clock = self.plan, self.clock
        self.network.weather = plan.weather
        begin = clock.now
        self.start()
        self._rekey()
        attacker = self._attacker() if plan.attacked else None
        self.migration.start()
        for fault in plan.faults:
            clock.at(begin + fault.at_s, lambda fault=fault: self.apply(fault))  # type: ignore[misc] # mypy and default arguments
        last = max((fault.until_s for fault in plan.faults), default=0.0)
        clock.run_until(begin + plan.load_s)
        self.stop_load()
        clock.run_until(max(clock.now, begin + last + 0.01))
        self._read_backlog()
        self._make_room()
        self.network.heal()
        for node in self.nodes.values():
            node.faulty = False
        if plan.primaries:
            self.give_the_traffic(plan.primaries)
        if plan.settings.mode == BEST_EFFORT:
            for node in self.nodes.values():
                node.command("pull")
        settled_s = self.settle(plan.settle_s)
        if attacker is not None:
            attacker.stop()
        self.rest()
        if plan.warmths:
            lapse(self)
        if self.fates:
            await_fates(self.nodes.values(), self.clock)
        for node in self.nodes.values():
            self.watch.thorough(node)
            self.watch.peers(node)
        if plan.power_cut:
            self.cut_power(*self.rng.sample(list(self.nodes), 2))
        kernels = [node.kernel for node in self.nodes.values()]
        return Report(
            settled_s=settled_s,
            events=sum(kernel.events for kernel in kernels),
            datagrams=self.network.datagrams,
            flows=sum(len(kernel.flows) for kernel in kernels),
            losses=sum(node.losses for node in self.nodes.values()),
            trail_s=self.watch.longest_trail_s,
        )

    def _attacker(self) -> Attacker:
        """He stays until the tables agree."""
        rng = random.Random(self.plan.seed ^ 0xBAD)
        return Attacker(self.clock, self.network, rng, forging=self.network.sealed)

    def start(self) -> None:
        """Traffic first, then the daemons, not all at once."""
        for workload in self.workloads.values():
            workload.start()
        for node in self.nodes.values():
            self.clock.after(self.rng.uniform(0.0, 0.3), node.start)

    def stop_load(self) -> None:
        """From here on nothing changes in any kernel."""
        for workload in self.workloads.values():
            workload.stop()
        if self.plan.warmths:
            keep_alive(self)

    def _read_backlog(self) -> None:
        """A slow daemon may have seconds of events before it; that is no fault."""
        while any(node.kernel.queue.waiting for node in self.nodes.values()):
            self.clock.run_until(self.clock.now + _STEP_S)

    def give_the_traffic(self, primaries: int) -> None:
        """The last word on roles; what was held back is let go."""
        self.clock.run_until(self.clock.now + 10.0)  # stragglers included
        for node in self.nodes.values():
            node.command("demote")
        self.clock.run_until(self.clock.now + 1.5)
        for name in self.rng.sample(list(self.nodes), primaries):
            self.nodes[name].command("promote")

    # Faults

    def apply(self, fault: Fault) -> None:
        """Let it happen, and end by itself."""
        node = self.nodes[fault.who[0]]
        others = [name for name in self.nodes if name != fault.who[0]]
        match fault.what:
            case "restart":
                if node.engine is not None:
                    node.stop()
                    self.clock.after(fault.for_s, node.start)
            case "upgrade":
                if node.engine is not None:
                    node.stop()
                    node.old = False
                    self.clock.after(fault.for_s, node.start)
            case "new kernel":
                if node.engine is not None:
                    self._lose_power(node)
                    self.clock.after(fault.for_s, node.start)
            case "takeover":
                self._take_over(node)
            case "pause":
                node.pause(fault.for_s)
            case "carrier":
                self._carrier(node, fault)
            case "jump":
                node.jump(fault.for_s)
            case "burst":
                self._burst(fault)
            case "flip" | "drop" | "add":
                corrupt(node, fault.what, fault.who[1])
            case "cut":
                self._cut(fault, fault.for_s, (fault.who, fault.who[::-1]))
            case "deafen":
                self._cut(fault, fault.for_s, (fault.who,))
            case "mute":
                self._cut(
                    fault, fault.for_s, tuple((fault.who[0], name) for name in others)
                )
            case "isolate":
                pairs = [(fault.who[0], name) for name in others]
                self._cut(fault, fault.for_s, (*pairs, *((b, a) for a, b in pairs)))
            case "flap":
                self._flap(fault, self.clock.now + fault.for_s)
            case "storm":
                self._storm(fault.who[0], fault.who[1], fault.for_s, fault.wire or 0)
            case word:
                node.command(word)

    def _lose_power(self, node: SimulatedNode) -> None:
        node.stop()
        for entry in list(node.kernel.flows.values()):
            node.kernel.end(entry)

    def _take_over(self, node: SimulatedNode) -> None:
        """The traffic goes on at another node."""
        if node.engine is None or node.paused or node.old:
            return
        node.command("catch up")
        if node.warm is not None:
            node.command("promote")
            self.migration.taken_over(node)
            return
        created = take_over(node)
        node.command("promote")
        for entry in created:
            self.workloads[node.name].adopt(entry)

    def cut_power(self, dead: str, heir: str) -> None:
        """All agree: what the one had is, to the last flow, what the other takes over.

        A node whose traffic somebody took over before has nothing to leave.
        """
        left, node = self.nodes[dead], self.nodes[heir]
        if node.old or left.old:
            return
        inherits = any(p.name == dead for p in sources(node.running.peers.values()))
        owned = left.running.own.flows.bodies
        flows = {
            key: entry.facts for key, entry in left.kernel.flows.items() if key in owned
        }
        self._lose_power(left)
        self.clock.run_until(self.clock.now + self.rng.choice((0.01, 1.0, 5.0)))
        before = set(node.kernel.flows)
        if node.warm is None:
            take_over(node)
        else:
            node.command("promote")
            self.clock.run_until(self.clock.now + 1.0)
        if not inherits or node.kernel.is_full:
            return
        for key, facts in flows.items():
            entry = node.kernel.flows.get(key)
            if entry is None and not is_refused(node, key, facts):
                raise Violation(f"{heir} did not take {key.hex()} over from {dead}")
            alone = key not in before and len(self.nodes) == 2
            if not alone or entry is None:
                continue
            if node.warm is None:
                wrong = entry.facts != as_injected(facts)
            else:
                wrong = bool(difference(facts, entry.facts))
            if wrong:
                raise Violation(f"{heir} has {entry.facts} of {dead}'s {facts}")

    def _make_room(self) -> None:
        """Where peers keep a part only, what is there in the end has to fit."""
        most = self.plan.settings.peer_flows_limit * 3 // 4
        for node in self.nodes.values():
            for entry in list(node.kernel.flows.values())[most:]:
                node.kernel.end(entry)
            for key in list(node.kernel.expectations)[most:]:
                node.kernel.end_expectation(key)

    def _cut(
        self, fault: Fault, for_s: float, paths: tuple[tuple[str, ...], ...]
    ) -> None:
        for source, target in paths:
            self.network.cut(source, target, fault.wire)

        def mend() -> None:
            for source, target in paths:
                self.network.mend(source, target, fault.wire)

        self.clock.after(for_s, mend)

    def _storm(self, source: str, target: str, for_s: float, wire: int) -> None:
        self.network.set_path(source, target, _STORM, wire)
        calm = self.plan.weather
        self.clock.after(
            for_s, lambda: self.network.set_path(source, target, calm, wire)
        )

    def _carrier(self, node: SimulatedNode, fault: Fault) -> None:
        """An interface goes down, and comes back."""
        wire = fault.wire or 0
        pairs = [(node.name, name) for name in self.nodes if name != node.name]
        self._cut(fault, fault.for_s, (*pairs, *((b, a) for a, b in pairs)))
        node.carrier(wire, up=False)
        self.clock.after(fault.for_s, lambda: node.carrier(wire, up=True))

    def _rekey(self) -> None:
        """Each step at each node in its own time, all of one before the next."""
        at = 0.0
        for security in self.plan.rotation:
            for node in self.nodes.values():
                delay = at + self.rng.uniform(0.0, 0.3)
                self.clock.after(
                    delay,
                    lambda n=node, s=security: n.change_security(s),  # type: ignore[misc] # mypy and default arguments
                )
            at += 0.6

    def _flap(self, fault: Fault, until: float) -> None:
        """Down for a moment, up for a moment, and so on."""
        if self.clock.now >= until:
            return
        period_s = self.rng.uniform(0.01, 0.6)
        self._cut(fault, period_s, (fault.who,))
        self.clock.after(period_s * 2, lambda: self._flap(fault, until))

    def _burst(self, fault: Fault) -> None:
        """More events at once than a small queue holds."""
        workload = self.workloads[fault.who[0]]
        for _ in range(self.rng.choice((30, 100))):
            workload.open_one()

    # The reckoning

    def settle(self, limit_s: float) -> float:
        """Run until everything agrees; return how long that took.

        Ends that are held back for seconds (see `OwnTable.held`) are waited for; that
        time is granted beside the limit and not counted.
        """
        begin = self.clock.now
        granted_s = 0.0
        patience_s = EARLY_END_S + _HELD_SLACK_S
        while True:
            if any(node.running.own.flows.held for node in self.nodes.values()):
                granted_s += patience_s
                patience_s = 0.0
            wrong = self.disagreement() or self._undecided()
            if not wrong:
                return max(self.clock.now - begin - granted_s, 0.0)
            if self.clock.now - begin >= limit_s + granted_s:
                raise Violation(f"no agreement after {limit_s} s: {wrong}")
            self.clock.run_until(self.clock.now + _STEP_S)

    def _undecided(self) -> str:
        """Who may bring own flows forward soon, for a peer has been in step so long?"""
        for node in self.nodes.values():
            if node.warm is not None and node.warm.standby.forwarding.undecided:
                return f"{node.name} may bring own flows forward"
        return ""

    def rest(self) -> None:
        """Nothing happens any more: all stays equal, and only heartbeats are sent."""
        before = {name: node.wakes.total for name, node in self.nodes.items()}
        self.clock.run_until(self.clock.now + _REST_S)
        wrong = self.disagreement()
        if wrong:
            raise Violation(f"the agreement did not last: {wrong}")
        for name, node in self.nodes.items():
            pumps = node.wakes.total - before[name]
            if pumps > _REST_PUMPS * len(self.nodes):
                raise Violation(f"{name} woke {pumps} times in {_REST_S} s of rest")

    def disagreement(self) -> str:
        """The first thing that is not equal or not in step, or nothing."""
        for node in self.nodes.values():
            wrong = self._out_of_step(node)
            if wrong:
                return wrong
        for node in self.nodes.values():
            wrong = against_kernel(node)
            if not wrong and node.warm is not None:
                wrong = wrong_copies(node)
            if wrong:
                return wrong
        return ""

    def _out_of_step(self, node: SimulatedNode) -> str:
        engine = node.running
        for name, other in self.nodes.items():
            if name == node.name:
                continue
            peer = engine.peers.get(name)
            if peer is None:
                return f"{node.name} does not know {name}"
            if peer.state.value != "in-step":
                return f"{name} is {peer.state.value} at {node.name}"
            own = other.running.own
            for kind, copy, original in (
                ("flows", peer.flows.bodies, own.flows.bodies),
                ("expectations", peer.expectations.bodies, own.expectations.bodies),
            ):
                if copy != original:
                    missing = len(original.keys() - copy.keys())
                    extra = len(copy.keys() - original.keys())
                    return (
                        f"{node.name}'s {kind} of {name}: {missing} missing, "
                        f"{extra} too many, of {len(original)}"
                    )
        return ""


def _same(held: Facts | None, told: Facts | None) -> bool:
    """But for the TCP flag that says whether data is unacknowledged: that is no news.

    A flow that was own, became a copy and own again shows it, for what was told last
    is what a commit leaves it out of (syncd/flows/likeness.py, restore.py).
    """
    return held == told or (
        held is not None
        and told is not None
        and held._replace(tracker=_steady(held)) == told._replace(tracker=_steady(told))
    )


def _steady(facts: Facts) -> Tracker | None:
    tracker = facts.tracker
    if tracker is None or facts.orig.protocol != TCP:
        return tracker
    return tracker._replace(
        orig_flags=tracker.orig_flags & ~_UNACKNOWLEDGED,
        reply_flags=tracker.reply_flags & ~_UNACKNOWLEDGED,
    )


def against_kernel(node: SimulatedNode) -> str:
    """How the own tables differ from the kernel by meaning, timeouts excepted."""
    own, kernel = node.running.own, node.kernel
    copies = {} if node.old else own.planted
    being_copied = () if node.old else own.sown
    there = {
        key: entry.facts
        for key, entry in kernel.flows.items()
        if key not in copies and key not in being_copied and not entry.hidden
    }
    here = {
        key: flow_facts(key, body)
        for key, body in own.flows.bodies.items()
        if not (key in kernel.flows and kernel.flows[key].hidden)
    }
    for key in there.keys() | here.keys():
        if not _same(there.get(key), here.get(key)):
            return f"{node.name}: kernel {there.get(key)}, own {here.get(key)}"
    entries = [e for key, e in kernel.expectations.items() if key not in copies]
    expected = {entry.expected for entry in entries}
    # Those of a copy may be told, or not: a filter lets them go with their masters.
    due = {entry.expected for entry in entries if entry.master.key not in copies}
    noted = {
        expectation_facts(key, body) for key, body in own.expectations.bodies.items()
    }
    if not due <= noted <= expected or len(noted) != len(own.expectations.bodies):
        return f"{node.name}: kernel expects {due - noted}, own {noted - expected}"
    return ""
