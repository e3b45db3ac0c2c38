"""Figures of all rounds in, a table for the eye and JSON for programs out.

Medians are over rounds; a ratio is taken within each round, where both had the same
load within minutes, and its median over rounds is shown.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.daemons import Daemon

Rounds = Sequence[Mapping[str, Mapping[str, float]]]  # kind -> name -> value

_UNITS = (  # how names begin; factor of display
    ("CPU", "us/event", 1.0),
    ("link", "bytes/event", 1.0),
    ("latency", "ms", 1.0),
    ("loss-free", "events/s", 1.0),
    ("warm CPU", "us/flow", 1.0),
    ("warm", "s", 1.0),
    ("memory", "bytes/flow", 1.0),
    ("resync", "ms", 1000.0),
    ("commit", "ms", 1000.0),
    ("list CPU", "us/flow", 1.0),
    ("account CPU", "us/flow", 1.0),
    ("list memory", "MiB", 1.0),
    ("list", "flows/s", 1.0),
    ("filter told", "% of records", 1.0),
    ("filter", "us/event", 1.0),
    ("digest bytes", "bytes/flow", 1.0),
    ("digest", "us/change", 1.0),
)


def machine_facts(kinds: Sequence[type[Daemon]]) -> dict[str, object]:
    """What the figures depend on."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        check=False,
        capture_output=True,
        text=True,
    )
    facts: dict[str, object] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "processor": model[0] if model else platform.machine(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "commit": commit.stdout.strip(),
        "load_average": os.getloadavg()[0],
    }
    facts.update({kind.kind: kind.version() for kind in kinds})
    return facts


def summarise(rounds: Rounds, ours: str, theirs: str) -> dict[str, dict[str, float]]:
    """Per name: both medians, and the median of the rounds' ratios."""
    names: dict[str, None] = {}
    for figures in rounds:
        for kind in (theirs, ours):
            names.update(dict.fromkeys(figures.get(kind, {})))
    summary: dict[str, dict[str, float]] = {}
    for name in names:
        row: dict[str, float] = {}
        for kind in (theirs, ours):
            values = [f[kind][name] for f in rounds if name in f.get(kind, {})]
            if values:
                row[kind] = statistics.median(values)
        ratios = [
            f[ours][name] / f[theirs][name]
            for f in rounds
            if name in f.get(ours, {}) and f.get(theirs, {}).get(name)
        ]
        if ratios:
            row["ratio"] = statistics.median(ratios)
            row["ratio_low"], row["ratio_high"] = min(ratios), max(ratios)
        summary[name] = row
    return summary


def table(
    summary: Mapping[str, Mapping[str, float]], ours: str, theirs: str
) -> list[str]:
    """The summary in columns."""
    lines = [f"{'':32} {'unit':12} {theirs:>12} {ours:>12} {'ratio':>7}  (low-high)"]
    for name, row in summary.items():
        unit, factor = _unit(name)
        cells = [_number(row.get(kind), factor) for kind in (theirs, ours)]
        ratio = ""
        if "ratio" in row:
            ratio = f"{row['ratio']:7.2f}  ({row['ratio_low']:.2f}-"
            ratio += f"{row['ratio_high']:.2f})"
        lines.append(f"{name:32} {unit:12} {cells[0]:>12} {cells[1]:>12} {ratio}")
    return lines


def figure(name: str, value: float) -> str:
    """One figure as a line."""
    unit, factor = _unit(name)
    return f"{name:32} {_number(value, factor):>12} {unit}"


def _unit(name: str) -> tuple[str, float]:
    for begin, unit, factor in _UNITS:
        if name.startswith(begin):
            return unit, factor
    raise ValueError(f"a figure without a unit: {name}")


def _number(value: float | None, factor: float) -> str:
    if value is None:
        return "-"
    value *= factor
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """All there is, for programs."""
    path.write_text(json.dumps(content, indent=2) + "\n")
