"""What goes wrong in a run, and when: drawn from the seed, carried out by the cluster.

In: names and times. Out: `Fault`s. A fault is plain data and ends by itself, so that a
story can be written down by hand as well.
"""

import random
from dataclasses import dataclass

COMMANDS = ("pull", "push", "verify", "resync kernel")
CORRUPTIONS = ("flip", "drop", "add")  # of a record of a copy, in silence
ROLES = ("promote", "demote", "fault")
# Faults and how often each is drawn.
_KINDS = {
    "restart": 24,
    "pause": 14,
    "cut": 10,  # nothing between two nodes
    "deafen": 14,  # nothing from the one to the other
    "mute": 5,  # nothing from one node to any other
    "isolate": 8,
    "flap": 12,  # a path, one way, that comes and goes
    "storm": 6,  # a path on which next to nothing comes through whole
    "jump": 6,
    "burst": 8,  # many events at once
    "command": 12,
    "new kernel": 5,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """`what` happens to `who` (names) at `at_s`, for `for_s` seconds."""

    at_s: float
    what: str
    who: tuple[str, ...]
    for_s: float = 0.0
    wire: int | None = None  # the only one that it happens to

    @property
    def until_s(self) -> float:
        """When it is over; a clock that jumps does so at once."""
        return self.at_s + (0.0 if self.what == "jump" else self.for_s)

    def __str__(self) -> str:
        where = "" if self.wire is None else f" on wire {self.wire}"
        names = ",".join(self.who)
        return f"{self.at_s:.2f} s: {self.what} {names} {self.for_s:.2f} s{where}"


def draw_faults(
    rng: random.Random,
    nodes: tuple[str, ...],
    load_s: float,
    wires: int,
    *,
    roles: bool,
) -> tuple[Fault, ...]:
    """The faults of a run, in the order of time."""
    faults = [
        _fault(rng, nodes, rng.uniform(0.0, load_s), wires)
        for _ in range(rng.choice((0, 1, 2, 4)))
    ]
    for _ in range(rng.randint(1, 5) if roles else 0):
        word = rng.choice(ROLES)
        faults.append(Fault(rng.uniform(0.0, load_s), word, (rng.choice(nodes),)))
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def draw_corruptions(
    rng: random.Random, nodes: tuple[str, ...], load_s: float
) -> tuple[Fault, ...]:
    """Records of copies that change in silence."""
    return tuple(
        Fault(
            rng.uniform(0.3, load_s + 0.3),
            rng.choice(CORRUPTIONS),
            tuple(rng.sample(nodes, 2)),
        )
        for _ in range(rng.choice((1, 2, 4)))
    )


def _fault(
    rng: random.Random, nodes: tuple[str, ...], at_s: float, wires: int
) -> Fault:
    first, second = rng.sample(nodes, 2)
    short = rng.choice((0.02, 0.2, 1.0, 1.0, 4.0))
    for_s = rng.uniform(0.2, 1.0) * short
    what = rng.choices(tuple(_KINDS), tuple(_KINDS.values()))[0]
    wire = None
    if wires > 1 and rng.random() < 0.8:
        wire = rng.choice((0, 0, rng.randrange(wires)))
        what = "carrier" if rng.random() < 0.15 else what
    match what:
        case "carrier" | "mute" | "isolate":
            return Fault(at_s, what, (first,), for_s, wire)
        case "cut" | "deafen" | "flap" | "storm":
            return Fault(at_s, what, (first, second), for_s, wire)
        case "command":
            return Fault(at_s, rng.choice(COMMANDS), (first,))
        case "pause" if rng.random() < 0.2:
            return Fault(at_s, what, (first,), rng.uniform(2.0, 10.0))
        case "jump":
            return Fault(at_s, what, (first,), rng.choice((0.3, 2.0, 10.0, 4000.0)))
        case _:
            return Fault(at_s, what, (first,), for_s)
