"""What happens in one simulated run, drawn from its seed.

In: a seed. Out: a `Plan`: nodes, pace, weather, habits and a list of faults with their
times. A plan is plain data, so that a story can be written down by hand as well.
"""

import random
from dataclasses import dataclass, field, replace

from syncd.replication.seal import ENFORCE, OFF, PERMISSIVE, Security
from syncd.replication.settings import BEST_EFFORT, REFRESH, Settings

from tests.sim.faults import Fault, draw_corruptions, draw_faults
from tests.sim.network import Weather
from tests.sim.node import Habits
from tests.sim.warm import Warmth
from tests.sim.workload import Pace

_OLD_LIMIT = 3  # nodes of 1.0 in one run: more of them cause storms of HELLOs


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    nodes: tuple[str, ...] = ("fw1", "fw2")
    load_s: float = 3.0
    settle_s: float = 5.0
    weather: Weather = field(default_factory=Weather)
    settings: Settings = field(default_factory=Settings)
    paces: tuple[Pace, ...] = (Pace(),)  # one per node, the last for the rest
    habits: tuple[Habits, ...] = (Habits(),)
    late_end_share: float = 0.0
    primaries: int = 0  # that are left in the end; 0 = nobody is ever promoted
    security: Security = field(default_factory=Security)
    rotation: tuple[Security, ...] = ()  # what every node is told, one after the other
    wires: int = 1
    attacked: bool = False
    old: tuple[str, ...] = ()  # nodes of protocol 1.0
    kernel_limits: tuple[int, ...] = ()  # flows that each kernel has room for, 0 = any
    power_cut: bool = False  # in the end one node dies, another takes over
    faults: tuple[Fault, ...] = ()
    warmths: tuple[Warmth | None, ...] = ()  # which nodes are warm, and how
    strays_s: float = 0.0  # between two packets at a node that has a copy, 0 = none
    lapses: tuple[Fault, ...] = ()  # what happens while copies' timers run down

    def pace(self, index: int) -> Pace:
        """Of the node with this index."""
        return self.paces[min(index, len(self.paces) - 1)]

    def habit(self, index: int) -> Habits:
        """Of the node with this index."""
        return self.habits[min(index, len(self.habits) - 1)]

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {', '.join(self.nodes)}, load {self.load_s:.2f} s",
            f"  {self.weather}",
            f"  {self.settings}",
            f"  security {self.security.mode}, {len(self.rotation)} changes of it, "
            f"{self.wires} wires, old: {','.join(self.old)}, "
            f" {'attacked' if self.attacked else 'no attacker'}",
            f"  kernel limits {self.kernel_limits}, power cut: {self.power_cut}",
            *(f"  {pace}" for pace in self.paces),
            *(f"  {habits}" for habits in self.habits),
            f"  {self.primaries} primaries",
            *(f"  {fault}" for fault in self.faults),
            *(f"  warm: {warmth}" for warmth in self.warmths),
            *(f"  lapse: {fault}" for fault in self.lapses),
        ]
        return "\n".join(lines)


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed)
    counts = {2: 56, 3: 34, 4: 7, 5: 2.5, 8: 0.4, 12: 0.05, 16: 0.05}
    count = rng.choices(tuple(counts), tuple(counts.values()))[0]
    nodes = tuple(f"fw{number}" for number in range(1, count + 1))
    load_s = rng.uniform(0.5, 2.5)
    roles = rng.random() < 0.2
    wires = rng.choices((1, 2, 3), (60, 30, 10))[0]
    security = _security(rng)
    plan = Plan(
        seed=seed,
        nodes=nodes,
        load_s=load_s,
        weather=_weather(rng),
        settings=_settings(rng),
        paces=tuple(_pace(rng, count) for _ in nodes),
        habits=tuple(_habits(rng) for _ in nodes),
        late_end_share=rng.choice((0.0, 0.0, 0.3)),
        primaries=rng.choice((1, 1, 1, 2, count)) if roles else 0,
        faults=draw_faults(rng, nodes, load_s, wires, roles=roles),
        security=security,
        rotation=_rotation(rng, security) if rng.random() < 0.15 else (),
        wires=wires,
        attacked=rng.random() < 0.25,
    )
    return _special(rng, plan)


