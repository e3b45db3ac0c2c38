"""Engines that talk: a few nodes on a virtual clock, and records to talk about."""

from collections.abc import Callable

from syncd.config_filter import FilterConfig
from syncd.flows.filter import RecordFilter
from syncd.flows.nla import nested, tlv
from syncd.flows.own import Own
from syncd.flows.record import CANONICAL, NEW, Record
from syncd.replication.engine import ReplicationEngine
from syncd.replication.seal import Security
from syncd.replication.settings import Settings

Deliver = Callable[[str, str, bytes], bool]


def flow_key(number: int) -> bytes:
    """The key of a TCP flow, different for each number."""
    addresses = nested(1, tlv(1, b"\x0a\x00\x00\x01"), tlv(2, b"\x0a\x00\x00\x02"))
    ports = tlv(1, b"\x06"), tlv(2, number.to_bytes(2)), tlv(3, b"\x00\x50")
    return b"\x02\x00\x00\x00" + nested(1, addresses, nested(2, *ports))


def flow_body(number: int, seconds: int = 60) -> bytes:
    """A body of that flow: reply tuple, status, timeout."""
    reply = b"\x34\x00\x02\x80" + flow_key(number)[8:]
    return reply + tlv(3, b"\x00\x00\x00\x0e") + tlv(7, seconds.to_bytes(4))


def new_flow(
    number: int, seconds: int = 60, ident: bytes = b"\x00\x00\x00\x01"
) -> Record:
    """The record of a NEW event."""
    mask = CANONICAL | 1 << 2 | 1 << 3 | 1 << 7
    return NEW, flow_key(number), flow_body(number, seconds), ident, mask


def put(own: Own, *numbers: int, seconds: int = 60) -> None:
    """NEW events of these flows."""
    own.apply([new_flow(number, seconds) for number in numbers], 1.0)


class Talk:
    """Nodes that hear each other; `deliver` may refuse a datagram."""

    def __init__(
        self,
        *names: str,
        settings: Settings | None = None,
        security: Security | None = None,
    ) -> None:
        self.now = 100.0
        self.settings = settings or Settings()
        self.security = security or Security()
        self.mixed = False  # may nodes refuse each other's frames?
        self.sent: list[tuple[str, bytes]] = []  # (sender, datagram)
        self.engines: dict[str, ReplicationEngine] = {}
        self.deliver: Deliver = lambda _sender, _receiver, _datagram: True
        for name in names:
            self.start(name)

    def start(
        self, name: str, epoch: int = 0, security: Security | None = None
    ) -> ReplicationEngine:
        """Begin a life of a node, with an empty kernel that was read."""
        engine = ReplicationEngine(
            name,
            epoch or len(self.engines) + 1,
            self.settings,
            RecordFilter(FilterConfig()),
            self.now,
            security or self.security,
        )
        engine.begin_dump(self.now)
        engine.end_dump(self.now)
        self.engines[name] = engine
        return engine

    def turn(self) -> None:
        """Everybody sends once, everybody hears it."""
        for name, engine in list(self.engines.items()):
            engine.tick(self.now)
            for _, datagram in engine.send(self.now):
                assert len(datagram) <= self.settings.frame_bytes
                self.sent.append((name, datagram))
                for other, receiver in list(self.engines.items()):
                    if other != name and self.deliver(name, other, datagram):
                        reason = receiver.receive(datagram, 0, name, self.now)
                        assert self.mixed or reason is None

    def run(self, seconds: float, step_s: float = 0.01) -> None:
        """Let time go by."""
        for _ in range(round(seconds / step_s)):
            self.turn()
            self.now += step_s

    def copy(self, holder: str, of: str) -> dict[bytes, bytes]:
        """What one node holds of another one's flows."""
        return self.engines[holder].peers[of].flows.bodies

    def own(self, name: str) -> dict[bytes, bytes]:
        """A node's own flows."""
        return self.engines[name].own.flows.bodies
