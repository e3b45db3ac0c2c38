"""What a warm standby asks of its driver, and what it counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from syncd.flows.planting import PlantingPlan


class Task(Enum):
    """What a step asks of the caller."""

    LOOK = auto()  # GET the keys, report with `looked`
    DELETE = auto()  # delete the keys, report with `deleted`
    PLANT = auto()  # carry out the plan, report with `planted`
    ADVANCE = (
        auto()
    )  # send the messages, report with `advanced`; refusals do not matter


@dataclass(slots=True)
class Step:
    """One bounded batch."""

    task: Task
    keys: Sequence[bytes] = ()
    plan: PlantingPlan | None = None
    messages: Sequence[bytes] = ()


@dataclass(slots=True)
class WarmCounts:
    """What was done since the start."""

    created: int = 0
    updated: int = 0
    refreshed: int = 0
    deleted: int = 0
    repaired: int = 0  # copies that the kernel held otherwise than they were written
    replanted: int = 0  # copies that the kernel had lost
    alive: int = 0  # copies that met packets here
    returned: int = 0  # own flows that are copies now
    advanced: int = 0  # own flows that a peer saw more of
    refused: int = 0
