"""What the filter costs, measured inside one process, without daemons.

In: how many connections live and end. Out: us per kernel event, from the message to the
own table, without a filter and what each filter adds; and the share of records that is
told at all when short flows are left out.
"""

import random
import statistics
import struct
import time
from ipaddress import IPv4Network, ip_address, ip_network

from syncd.config_filter import Choice, FilterConfig, Network
from syncd.flows.admission import Admission
from syncd.flows.filter import RecordFilter
from syncd.flows.own import Own
from syncd.flows.reader import RecordReader

_ROUNDS = 9
_BATCH = 256  # events of one visit
_FLOWS_AT_ONCE = 1024  # of the same step: nothing ends within the visit it began in
_OWN = 20  # addresses of the node
_LIFE = ((0x08, 1), (0x0A, 2), (0x0E, 3), (0x0E, 4), (0x0E, 6), (0x0E, 7))
_EVERYONE = FilterConfig(own_addresses="accept")
_ADDRESSES: Choice[Network] = Choice(
    ignore=tuple(
        IPv4Network(text)
        for text in ("10.99.0.0/24", "127.0.0.0/8", "192.0.2.0/25", "203.0.113.7/32")
    )
)
_FILTERS = {
    "none": _EVERYONE,
    "own addresses": FilterConfig(),
    "addresses": FilterConfig(addresses=_ADDRESSES),
    "everything": FilterConfig(
        protocols=Choice(accept=(1, 6, 17, 58)),
        addresses=_ADDRESSES,
        tcp_states=Choice(ignore=(9,)),
        marks=Choice(ignore=((0x100, 0x100),)),
        zones=Choice(accept=(("", 0), ("", 5))),
        nat=Choice(accept=("any", "none")),
    ),
    "age": FilterConfig(min_age_s=10.0),
}


def measure_filter(flows: int) -> dict[str, float]:
    """The figures, by name."""
    connections = _messages(min(flows, 20_000), answered=True)
    probes = _messages(min(flows, 20_000), answered=False)
    times: dict[str, list[float]] = {name: [] for name in _FILTERS}
    short: dict[str, list[float]] = {name: [] for name in ("none", "age")}
    told = dict.fromkeys(short, 0)
    for _ in range(_ROUNDS):  # by turns: the machine has moods
        for name, config in _FILTERS.items():
            times[name].append(_run(config, connections)[0])
        for name, found in short.items():
            seconds, told[name] = _run(_FILTERS[name], probes)
            found.append(seconds)
    figures = {
        f"filter: {name}": statistics.median(found) / len(connections) * 1e6
        for name, found in times.items()
    }
    for name, found in short.items():
        median = statistics.median(found)
        figures[f"filter: probes, {name}"] = median / len(probes) * 1e6
    figures["filter told: probes, age"] = 100 * told["age"] / told["none"]
    return figures


def _run(config: FilterConfig, messages: list[bytes]) -> tuple[float, int]:
    """The time that these events take, and how many records peers were told."""
    own, reader = Own(), RecordReader()
    admission = Admission(own, RecordFilter(config))
    addresses = frozenset(ip_address(f"192.168.{n}.1").packed for n in range(_OWN))
    admission.use_addresses(addresses, 0.0)
    told, marks = 0, own.flows.marks
    began = time.process_time()
    for at in range(0, len(messages), _BATCH):
        admission.events(reader.read(messages[at : at + _BATCH]), 1.0)
        told += len(marks)
        marks.clear()
    return time.process_time() - began, told


def _messages(flows: int, *, answered: bool) -> list[bytes]:
    """The events of so many TCP connections, some of which live at the same time.

    Those without an answer are one event and an end.
    """
    source = random.Random(1)  # noqa: S311 - the same events each time
    clients = int(ip_network("10.16.0.0/12").network_address)
    messages: list[bytes] = []
    for first in range(0, flows, _FLOWS_AT_ONCE):
        lives = [
            _life(
                (clients + source.randrange(1 << 18)).to_bytes(4),
                source.randrange(1024, 65536),
                source.randbytes(4),
                _LIFE if answered else _LIFE[:1],
            )
            for _ in range(first, min(first + _FLOWS_AT_ONCE, flows))
        ]
        messages += [life[step] for step in range(len(lives[0])) for life in lives]
    return messages


def _life(
    client: bytes, port: int, ident: bytes, steps: tuple[tuple[int, int], ...]
) -> list[bytes]:
    """NEW, UPDATEs and DESTROY of one connection, as the kernel writes them."""
    server, near, far = b"\x0a\xc8\x00\x07", port.to_bytes(2), b"\x01\xbb"
    tuples = _tuple(1, client, server, near, far) + _tuple(2, server, client, far, near)
    life = []
    for number, (status, state) in enumerate(steps):
        scales, bits = _tlv(2, b"\x0a") + _tlv(3, b"\x0a"), b"\x23\0"
        inner = _tlv(1, bytes([state])) + scales + _tlv(4, bits) + _tlv(5, bits)
        body = _tlv(12, ident) + _tlv(3, status.to_bytes(4)) + _tlv(7, b"\0\0\0\x78")
        flags = 0x600 if number == 0 else 0
        parts = tuples + body + _tlv(0x8004, _tlv(0x8001, inner))
        life.append(_message(0x0100, flags, parts))
    body = _tlv(12, ident) + _tlv(3, (0x20E).to_bytes(4))
    return [*life, _message(0x0102, 0, tuples + body)]


def _message(kind: int, flags: int, attributes: bytes) -> bytes:
    head = struct.pack("=IHHII", 20 + len(attributes), kind, flags, 0, 0)
    return head + b"\x02\0\0\0" + attributes


def _tuple(kind: int, source: bytes, target: bytes, near: bytes, far: bytes) -> bytes:
    addresses = _tlv(0x8001, _tlv(1, source) + _tlv(2, target))
    ports = _tlv(0x8002, _tlv(1, b"\x06") + _tlv(2, near) + _tlv(3, far))
    return _tlv(0x8000 | kind, addresses + ports)


def _tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
