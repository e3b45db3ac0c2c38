"""A load that never rests: flows begin, change and end at an even pace.

In: a rate in events a second, and for how long. Out: a firewall's table in which about
seven of eight flows live and every tuple is used again and again. Each visit takes one
flow one step further; the last step ends it by request, then it begins anew.
"""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from tests.kernel import mixture, wire
from tests.kernel.mixture import CLIENT_SIDE, ORIG, REPLY, SERVER_SIDE, Roads, Step
from tests.kernel.wire import ACK, FIN, PSH, SYN
from tests.lab import inside

_TICK_S = 0.002
_END = -1
_MASQUERADED = "192.168.2.1"


class Churn:
    """`flows` tuples, each played through its life again and again."""

    def __init__(self, roads: Roads, firewall: str, flows: int) -> None:
        self.events = 0
        self.late_s = 0.0  # how far the load fell behind its pace at most
        self._roads = roads
        self._flows = [_life(roads, index) for index in range(flows)]
        self._next = [-(index % len(self._flows[0])) for index in range(flows)]
        self._visited = 0
        with inside(firewall):
            self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self._kernel.bind((0, 0))
        self._kernel.settimeout(0)

    def close(self) -> None:
        self._kernel.close()

    def run(
        self,
        rate: float,
        seconds: float,
        *moments: tuple[float, Callable[[], None]],
    ) -> None:
        """Play; each of `moments` is called once at its time, in order."""
        waiting = list(moments)
        begin = now = time.monotonic()
        total, first = int(rate * seconds), self.events
        while self.events - first < total:
            due = min(int((now - begin) * rate) + 1, total)
            while self.events - first < due:
                self._visit()
            if waiting and now - begin >= waiting[0][0]:
                waiting.pop(0)[1]()
            ahead = begin + (self.events - first) / rate - time.monotonic()
            self.late_s = max(self.late_s, -ahead)
            time.sleep(max(ahead, _TICK_S))
            now = time.monotonic()
        for _, moment in waiting:  # that a busy machine left behind
            moment()

    def _visit(self) -> None:
        index = self._visited % len(self._flows)
        self._visited += 1
        life, step = self._flows[index], self._next[index]
        self._next[index] = step + 1 if step + 1 < len(life) else 0
        if step < 0:
            return
        side, frame = life[step]
        self.events += 1
        if side == _END:
            self._kernel.send(frame)
            with suppress(BlockingIOError):
                self._kernel.recv(4096)  # it had ended before, which is just as good
        else:
            self._roads.put(side, frame)


def _tcp(reply: bool, flags: int, sequence: int, acknowledged: int, dscp: int) -> Step:
    def build(ends: tuple[int, ...]) -> bytes:
        return wire.tcp(
            *(ends[0], ends[1], flags, sequence, acknowledged),
            options=bool(flags & SYN),
        )

    return reply, build, dscp


_TCP = (
    _tcp(ORIG, SYN, 1000, 0, 0),
    _tcp(REPLY, SYN | ACK, 5000, 1001, 0),
    _tcp(ORIG, ACK, 1001, 5001, 0),
    _tcp(ORIG, PSH | ACK, 1001, 5001, mixture.MARK_CLASS),
    _tcp(REPLY, ACK, 5001, 1001, mixture.LABEL_CLASS),
    _tcp(ORIG, ACK, 1001, 5001, mixture.UNMARK_CLASS),
    _tcp(ORIG, FIN | ACK, 1001, 5001, 0),
)


def _udp(reply: bool, dscp: int) -> Step:
    return reply, lambda ends: wire.udp(ends[0], ends[1]), dscp


_UDP = (
    *(_udp(ORIG, 0), _udp(REPLY, 0), _udp(ORIG, mixture.MARK_CLASS)),
    *(_udp(ORIG, mixture.LABEL_CLASS), _udp(REPLY, mixture.UNMARK_CLASS)),
    *(_udp(ORIG, mixture.MARK_CLASS), _udp(REPLY, mixture.UNMARK_CLASS)),
)


def _life(roads: Roads, index: int) -> list[tuple[int, bytes]]:
    """The frames of one flow and the request that ends it."""
    third, fourth = index // 250 % 250, index % 250 + 1
    ports = (1024 + index * 7919 % 60000, 443)
    number = 17 if index % 5 == 0 else 6
    if index % 4 == 1:
        source, server = f"fd10:9:0::{index:x}", f"fd20:1:0::{index:x}"
    else:
        net = "10.1" if index % 4 == 2 else "10.9"
        source, server = f"{net}.{third}.{fourth}", f"172.16.{third}.{fourth}"
    back = _MASQUERADED if source.startswith("10.1.") else source
    orig = (number, source, server, *ports, 0)
    reply = (number, server, back, *ports[::-1], 0)
    life = []
    for is_reply, build, dscp in _UDP if number == 17 else _TCP:
        side = SERVER_SIDE if is_reply else CLIENT_SIDE
        ends = reply if is_reply else orig
        life.append((side, mixture.frame(roads.macs[side], ends, build, dscp)))
    return [*life, (_END, _delete(number, source, server, ports))]


def _delete(number: int, source: str, server: str, ports: tuple[int, int]) -> bytes:
    """The ctnetlink request that ends a flow with ports."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    first = 3 if family == socket.AF_INET6 else 1
    addresses = b"".join(
        _attribute(kind, socket.inet_pton(family, text))
        for kind, text in ((first, source), (first + 1, server))
    )
    proto = _attribute(1, bytes((number,))) + b"".join(
        _attribute(kind, struct.pack(">H", port))
        for kind, port in zip((2, 3), ports, strict=True)
    )
    ends = _attribute(0x8001, addresses) + _attribute(0x8002, proto)
    body = struct.pack("=BBH", family, 0, 0) + _attribute(0x8001, ends)
    return struct.pack("=IHHII", 16 + len(body), 0x102, 1, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)
