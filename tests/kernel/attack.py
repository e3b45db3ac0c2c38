"""Attacks on a running cluster by somebody without the key, and verdicts on them.

In: a `Stage`, what to send and how fast. Out: a `Strike` for each attack. The rule: the
load goes on while the attacker sends; afterwards nothing may be known, believed or
forgotten that would not be so without it, every datagram must be in a counter, and the
daemons' logs must not have grown with the attack.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.kernel.cluster import SYNC_PORT, Node
from tests.kernel.trial import Stage
from tests.kernel.truth import Status, ask
from tests.lab import run

PROGRAM, TCP_PROGRAM = "tests.kernel.attacker", "tests.kernel.attacker_tcp"
GUEST = "10.99.0.66"  # the attacker's own address
INTERFACE, GROUP = "eth2", "225.0.0.50"
LOG_BYTES = 20_000  # that an attack may add to one log
_TICKS = os.sysconf("SC_CLK_TCK")
_COUNTED = 0.97  # of what was sent, in the counters of a node
_WORDS = ("restarted", "appeared", "lost", "took over", "Traceback")
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Attack:
    """What somebody sends. `counted` is the share that each node must have counted."""

    name: str
    kind: str
    sentence: str
    counted: float = _COUNTED
    rate: float | None = None  # frames a second, 0 = as fast as it goes
    during: Callable[[Stage], None] | None = None


@dataclass(slots=True)
class Strike:
    """What came of one attack. Counts are those of the node that took the most."""

    name: str
    seconds: float
    sent: int
    rejected: dict[str, int]
    dropped: int
    accepted: int  # that no peer can have sent
    cpu_us: float  # per datagram, above what the load costs
    oldest_s: float
    heal_s: float
    log_bytes: int
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Look:
    """One node before or after an attack."""

    status: Status
    cpu_s: float
    log: int


class Attacker:
    """A namespace on the switch, which is a hub from now on: everybody hears all."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self.stage = stage
        self._tcp = 'type = "tcp"' in stage.made.nodes[0].config.read_text()
        self.recorded = directory / "recorded"
        made = stage.made
        self._namespace = made.lab.namespace("attacker")
        made.lab.plug(self._namespace, INTERFACE, made.switch, "bridge")
        made.lab.address(self._namespace, INTERFACE, f"{GUEST}/24")
        shown = run("ip", "-n", made.switch, "-o", "link", "show", "master", "bridge")
        for line in shown.splitlines():
            port = line.split()[1].split("@")[0].rstrip(":")
            slave = ("type", "bridge_slave", "learning", "off", "flood", "on")
            run("ip", "-n", made.switch, "link", "set", port, *slave)
        run("ip", "-n", made.switch, "link", "set", "bridge", "type", "bridge",
            "ageing_time", "0")  # fmt: skip
        self._idle_s: dict[str, float] = {}  # CPU per second without an attack

    def send(self, kind: str, seconds: float, rate: float = 0.0) -> dict[str, int]:
        """Run the program; how many frames it sent from where to where."""
        order = {"kind": kind, "seconds": seconds, "rate": rate, "port": SYNC_PORT}
        order |= {"own": GUEST, "nodes": ["10.99.0.1", "10.99.0.2", "10.99.0.3"]}
        words = [PROGRAM, INTERFACE, json.dumps(order), str(self.recorded)]
        if self._tcp:
            words = [TCP_PROGRAM, json.dumps(order), str(self.recorded)]
        child = self.stage.made.lab.start(
            *(self._namespace, sys.executable, "-m", *words), output=subprocess.PIPE
        )
        said, _ = child.communicate(timeout=seconds + _PATIENCE_S)
        if child.returncode != 0:
            raise AssertionError(f"{kind}: {said.decode(errors='replace')}")
        sent: dict[str, int] = json.loads(said)
        return sent

    def record(self, seconds: float) -> int:
        """Listen to the load."""
        self.stage.load.begin()
        try:
            return sum(self.send("record", seconds).values())
        finally:
            self.stage.load.end()

    def rest(self, seconds: float) -> None:
        """How much CPU the load alone costs."""
        before = {node.name: _look(node) for node in self.stage.made.nodes}
        self.stage.load.begin()
        time.sleep(seconds)
        self.stage.load.end()
        for node in self.stage.made.nodes:
            spent = _look(node).cpu_s - before[node.name].cpu_s
            self._idle_s[node.name] = spent / seconds

    def strike(self, attack: Attack, seconds: float, rate: float) -> Strike:
        """One attack under load, from its begin to the verdict."""
        stage, nodes = self.stage, self.stage.made.nodes
        stage.watch.take()
        before = {node.name: _look(node) for node in nodes}
        begin = time.monotonic()
        stage.load.begin()
        try:
            pace = rate if attack.rate is None else attack.rate
            if attack.during is not None:
                attack.during(stage)
            sent = self.send(attack.kind, seconds, pace)
        finally:
            stage.load.end()
        lasted_s = time.monotonic() - begin
        spent_s = {node.name: _cpu_s(node) for node in nodes}
        problems: list[str] = []
        heal_s = stage.heal(problems)
        stage.settle(problems)
        found = stage.watch.take()
        problems += found.lies[:3]
        strike = Strike(
            *(attack.name, lasted_s, sum(sent.values()), {}, 0, 0, 0.0),
            *(found.oldest_s, heal_s, 0, problems),
        )
        after = {node.name: _look(node) for node in nodes}
        for name, look in after.items():
            look.cpu_s = spent_s[name]
        for number, node in enumerate(nodes, 1):
            came = _came(sent, f"10.99.0.{number}")
            self._weigh(strike, attack, node, came, before, after)
        return strike

    def _weigh(
        self,
        strike: Strike,
        attack: Attack,
        node: Node,
        came: int,
        before: dict[str, _Look],
        after: dict[str, _Look],
    ) -> None:
        """One node's part in the verdict."""
        old, new = before[node.name], after[node.name]
        told = node.log[old.log :]
        strike.log_bytes = max(strike.log_bytes, len(told))
        if len(told) > LOG_BYTES:
            strike.problems.append(f"{node.name}: {len(told)} bytes of log")
        if attack.during is not None:
            return  # it is another life
        strike.problems += _changes(node, old.status, new.status)
        strike.problems += [
            f"{node.name}: {line}"
            for line in told.splitlines()
            if any(word in line for word in _WORDS)
        ][:3]
        rejected = _rejected(new.status, old.status)
        dropped = _grown(new.status, old.status, "kernel_drops")
        counted = sum(rejected.values()) + dropped
        if counted < came * attack.counted:
            strike.problems.append(
                f"{node.name}: {counted} of {came} counted: {rejected}, "
                f"{dropped} dropped"
            )
        genuine = sum(
            _grown(after[name].status, before[name].status, "sent_frames")
            for name in after
            if name != node.name
        )
        received = _grown(new.status, old.status, "received_frames")
        accepted = received - sum(rejected.values()) - genuine
        strike.accepted = max(strike.accepted, accepted)
        if counted > sum(strike.rejected.values()) + strike.dropped:
            strike.rejected, strike.dropped = rejected, dropped
            idle_s = self._idle_s.get(node.name, 0.0) * strike.seconds
            spent_s = max(new.cpu_s - old.cpu_s - idle_s, 0.0)
            strike.cpu_us = spent_s * 1e6 / max(sum(rejected.values()), 1)


