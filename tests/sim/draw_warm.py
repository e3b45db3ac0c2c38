"""Which nodes of a run are warm standbys, and what becomes of them in quiet times.

In: a plan as its seed always drew it. Out: in a part of the runs the same with warm
nodes. The random stream is one of its own, so all other runs are what they always were.
Who asks for warm runs gets more of them, and those that there are anyway as they are.
"""

import random
from dataclasses import replace

from syncd.replication.settings import Settings

from tests.sim.faults import Fault
from tests.sim.plan import Plan
from tests.sim.warm import Warmth

_STREAM = 0x3A43
_SHARE = 0.03
_QUIET = ("restart", "pause", "isolate", "new kernel", "takeover", "fault", "demote")


def draw_warm(seed: int, plan: Plan, *, wanted: bool = False) -> Plan:
    """The plan with warm nodes, or as it was; if they are wanted, rarely as it was."""
    rng = random.Random(seed ^ _STREAM)
    if rng.random() >= (1.0 if wanted else _SHARE) or len(plan.nodes) > 5:
        return plan
    if plan.settings.peer_flows_limit < Settings().peer_flows_limit:
        return plan  # after a takeover one node has more than the others may keep
    all_warm = rng.random() < 0.6
    warmths = tuple(
        _warmth(rng) if all_warm or rng.random() < 0.5 else None for _ in plan.nodes
    )
    if not any(warmths):
        return plan
    lapses = []
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 1, 2))):
            what, who = rng.choice(_QUIET), rng.choice(plan.nodes)
            away_s = rng.choice((0.5, 10.0, 45.0, 80.0))
            lapses.append(Fault(rng.uniform(0.0, 5.0), what, (who,), away_s))
    return replace(
        plan,
        warmths=warmths,
        strays_s=rng.choice((0.0, 0.02, 0.1, 0.5)),
        lapses=tuple(lapses),
    )


def _warmth(rng: random.Random) -> Warmth:
    return Warmth(
        long_s=rng.choice((60, 60, 60, 150)),
        beat_s=rng.choice((0.02, 0.02, 0.1)),
        steps=rng.choice((1, 4, 16)),
        answer_s=rng.choice((0.0, 0.0, 0.01, 0.1)),
        failure=rng.choice((0.0, 0.0, 0.0, 0.02)),
    )
