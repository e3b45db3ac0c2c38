"""Trials: a cluster under load, one fault after the other, a verdict on each.

In: faults (see `faults.py`). Out: a `Result` for each. The rule: the load goes on while
the fault lasts and ends with it; from then on the clock runs until every node's copy of
every other node is that node's kernel table, as an independent reader sees it.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.kernel import cluster, mixture, reader
from tests.kernel.churn import Churn
from tests.kernel.cluster import SYNCD, Cluster, Node
from tests.kernel.truth import Findings, Status, Watch, ask, peer_rows
from tests.lab import Lab, run, run_in

HEAL_S = 3.0
NAMES = ("fw1", "fw2", "fw3")
OPEN, ENFORCE = 'mode = "off"\n', 'mode = "enforce"\n'
MULTICAST = 'type = "multicast"\ninterface = "eth2"\ngroup = "225.0.0.50"\n'
UNICAST = 'type = "unicast"\nlocal = "{own}"\npeers = {others}\n'
TCP = 'type = "tcp"\nlocal = "{own}"\npeers = {others}\n'
LINKS = {"multicast": MULTICAST, "unicast": UNICAST, "tcp": TCP}
MIXED = {
    f"{one}+{two}": (one, two)
    for one, two in (
        *(("multicast", "unicast"), ("multicast", "tcp")),
        *(("unicast", "tcp"), ("tcp", "multicast")),
    )
}
_FIRST, _SECOND = ("eth2", "bridge", "10.99.0"), ("eth3", "bridge2", "10.98.0")
_PATIENCE_S = 30.0
_SETTLE_S = 8.0  # for status to say what is true
_STATIC_FLOWS = 150
_SLICE_S = 0.25
_LOOK_S = 0.05
_GROWTH, _GROWTH_MIB = 1.6, 24.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something bad that begins, lasts and is over when `apply` returns."""

    name: str
    apply: Callable[["Stage"], None]
    sentence: str


@dataclass(slots=True)
class Result:
    """What came of one fault."""

    name: str
    lasted_s: float
    events: int
    heal_s: float
    settle_s: float  # until status says in step, verified and ready everywhere
    lost_frames: int
    rejected_frames: int
    findings: Findings
    memory_mib: float  # of the largest daemon
    problems: list[str] = field(default_factory=list)


