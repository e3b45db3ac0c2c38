"""What was added to the draw later, from a random stream of its own.

In: a plan as its seed always drew it. Out: the same plan, in a part of the runs with
takeovers, power cuts, tables at a limit, upgrades, or a crowd of nodes. A seed that
gets none of these has the run that it always had.
"""

import random
from dataclasses import replace

from tests.sim.draw_warm import draw_warm
from tests.sim.faults import CORRUPTIONS, Fault, draw_faults
from tests.sim.plan import Plan, draw
from tests.sim.workload import Pace

_STREAM = 0xE7E4D
_CROWD_PACE = Pace(initial=4, births=2.0, step_s=0.2)


def draw_extended(seed: int, *, warm: bool = False) -> Plan:
    """The plan of a seed, as it is run; with warm nodes if they are wanted."""
    rng = random.Random(seed ^ _STREAM)
    plan = draw(seed)
    if rng.random() < 0.004:
        plan = _crowd(rng, plan)
    takeovers = rng.random() < (0.6 if plan.primaries else 0.1)
    if takeovers and not any(fault.what in CORRUPTIONS for fault in plan.faults):
        plan = _takeovers(rng, plan)
    if rng.random() < 0.04:
        plan = replace(plan, kernel_limits=_limits(rng, plan))
    if not plan.old and rng.random() < 0.04:
        limit = rng.choice((5, 20, 60))
        settings = replace(plan.settings, peer_flows_limit=limit)
        plan = replace(plan, settings=settings, settle_s=plan.settle_s + 4.0)
    if plan.old and rng.random() < 0.6:
        plan = _upgrades(rng, plan)
    plan = replace(plan, faults=tuple(sorted(plan.faults, key=lambda f: f.at_s)))
    return draw_warm(seed, plan, wanted=warm)


def _crowd(rng: random.Random, plan: Plan) -> Plan:
    """Up to sixteen nodes."""
    count = rng.choice((12, 16, 16))
    nodes = tuple(f"fw{number}" for number in range(1, count + 1))
    faults = draw_faults(rng, nodes, plan.load_s, plan.wires, roles=plan.primaries > 0)
    return replace(
        plan,
        nodes=nodes,
        paces=(_CROWD_PACE,),
        faults=plan.faults + faults,
        settle_s=max(plan.settle_s, 8.0),
    )


def _takeovers(rng: random.Random, plan: Plan) -> Plan:
    """Whole promotions at any moment; some because the primary has lost its power."""
    faults = []
    for _ in range(rng.randint(1, 3)):
        at_s = rng.uniform(0.0, plan.load_s)
        dead, heir = rng.sample(plan.nodes, 2)
        if rng.random() < 0.4:
            faults.append(Fault(at_s, "new kernel", (dead,), rng.uniform(0.1, 2.0)))
            at_s += rng.choice((0.0, 0.01, 0.3, 1.0))
        faults.append(Fault(at_s, "takeover", (heir,)))
    last = rng.random() < 0.5
    return replace(
        plan,
        faults=plan.faults + tuple(faults),
        primaries=plan.primaries or 1,
        power_cut=last,
    )


def _limits(rng: random.Random, plan: Plan) -> tuple[int, ...]:
    """Kernels that have room for so many flows."""
    return tuple(rng.choice((0, 3, 20, 50)) for _ in plan.nodes)


def _upgrades(rng: random.Random, plan: Plan) -> Plan:
    """Nodes of 1.0 that are stopped, and start as today's, one after the other."""
    some = rng.sample(plan.old, rng.randint(1, len(plan.old)))
    upgrades = tuple(
        Fault(rng.uniform(0.0, plan.load_s), "upgrade", (name,), rng.uniform(0.0, 0.5))
        for name in some
    )
    return replace(plan, faults=plan.faults + upgrades)
