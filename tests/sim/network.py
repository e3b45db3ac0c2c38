"""A model network: datagrams between nodes, badly.

In: a datagram and its sender. Out: calls of the receivers, some of them never, twice,
late or out of order. Each ordered pair of nodes is a path with its own faults, so a
path can be cut in one direction only.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.sim.clock import Clock

Receiver = Callable[[bytes, str], None]


@dataclass(slots=True)
class Weather:
    """The faults of a path; shares are probabilities per datagram."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.0005
    jitter_s: float = 0.0  # mean of an exponential: datagrams overtake each other
    straggler: float = 0.0  # share that comes seconds late
    echo: float = 0.0  # share that comes back to its sender


CALM = Weather()


class ModelNetwork:
    """Paths between all nodes."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._receivers: dict[str, Receiver] = {}
        self._paths: dict[tuple[str, str], Weather] = {}
        self._cuts: dict[tuple[str, str], int] = {}
        self.weather = CALM
        self.datagrams = 0
        self.lost = 0
        self.bytes = 0

    def join(self, name: str, receiver: Receiver) -> None:
        """A node is on the network."""
        self._receivers[name] = receiver

    def set_path(self, source: str, target: str, weather: Weather) -> None:
        """This path has weather of its own."""
        self._paths[source, target] = weather

    def cut(self, source: str, target: str) -> None:
        """Nothing comes through in this direction; cuts add up."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        """Take back one cut."""
        self._cuts[source, target] -= 1

    def heal(self) -> None:
        """From now on every datagram arrives once and in order."""
        self._paths.clear()
        self._cuts.clear()
        self.weather = CALM

    def send(self, source: str, datagram: bytes) -> None:
        """To all others."""
        self.datagrams += 1
        self.bytes += len(datagram)
        for target in self._receivers:
            if target != source:
                self._carry(source, target, datagram)
            elif self._rng.random() < self.weather.echo:
                self._carry(source, source, datagram)

    def _carry(self, source: str, target: str, datagram: bytes) -> None:
        rng = self._rng
        weather = self._paths.get((source, target), self.weather)
        if self._cuts.get((source, target), 0) > 0 or rng.random() < weather.loss:
            self.lost += 1
            return
        for _ in range(2 if rng.random() < weather.duplication else 1):
            delay = weather.delay_s
            if weather.jitter_s:
                delay += rng.expovariate(1 / weather.jitter_s)
            if rng.random() < weather.straggler:
                delay += rng.uniform(0.5, 8.0)
            self._clock.after(delay, self._arrival(source, target, datagram))

    def _arrival(self, source: str, target: str, datagram: bytes) -> Callable[[], None]:
        return lambda: self._receivers[target](datagram, source)