def _came(sent: dict[str, int], own: str) -> int:
    """How many reached a node: not what pretends to come from its own address."""
    ways = {tuple(way.split()): count for way, count in sent.items()}
    return sum(
        count
        for (source, destination), count in ways.items()
        if source != own and destination in (own, GROUP)
    )


def _look(node: Node) -> _Look:
    status = ask(node, "status", _PATIENCE_S)
    if status is None:
        raise AssertionError(f"{node.name} does not answer:\n{node.log[-2000:]}")
    return _Look(status, _cpu_s(node), len(node.log))


def _cpu_s(node: Node) -> float:
    fields = Path(f"/proc/{node.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _changes(node: Node, old: Status, new: Status) -> list[str]:
    """What a stranger made a node believe."""
    known = {peer["node"]: peer for peer in old["peers"]}
    now = {peer["node"]: peer for peer in new["peers"]}
    wrong = [f"{node.name} knows {name}" for name in now.keys() - known.keys()]
    wrong += [f"{node.name} forgot {name}" for name in known.keys() - now.keys()]
    wrong += [
        f"{node.name}: {word} of {name} went from {known[name][word]} to "
        f"{now[name][word]}"
        for name in known.keys() & now.keys()
        for word in ("epoch", "role", "claim", "owner", "repaired")
        if known[name][word] != now[name][word]
    ]
    wrong += [
        f"{node.name}: its {word} went from {old[word]} to {new[word]}"
        for word in ("epoch", "role", "claim")
        if old[word] != new[word]
    ]
    return wrong


def _rejected(new: Status, old: Status) -> dict[str, int]:
    grown: dict[str, int] = {}
    for before, after in zip(old["links"], new["links"], strict=True):
        for reason, count in after["rejected_frames"].items():
            more = count - before["rejected_frames"].get(reason, 0)
            if more:
                grown[reason] = grown.get(reason, 0) + more
    return grown


def _grown(new: Status, old: Status, name: str) -> int:
    pairs = zip(old["links"], new["links"], strict=True)
    return sum(int(after[name]) - int(before[name]) for before, after in pairs)


def _restart_victim(stage: Stage) -> None:
    stage.standby.kill()
    stage.standby.start()


def _restart_peer(stage: Stage) -> None:
    stage.primary.kill()
    stage.primary.start()


def _restart_all(stage: Stage) -> None:
    for node in stage.made.nodes:
        node.kill()
    for node in stage.made.nodes:
        node.start()


def _attacks() -> dict[str, Attack]:
    made = (
        Attack("garbage", "garbage", "random bytes in the names of nodes"),
        Attack("truncated", "truncated", "real frames cut short or too long"),
        # Sent in fragments, counted in datagrams.
        Attack("huge", "huge", "64 KiB in fragments", 0.0, 2000.0),
        Attack("turned", "turned", "real frames with turned bits"),
        Attack("replayed", "replayed", "real frames again and again"),
        Attack("echo", "echo", "every frame again, at once and later"),
        Attack("spliced", "spliced", "parts of real frames in a new order"),
        Attack("forged", "forged", "HELLO and DATA in the names of nodes"),
        Attack("unknown", "unknown", "each frame from another unknown node"),
        *(
            Attack(name, "replayed", f"replays, and {what} restarts", during=restart)
            for name, what, restart in (
                ("victim-restarts", "the standby", _restart_victim),
                ("peer-restarts", "the primary", _restart_peer),
                ("all-restart", "everybody", _restart_all),
            )
        ),
        Attack("garbage-flood", "garbage", "random bytes, as fast as it goes", rate=0),
        Attack("flood", "mixed", "all of it, as fast as it goes", rate=0),
    )
    return {attack.name: attack for attack in made}


def _tcp_attacks() -> dict[str, Attack]:
    kinds = ("garbage", "truncated", "turned", "spliced", "forged", "unknown")
    made = [ATTACKS[name] for name in (*kinds, "all-restart")]
    # A node's own frames come back to it, which it neither takes nor counts.
    made.append(replace(ATTACKS["replayed"], counted=0.05))
    made.append(replace(ATTACKS["flood"], counted=0.8))
    made += [
        Attack("lengths", "lengths", "lengths that cannot be", 0.0, 50.0),
        Attack("strangers", "strangers", "calls of somebody who should not call", 0.9),
    ]
    return {attack.name: attack for attack in made}


ATTACKS = _attacks()
TCP_ATTACKS = _tcp_attacks()
OPEN_TOO = ("garbage", "truncated", "huge", "garbage-flood")  # harmless without a key
