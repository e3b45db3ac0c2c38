"""Somebody on the link without the key: hears all, says anything, changes nothing.

In: every datagram that any node sends, on every wire, for as long as the run lasts.
Out: replays (of ended lives too, over other wires, in other orders, under other
addresses), cut, flipped and spliced frames, forgeries with a key of their own, plain
frames under known names, floods of unknown names.

A replay is genuine: the node may take it if it never had it. Everything else has to be
refused by a node that wants sealed frames, and leave no trace.
"""

import random

from syncd.replication.frame import Coder
from syncd.replication.hello import Hello
from syncd.replication.seal import ENFORCE, Sealer, Security

from tests.sim.clock import Clock
from tests.sim.network import ModelNetwork, Parcel, damage

_MEMORY = 600  # datagrams
_BEAT_S = (0.01, 0.15)
_ELSEWHERE = "elsewhere"  # an address of nobody
_KEY_ID = b"\x00evi"


class Attacker:
    """Acts at random moments until it is stopped."""

    def __init__(
        self, clock: Clock, network: ModelNetwork, rng: random.Random, *, forging: bool
    ) -> None:
        self._clock = clock
        self._network = network
        self._rng = rng
        self._forging = forging
        self._coder = Coder()
        self._lie = self._coder.pack_hello(Hello(claim=1 << 30, role="primary"))
        self._heard: list[Parcel] = []
        self._count = 0
        self._running = True
        self._security = Security(ENFORCE, {_KEY_ID: rng.randbytes(32)}, _KEY_ID)
        self._sealers: dict[tuple[str, int], Sealer] = {}
        self.sent = 0
        network.listener = self.hear
        clock.after(rng.uniform(*_BEAT_S), self._act)

    def hear(self, parcel: Parcel) -> None:
        """Remember it, or forget it for an older one: a fair sample of all lives."""
        self._count += 1
        if len(self._heard) < _MEMORY:
            self._heard.append(parcel)
        elif self._rng.randrange(self._count) < _MEMORY:
            self._heard[self._rng.randrange(_MEMORY)] = parcel

    def stop(self) -> None:
        """It has gone home."""
        self._running = False
        self._network.listener = None

    def _act(self) -> None:
        if not self._running:
            return
        self._clock.after(self._rng.uniform(*_BEAT_S), self._act)
        if not self._heard:
            return
        acts = [self._replay, self._replay_many]
        if self._forging:
            acts += [self._damage, self._damage, self._forge, self._plain, self._flood]
        else:
            acts += [self._cut]
        self._rng.choice(acts)()

    def _say(self, parcel: Parcel, target: str | None = None) -> None:
        """To one node or to all, on any wire."""
        rng = self._rng
        wire = rng.randrange(self._network.wires)
        parcel = parcel._replace(wire=wire, hostile=True)
        if self._forging and rng.random() < 0.2:
            parcel = parcel._replace(source=_ELSEWHERE)
        for name in [target] if target else self._network.names:
            self.sent += 1
            self._network.deliver(parcel, name, rng.uniform(0.0, 0.01))

    def _any(self) -> Parcel:
        return self._rng.choice(self._heard)

    def _replay(self) -> None:
        self._say(self._any())

    def _replay_many(self) -> None:
        """The newest ones, backwards; or a whole part of an earlier conversation."""
        rng = self._rng
        count = rng.randint(2, 20)
        if rng.random() < 0.5:
            chosen = self._heard[-count:][::-1]
        else:
            start = rng.randrange(len(self._heard))
            chosen = self._heard[start : start + count]
        target = rng.choice(self._network.names)
        for parcel in chosen:
            self._say(parcel, target)

    def _cut(self) -> None:
        parcel = self._any()
        end = self._rng.randrange(len(parcel.datagram))
        self._say(parcel._replace(datagram=parcel.datagram[:end], intact=False))

    def _damage(self) -> None:
        parcel, other = self._any(), self._any().datagram
        damaged = damage(self._rng, parcel.datagram, other, sealed=True)
        if damaged not in (parcel.datagram, other):
            self._say(parcel._replace(datagram=damaged, intact=False))

    def _forge(self) -> None:
        """A HELLO under a known name, sealed with a key of its own."""
        envelope = self._coder.unwrap(self._any().datagram)
        epoch = envelope.epoch if self._rng.random() < 0.7 else self._epoch()
        number = envelope.number + self._rng.choice((0, 1, 1000, 1 << 40))
        sealer = self._sealers.get((envelope.sender, epoch))
        if sealer is None:
            sealer = Sealer(envelope.sender, epoch, self._security)
            self._sealers[envelope.sender, epoch] = sealer
        self._false(sealer.seal(0, number, self._lie), envelope.sender)

    def _plain(self) -> None:
        """A HELLO under a known name, not sealed at all."""
        envelope = self._coder.unwrap(self._any().datagram)
        self._unsealed(envelope.sender, envelope.epoch, envelope.number + 1)

    def _flood(self) -> None:
        """Names that nobody has."""
        for _ in range(20):
            name = f"x{self._rng.randrange(10**6)}"
            self._unsealed(name, self._epoch(), 1)

    def _unsealed(self, name: str, epoch: int, number: int) -> None:
        self._false(self._coder.wrap(name, epoch, number, self._lie), name)

    def _false(self, datagram: bytes, source: str) -> None:
        target = self._rng.choice(self._network.names)
        self._say(Parcel(datagram, source, intact=False), target)

    def _epoch(self) -> int:
        return self._rng.getrandbits(62)
