"""What the kernels of a run are set to, and who has to know of which difference.

In: a seed, the nodes. Out: in a part of the runs settings that are not all alike and
change meanwhile; in the end every node must name exactly what is different at each
other one. The random stream is one of its own: all else happens as it always did.
"""

import random
from collections.abc import Iterable

from syncd.replication.fate import Items, bounded, differences

from tests.sim.clock import Clock
from tests.sim.node import SimulatedNode
from tests.sim.watch import Violation

_STREAM = 0xFA7E
_SHARE = 0.3
_PATIENCE_S = 40.0  # a node asks every 8 s at least
_STEP_S = 0.25


def draw_fates(
    seed: int, nodes: Iterable[SimulatedNode], clock: Clock, load_s: float
) -> bool:
    """Give some runs settings; did this one get some?"""
    rng = random.Random(seed ^ _STREAM)
    if rng.random() >= _SHARE:
        return False
    count = rng.choice((1, 40, 40, 300))
    base = [
        (f"nf_conntrack_setting_{at}", rng.randrange(1 << 20)) for at in range(count)
    ]
    for node in nodes:
        node.fate = _varied(rng, base)
        for _ in range(rng.choice((0, 0, 1, 3))):
            later = _varied(rng, base)
            clock.after(
                rng.uniform(0.0, load_s),
                lambda node=node, later=later: node.set_fate(later),  # type: ignore[misc] # mypy and default arguments
            )
    return True


def _varied(rng: random.Random, base: list[tuple[str, int]]) -> Items:
    items = dict(base)
    for _ in range(rng.choice((0, 0, 1, 5))):
        name = rng.choice(base)[0]
        if rng.random() < 0.3:
            items.pop(name, None)
        else:
            items[name] = rng.randrange(1 << 20)
    return bounded(items.items())


def await_fates(nodes: Iterable[SimulatedNode], clock: Clock) -> None:
    """Every node names the differences in time, and no others."""
    end = clock.now + _PATIENCE_S
    nodes = list(nodes)
    while wrong := _wrong(nodes):
        if clock.now >= end:
            raise Violation(wrong)
        clock.run_until(clock.now + _STEP_S)


def _wrong(nodes: list[SimulatedNode]) -> str:
    for node in nodes:
        for other in nodes:
            if node is other or node.old:
                continue
            found = node.running.peers[other.name].fate.differences
            due = None
            if not other.old:
                due = differences(node.fate or (), other.fate or ())
            if found != due:
                return f"{node.name} names of {other.name}: {found}, not {due}"
    return ""