class Load:
    """Churn on the first node, in a thread of its own, that can pause."""

    def __init__(self, churn: Churn, rate: float) -> None:
        self._churn = churn
        self._rate = rate
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def events(self) -> int:
        return self._churn.events

    def begin(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """No event comes after this returns."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stop.is_set():
            self._churn.run(self._rate, _SLICE_S)


class Stage:
    """A running cluster under load, and the ways to hurt it."""

    def __init__(self, made: Cluster, load: Load, watch: Watch, scale: float) -> None:
        self.made = made
        self.load = load
        self.watch = watch
        text = made.nodes[0].config.read_text()
        self.sealed = OPEN not in text
        self.interfaces = ("eth2", "eth3")[: text.count("[[link]]")]
        self.heal_s = HEAL_S  # what is promised
        self._scale = scale
        self._numbers = {node.name: n for n, node in enumerate(made.nodes, 1)}

    @property
    def primary(self) -> Node:
        return self.made.nodes[0]

    @property
    def standby(self) -> Node:
        return self.made.nodes[1]

    def last(self, seconds: float, least_s: float = 0.5) -> None:
        """Let the fault last: so long in a full run, shorter in a quick one."""
        time.sleep(self.lasting(seconds, least_s))

    def lasting(self, seconds: float, least_s: float = 0.5) -> float:
        return max(seconds * self._scale, least_s)

    def times(self, count: int, least: int = 2) -> int:
        return max(round(count * self._scale), least)

    def ports(self, node: Node) -> list[str]:
        """The switch's ends of all cables of a node."""
        return [self.port(node, interface) for interface in self.interfaces]

    def port(self, node: Node, interface: str = "eth2") -> str:
        """The switch's end of a node's cable."""
        shown = run("ip", "-n", node.namespace, "-o", "link", "show", interface)
        index = shown.split(f"{interface}@if")[1].split(":")[0]
        for line in run("ip", "-n", self.made.switch, "-o", "link").splitlines():
            if line.startswith(f"{index}:"):
                return line.split()[1].split("@")[0].rstrip(":")
        raise AssertionError(f"{node.name}: no port {index}")

    def unplug(self, node: Node) -> None:
        """Take the sync interface away."""
        self.made.lab.unplug(node.namespace, "eth2")

    def plug(self, node: Node) -> None:
        """Give it a new one."""
        self.made.lab.plug(node.namespace, "eth2", self.made.switch, "bridge")
        no_offload(node)
        self.address(node, "add")

    def address(self, node: Node, change: str) -> None:
        """`add` or `delete` the sync address."""
        address = f"10.99.0.{self._numbers[node.name]}/24"
        words = ("address", change, address, "dev", "eth2")
        run("ip", "-n", node.namespace, *words)

    @contextmanager
    def switch_rules(self, *rules: str) -> Iterator[None]:
        """Rules for what the switch forwards, between its ports."""
        text = "\n".join(rules)
        self.made.lab.rules(
            self.made.switch,
            "table bridge faults {\n chain forward {\n"
            f"type filter hook forward priority 0\n{text}\n }}\n}}\n",
        )
        try:
            yield
        finally:
            run_in(self.made.switch, "nft", "delete", "table", "bridge", "faults")

    def trial(self, fault: Fault) -> Result:
        """One fault, from the load's begin to the verdict."""
        self.watch.take()
        before = _totals(self.made.nodes)
        events, begin = self.load.events, time.monotonic()
        self.load.begin()
        try:
            time.sleep(0.5)
            fault.apply(self)
        finally:
            self.load.end()
        lasted_s = time.monotonic() - begin
        problems: list[str] = []
        heal_s = self.heal(problems)
        settle_s = self.settle(problems)
        after = _totals(self.made.nodes)
        findings = self.watch.take()
        problems += findings.lies[:3]
        return Result(
            name=fault.name,
            lasted_s=lasted_s,
            events=self.load.events - events,
            heal_s=heal_s,
            settle_s=settle_s,
            lost_frames=max(after[0] - before[0], 0),
            rejected_frames=max(after[1] - before[1], 0),
            findings=findings,
            memory_mib=max(resident_mib(node) for node in self.made.nodes),
            problems=problems,
        )

    def heal(self, problems: list[str]) -> float:
        """Until all copies are equal; after how long that was seen at the latest.

        Reading and judging take longer than healing: all copies that are not yet known
        to be equal are asked for at once, and that moment counts.
        """
        begin = time.monotonic()
        kernels = {node.name: node.kernel() for node in self.made.nodes}
        pairs = [(s, c) for s in self.made.nodes for c in self.made.nodes if s != c]
        while True:
            told = [(s, c, peer_rows(c, s.name)) for s, c in pairs]
            asked_s = time.monotonic() - begin
            wrong = [
                (s, c, text)
                for s, c, decode in told
                if (text := _difference(kernels[s.name], decode))
            ]
            if not wrong:
                break
            if asked_s > _PATIENCE_S:
                problems += [f"{c.name}'s copy of {s.name}: {t}" for s, c, t in wrong]
                break
            pairs = [(s, c) for s, c, _ in wrong]
            time.sleep(_LOOK_S)
            # The load has ended; the daemons' own connections may still change.
            kernels |= {source.name: source.kernel() for source, _ in pairs}
        problems += [
            f"{node.name} has ended: {node.log[-2000:]}"
            for node in self.made.nodes
            if not node.running
        ]
        if asked_s > self.heal_s:
            problems.append(f"equal after {asked_s:.1f} s only")
        return asked_s

    def settle(self, problems: list[str]) -> float:
        """Until status says what is true everywhere; then `verify` must agree."""
        begin = time.monotonic()
        while True:
            waited = time.monotonic() - begin
            unsettled = [text for n in self.made.nodes for text in self._unsettled(n)]
            if not unsettled:
                break
            if waited > _SETTLE_S:
                problems += unsettled
                return waited
            time.sleep(_LOOK_S)
        for node in self.made.nodes:
            verdict = node.command("verify", "--timeout", "10")
            if verdict.returncode != 0:
                problems.append(f"{node.name}: verify: {verdict.stdout.strip()}")
        return waited

    def _unsettled(self, node: Node) -> Iterator[str]:
        status = ask(node, "status")
        if status is None:
            yield f"{node.name}: no answer"
            return
        if not status["ready"]:
            yield f"{node.name}: not ready"
        if len(status["peers"]) != len(self.made.nodes) - 1:
            yield f"{node.name}: {len(status['peers'])} peers"
        for row in status["peers"]:
            if row["state"] != "in-step" or not row["verified"]:
                word = "" if row["verified"] else "not "
                yield f"{node.name}: {row['node']} {row['state']}, {word}verified"


def _difference(wanted: reader.Rows, decode: Callable[[], reader.Rows] | None) -> str:
    """What is wrong with one copy; nothing if it is equal."""
    if decode is None:
        return "no answer"
    wrong = reader.differences(wanted, decode(), reader.as_told)
    return f"{len(wrong)} differences, such as {wrong[0]}" if wrong else ""


def _totals(nodes: list[Node]) -> tuple[int, int]:
    """Lost and rejected frames of all, as far as they answer."""
    asked = [ask(node, "status") for node in nodes]
    answers: list[Status] = [status for status in asked if status is not None]
    lost = sum(peer["lost_frames"] for status in answers for peer in status["peers"])
    rejected = sum(
        sum(link["rejected_frames"].values())
        for status in answers
        for link in status["links"]
    )
    return lost, rejected


def resident_mib(node: Node) -> float:
    """What a daemon occupies."""
    text = Path(f"/proc/{node.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def grown(first: float, last: float) -> bool:
    """Did memory grow by more than noise?"""
    return last > first * _GROWTH and last > first + _GROWTH_MIB


def no_offload(node: Node) -> None:
    """A relay sees frames before a network card would fill in checksums."""
    for interface in ("eth2", "eth3"):
        if f" {interface}@" in run("ip", "-n", node.namespace, "-o", "link"):
            run_in(node.namespace, "ethtool", "-K", interface, "tx", "off")


def _link_texts(link: str) -> list[str]:
    """The configuration of one link, or of two of different types."""
    if link not in MIXED:
        return [link]
    return [
        LINKS[kind].replace("eth2", interface).replace("225.0.0.50", "225.0.0.51")
        if kind == "multicast"
        else LINKS[kind] + f'interface = "{interface}"\n'
        for kind, (interface, _, _) in zip(MIXED[link], (_FIRST, _SECOND), strict=True)
    ]


def _second_network(made: Cluster) -> None:
    """Another cable for each node, on a bridge of its own."""
    interface, bridge, network = _SECOND
    made.lab.bridge(made.switch, bridge)
    for number, node in enumerate(made.nodes, 1):
        made.lab.plug(node.namespace, interface, made.switch, bridge)
        made.lab.address(node.namespace, interface, f"{network}.{number}/24")


def _configure(
    made: Cluster, directory: Path, link: str, security: str, guests: tuple[str, ...]
) -> None:
    """Other links and other security than `cluster.CONFIGURATION` has."""
    keys = directory / "keys"
    if security != OPEN:
        run(str(SYNCD), "keygen", "--key-file", str(keys))
        security += f'key_file = "{keys}"\n'
    if link in MIXED:
        _second_network(made)
    hosts = range(1, len(made.nodes) + 1)
    for host, node in zip(hosts, made.nodes, strict=True):
        places = []
        for text, (_, _, network) in zip(_link_texts(link), (_FIRST, _SECOND)):  # noqa: B905 - one link or two
            others = [f"{network}.{other}" for other in hosts if other != host]
            words = text.replace("{own}", f"{network}.{host}")
            places.append(words.replace("{others}", json.dumps([*others, *guests])))
        text = node.config.read_text().replace(OPEN, security)
        node.config.write_text(text.replace(MULTICAST, "[[link]]\n".join(places)))


@contextmanager
def staged(
    lab: Lab,
    directory: Path,
    rate: float,
    flows: int,
    scale: float = 1.0,
    link: str = MULTICAST,
    security: str = OPEN,
    guests: tuple[str, ...] = (),
) -> Iterator[Stage]:
    """Three nodes in step, the first one with a load, the second with some flows.

    `link` is text of a `[[link]]` with `{own}` and `{others}` where addresses belong,
    or one of `MIXED`, the first link of which is eth2 and the second one eth3;
    `guests` are among the others; `security` is `OPEN`, or else the cluster's key is
    made and `[security]` is as given, with its `key_file`.
    """
    made = Cluster(lab, directory, NAMES, cluster.OWN_TOO)
    _configure(made, directory, link, security, guests)
    roads = [
        mixture.Roads(lab, node.namespace, f"far-{node.name}")
        for node in made.nodes[:2]
    ]
    churn = Churn(roads[0], made.nodes[0].namespace, flows)
    watch: Watch | None = None
    try:
        for node in made.nodes:
            no_offload(node)
        made.start()
        made.nodes[0].ask("promote")
        second = made.nodes[1].namespace
        mixture.play(roads[1], second, mixture.talks(_STATIC_FLOWS))
        churn.run(rate, 8 * flows / rate)  # every flow has begun
        watch = Watch(made.nodes[0], made.nodes[1:], 0.9 * flows / rate)
        yield Stage(made, Load(churn, rate), watch, scale)
    finally:
        if watch is not None:
            watch.close()
        made.close()
        churn.close()
        for road in roads:
            road.close()