def _special(rng: random.Random, plan: Plan) -> Plan:
    """Some runs are of another kind: silent corruption, another mode, old nodes."""
    plain = not plan.rotation and not plan.attacked
    match int(rng.random() * 20):
        case 0 | 1 | 2:
            corruptions = draw_corruptions(rng, plan.nodes, plan.load_s)
            return replace(plan, faults=plan.faults + corruptions, settle_s=8.0)
        case 3:
            mode = rng.choice((REFRESH, BEST_EFFORT))
            settings = replace(
                plan.settings, mode=mode, refresh_interval_s=1.0, expire_s=2.0
            )
            return replace(plan, settings=settings, settle_s=12.0)
        case 4 | 5 | 6 | 7 | 8 if plain and plan.security.mode == OFF:
            some = rng.randint(1, len(plan.nodes))
            most = min(len(plan.nodes) - 1, _OLD_LIMIT)
            old = tuple(rng.sample(plan.nodes, some))[:most]
            faults = tuple(f for f in plan.faults if not f.wire and f.what != "carrier")
            return replace(plan, old=old, wires=1, faults=faults)
        case _:
            return plan


def _security(rng: random.Random) -> Security:
    """Two runs of three are sealed, as it is by default."""
    if rng.random() < 1 / 3:
        return Security()
    key_id, secret = rng.randbytes(4), rng.randbytes(32)
    return Security("enforce", {key_id: secret}, key_id)


def _rotation(rng: random.Random, security: Security) -> tuple[Security, ...]:
    """Another key, step by step; or the first one, while the cluster works."""
    fresh, secret = rng.randbytes(4), rng.randbytes(32)
    if security.mode == OFF:
        keys = {fresh: secret}
        return Security(PERMISSIVE, keys, fresh), Security(ENFORCE, keys, fresh)
    old = security.sending
    both = {**security.keys, fresh: secret}
    return (
        Security(ENFORCE, both, old),
        Security(ENFORCE, both, fresh),
        Security(ENFORCE, {fresh: secret}, fresh),
    )


def _weather(rng: random.Random) -> Weather:
    return Weather(
        loss=rng.choice((0.0, 0.01, 0.05, 0.2, 0.4)),
        duplication=rng.choice((0.0, 0.0, 0.05, 0.3)),
        delay_s=rng.choice((0.0001, 0.0005, 0.005, 0.05)),
        jitter_s=rng.choice((0.0, 0.0002, 0.002, 0.02)),
        straggler=rng.choice((0.0, 0.0, 0.005, 0.03)),
        echo=rng.choice((0.0, 0.0, 0.0, 0.05)),
        corruption=rng.choice((0.0, 0.0, 0.02, 0.2)),
    )


def _settings(rng: random.Random) -> Settings:
    return Settings(
        silence_s=rng.choice((2.0, 3.0)),
        window_frames=rng.choice((4, 16, 256, 256)),
        frame_bytes=rng.choice((1000, 1400, 1400, 8900)),
        ack_frames=rng.choice((1, 32, 32)),
        burst_frames=rng.choice((2, 64)),
    )


def _pace(rng: random.Random, count: int) -> Pace:
    if rng.random() < 0.15:
        return Pace(initial=0, births=0.0)
    share = 2 / count
    return Pace(
        initial=int(rng.choice((0, 10, 40)) * share),
        births=rng.choice((0.0, 5.0, 20.0, 40.0)) * share,
        step_s=rng.choice((0.02, 0.1, 0.3)),
        ports=rng.choice((2, 8, 200)),
        zones=rng.choice((0, 2)),
    )


def _habits(rng: random.Random) -> Habits:
    return Habits(
        beat_s=rng.choice((0.0005, 0.005, 0.02)),
        drain_limit=rng.choice((3, 64, 512)),
        queue_limit=rng.choice((4, 16, 256, 4096, 4096)),
        sticky_queue=rng.random() < 0.5,
        chunk=rng.choice((3, 10, 40)),
        chunk_gap_s=rng.choice((0.0002, 0.002, 0.01)),
        dump_failure=rng.choice((0.0, 0.0, 0.0, 0.01)),
        receive_bytes=rng.choice((1 << 13, 1 << 16, 1 << 20)),
        clock_origin=rng.choice((0.0, 7.0, 1000.0, 4e6)),
        clock_rate=rng.choice((1.0, 1.0, 1.0002, 0.97, 1.05)),
    )
