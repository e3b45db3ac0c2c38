"""A warm pair for a long time: idle and busy flows, switch-overs in between.

    scripts/soak --warm [--minutes 30] [--flows 2000] [--switches 5]

In: how long, how many. Out: a line for each look, and status 1 if ever the standby's
kernel was not as the active one's. Busy flows get packets all the time, idle ones none;
nothing refreshes them but the standby itself. The judge is the independent reader.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.kernel import mixture, reader
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab

LONGEST_S = 120
WARM = f'[replication]\nstandby = "kernel"\nwarm_timeout_s = {LONGEST_S}\n'
PATIENCE_S = 15.0
LOOK_S = 20.0
_GRE = 47


class Soak:
    """One pair; `active` has the traffic."""

    def __init__(self, lab: Lab, directory: Path, flows: int) -> None:
        self.made = Cluster(lab, directory, more=WARM)
        self.nodes = self.made.nodes
        self.roads = [
            mixture.Roads(lab, node.namespace, f"far-{node.name}")
            for node in self.nodes
        ]
        self.active = 0
        self.wrong = 0
        self.made.start()
        self._order("promote")
        self.talks = mixture.talks(flows)
        mixture.play(self.roads[0], self.nodes[0].namespace, self.talks)
        self.busy = self.talks[: len(self.talks) // 2]

    def close(self) -> None:
        self.made.close()
        for roads in self.roads:
            roads.close()

    def _order(self, word: str) -> None:
        done = self.nodes[self.active].command(word)
        if done.returncode:
            raise RuntimeError(f"{word}: {done.stderr}")

    def work(self, seconds: float) -> None:
        """Packets of the busy flows through the active node, over and over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for talk in self.busy:
                if talk.reply:
                    mixture.say(self.roads[self.active], talk, len(talk.kind.steps) - 1)
            time.sleep(0.5)

    def switch(self) -> float:
        """A planned switch-over; how long the promotion took."""
        self._order("demote")
        self.active = 1 - self.active
        begin = time.monotonic()
        self._order("promote")
        return time.monotonic() - begin

    def look(self) -> str:
        """Compare both kernels; busy flows change meanwhile, so have patience."""
        here, there = self.nodes[self.active], self.nodes[1 - self.active]
        end = time.monotonic() + PATIENCE_S
        while wrong := _differences(here, there):
            if time.monotonic() > end:
                self.wrong += 1
                break
            time.sleep(0.2)
        rows = there.kernel()
        longest = max(
            (_left(row) for key, row in rows.items() if not _is_gre(key)), default=0
        )
        warm = there.status()["warm"]
        text = (
            f"{here.name} active: {len(rows)} copies on {there.name}, "
            f"{len(wrong)} different, longest timer {longest} s, planted "
            f"{warm['planted']}, refreshed {warm['refreshed']}, replanted "
            f"{warm['replanted']}, repaired {warm['repaired']}, failed {warm['failed']}"
        )
        return text + "".join(f"\n    {line[:200]}" for line in wrong[:3])


def _differences(here: Node, there: Node) -> list[str]:
    return reader.differences(here.kernel(), there.kernel(), reader.as_committed)


def _left(row: reader.Row) -> int:
    return int(str(row["timeout"]))


def _is_gre(key: reader.Key) -> bool:
    ends = key[0]
    return isinstance(ends, tuple) and ends[0] == _GRE


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak --warm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--flows", type=int, default=2000)
    parser.add_argument("--switches", type=int, default=5)
    options = parser.parse_args()
    begin = time.monotonic()
    with Lab("warm") as lab, tempfile.TemporaryDirectory() as directory:
        soak = Soak(lab, Path(directory), options.flows)
        try:
            for number in range(options.switches + 1):
                share = (number + 1) / (options.switches + 1)
                until = begin + options.minutes * 60 * share
                while time.monotonic() < until:
                    soak.work(min(LOOK_S, max(until - time.monotonic(), 0.1)))
                    said = soak.look()
                    print(f"{time.monotonic() - begin:7.1f} s  {said}", flush=True)
                if number < options.switches:
                    seconds = soak.switch()
                    print(f"         promoted in {seconds * 1000:.0f} ms", flush=True)
            print(f"looks that found a difference: {soak.wrong}")
            return 1 if soak.wrong else 0
        finally:
            soak.close()


if __name__ == "__main__":
    sys.exit(main())
