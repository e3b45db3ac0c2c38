"""The recorded messages of tests/data/ctnetlink, for every test that wants them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from syncd.flows.reader import RecordReader
from syncd.flows.record import EXP_NEW, Record

_DATA = Path(__file__).parents[2] / "data" / "ctnetlink"


@dataclass(frozen=True)
class Recorded:
    """One message, and what the tool that recorded it said about it."""

    scenario: str
    number: int
    type: str
    family: str
    protocol: int
    attributes: tuple[str, ...]
    message: bytes
    line: str

    def __str__(self) -> str:
        return f"{self.scenario}-{self.number}-{self.type}"


@cache
def recorded(scenario: str | None = None) -> tuple[Recorded, ...]:
    """All messages of one scenario or of all, in the order of arrival."""
    names = [
        path.stem
        for path in sorted(_DATA.glob(f"{scenario or '*'}.jsonl"))
        if path.stem != "inject_vectors"
    ]
    found = []
    for name in names:
        for line in (_DATA / f"{name}.jsonl").read_text().splitlines():
            said = json.loads(line)
            found.append(
                Recorded(
                    name,
                    said["n"],
                    said["type"],
                    said["family"],
                    said["l4proto"],
                    tuple(said["attrs"]),
                    bytes.fromhex(said["hex"]),
                    said["line"],
                )
            )
    assert found, f"no recorded messages of {scenario}"
    return tuple(found)


def announced(scenario: str) -> Record:
    """The first expectation that a helper announces in this scenario."""
    records = RecordReader().read([item.message for item in recorded(scenario)])
    return next(record for record in records if record[0] == EXP_NEW)


def without_portid(message: bytes) -> bytes:
    """The event as the kernel sends it when nobody in user space caused it."""
    return message[:12] + bytes(4) + message[16:]
