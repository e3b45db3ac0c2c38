"""The load as seen from the bench: orders to the traffic process, what it reports."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.world import World

_END_S = 5.0
Answer = dict[str, Any]  # JSON, as written by `traffic`


@dataclass(frozen=True, slots=True)
class Cycle:
    """What a run of whole lives came to."""

    events: int  # in all, with beginning and end
    steady_events: int  # between the two marks
    steady_s: float
    late_s: float  # how far the load once lay behind its time
    refused: int  # flows whose end failed: their packets never got through
    probes: tuple[tuple[int, int], ...]  # (number, time of departure in ns)


class Load:
    """The traffic process of one run."""

    def __init__(self, world: World) -> None:
        command = [sys.executable, "-m", "benchmark.traffic"]
        self._running = subprocess.Popen(
            world.entering(world.fw1, [*command, world.far, "client", "server"]),
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._hear()
        except BaseException:
            self.close()
            raise

    def cycle(
        self,
        rate: float,
        seconds: float,
        life_s: float,
        at_mark: Callable[[], None],
        probe_every_s: float = 0.0,
    ) -> Cycle:
        """Run whole lives; `at_mark` is called when the rate is reached and its end."""
        self._say(
            order="cycle",
            rate=rate,
            seconds=seconds,
            life_s=life_s,
            probe_every_s=probe_every_s,
        )
        marks = []
        while "mark" in (answer := self._hear()):
            at_mark()
            marks.append(answer)
        begin, end = marks
        return Cycle(
            events=answer["events"],
            steady_events=end["events"] - begin["events"],
            steady_s=end["time"] - begin["time"],
            late_s=answer["late_s"],
            refused=answer["refused"],
            probes=tuple((number, sent) for number, sent in answer["probes"]),
        )

    def establish(self, flows: int, rate: float) -> None:
        """Open connections and keep them open."""
        self._say(order="establish", flows=flows, rate=rate)
        self._check(self._hear())

    def remove(self, rate: float) -> None:
        """End the connections that were kept."""
        self._say(order="remove", rate=rate)
        self._check(self._hear())

    def forget(self) -> None:
        """The connections that were kept were ended by somebody else."""
        self._say(order="forget")
        self._hear()

    def _check(self, answer: Answer) -> None:
        if answer["refused"]:
            raise RuntimeError(f"the load lost flows: {answer['refused']} refused ends")

    def _say(self, **order: object) -> None:
        assert self._running.stdin is not None
        self._running.stdin.write(json.dumps(order) + "\n")
        self._running.stdin.flush()

    def _hear(self) -> Answer:
        assert self._running.stdout is not None
        line = self._running.stdout.readline()
        if not line:
            raise RuntimeError("the traffic process ended by itself")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        """End the process; safe to repeat."""
        if self._running.stdin is not None and not self._running.stdin.closed:
            self._running.stdin.close()
        try:
            self._running.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
