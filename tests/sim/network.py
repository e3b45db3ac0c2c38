"""A model network: datagrams between nodes, badly.

In: a datagram, its sender and the wire it is put on. Out: calls of the receivers, some
of them never, twice, late, damaged or out of order. Each ordered pair of nodes is, on
each wire, a path with its own faults, so a path can be cut in one direction only.

A `Parcel` remembers whether what arrives is what was sent. Damage that UDP's checksum
and msgpack's frame cannot see is only done to sealed datagrams: without seals nobody
can tell a changed byte of a body, and no such promise is made.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from tests.sim.clock import Clock
from tests.sim.reading import SharedCoder


class Parcel(NamedTuple):
    """One datagram on its way to one node."""

    datagram: bytes
    source: str  # the node whose address it bears
    wire: int = 0
    intact: bool = True  # byte for byte what a node has sent
    hostile: bool = False  # sent by an attacker


Receiver = Callable[[Parcel], None]
Listener = Callable[[Parcel], None]
Path = tuple[int, str, str]


@dataclass(slots=True)
class Weather:
    """The faults of a path; shares are probabilities per datagram."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.0005
    jitter_s: float = 0.0  # mean of an exponential: datagrams overtake each other
    straggler: float = 0.0  # share that comes seconds late
    echo: float = 0.0  # share that comes back to its sender
    corruption: float = 0.0  # share that is damaged on the way


CALM = Weather()


class ModelNetwork:
    """Paths between all nodes."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._receivers: dict[str, Receiver] = {}
        self._paths: dict[Path, Weather] = {}
        self._cuts: dict[Path, int] = {}
        self._before = b""  # another datagram, to splice with
        self.weather = CALM
        self.wires = 1
        self.coder = SharedCoder()  # of all nodes, for what they receive
        self.sealed = False
        self.listener: Listener | None = None  # an attacker, who hears everything
        self.datagrams = 0
        self.sent: Counter[str] = Counter()  # datagrams of each node
        self.lost = 0
        self.damaged = 0
        self.bytes = 0

    def join(self, name: str, receiver: Receiver) -> None:
        """A node is on the network, on every wire."""
        self._receivers[name] = receiver

    def set_path(
        self, source: str, target: str, weather: Weather, wire: int = 0
    ) -> None:
        """This path has weather of its own."""
        self._paths[wire, source, target] = weather

    def cut(self, source: str, target: str, wire: int | None = None) -> None:
        """Nothing comes through in this direction, on one wire or all; cuts add up."""
        for path in self._on(wire, source, target):
            self._cuts[path] = self._cuts.get(path, 0) + 1

    def mend(self, source: str, target: str, wire: int | None = None) -> None:
        """Take back one cut."""
        for path in self._on(wire, source, target):
            self._cuts[path] = max(self._cuts.get(path, 0) - 1, 0)

    def _on(self, wire: int | None, source: str, target: str) -> list[Path]:
        wires = range(self.wires) if wire is None else (wire,)
        return [(number, source, target) for number in wires]

    def heal(self) -> None:
        """From now on every datagram arrives once, whole and in order."""
        self._paths.clear()
        self._cuts.clear()
        self.weather = CALM

    def send(self, source: str, datagram: bytes, wire: int = 0) -> None:
        """To all others."""
        self.datagrams += 1
        self.sent[source] += 1
        self.bytes += len(datagram)
        if self.listener is not None:
            self.listener(Parcel(datagram, source, wire))
        for target in self._receivers:
            if target != source:
                self._carry(source, target, datagram, wire)
            elif self.weather.echo and self._rng.random() < self.weather.echo:
                self._carry(source, source, datagram, wire)

    def deliver(self, parcel: Parcel, target: str, delay_s: float) -> None:
        """Somebody else's datagram, past all weather."""
        self._clock.after(delay_s, partial(self._receivers[target], parcel))

    @property
    def names(self) -> list[str]:
        """Who is on the network."""
        return list(self._receivers)

    def _carry(self, source: str, target: str, datagram: bytes, wire: int) -> None:
        rng = self._rng
        weather = self.weather
        if self._paths:
            weather = self._paths.get((wire, source, target), weather)
        cut = self._cuts and self._cuts.get((wire, source, target), 0) > 0
        if cut or (weather.loss and rng.random() < weather.loss):
            self.lost += 1
            return
        twice = weather.duplication and rng.random() < weather.duplication
        for _ in range(2 if twice else 1):
            delay = weather.delay_s
            if weather.jitter_s:
                delay += rng.expovariate(1 / weather.jitter_s)
            if weather.straggler and rng.random() < weather.straggler:
                delay += rng.uniform(0.5, 8.0)
            parcel = Parcel(datagram, source, wire)
            if weather.corruption and rng.random() < weather.corruption:
                parcel = self._damage(parcel)
            self.deliver(parcel, target, delay)

    def _damage(self, parcel: Parcel) -> Parcel:
        self.damaged += 1
        whole = parcel.datagram
        other, self._before = self._before, whole
        damaged = damage(self._rng, whole, other, sealed=self.sealed)
        if damaged in (whole, other):
            damaged = whole[:-1]
        return parcel._replace(datagram=damaged, intact=False)


def damage(rng: random.Random, datagram: bytes, other: bytes, *, sealed: bool) -> bytes:
    """Cut short; if it is sealed also with flipped bits, or continued by another."""
    choice = rng.random()
    if not sealed or choice < 0.3:
        return datagram[: rng.randrange(len(datagram))]
    if choice < 0.8 or not other:
        flipped = bytearray(datagram)
        for _ in range(rng.choice((1, 1, 2, 8))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    seam = rng.randrange(min(len(datagram), len(other)))
    return datagram[:seam] + other[seam:]
