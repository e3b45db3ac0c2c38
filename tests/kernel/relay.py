"""A hub for the sync network that loses, doubles and reorders frames.

A program of its own: in come interface names and, as JSON, `loss`, `double`, `late` and
`corrupt` (shares of all frames), `late_s` (for how long a late one is held back at
most), `seed`. Each frame goes to all other ports. The rule: what it does to a frame is
drawn from a seeded generator, for each receiver anew. A corrupted frame has turned bits
in its UDP data; with `unsummed` it has no UDP checksum either, so that the receiver's
kernel does not drop it and it gets as far as a daemon.
"""

import heapq
import json
import random
import select
import socket
import sys
import time

_ALL_PROTOCOLS = 0x0003
_OUTGOING = 4
_PORT_BYTES = 1 << 24
_UDP, _UDP_DATA = 17, 14 + 20 + 8


def main() -> None:
    """Relay until killed."""
    names = sys.argv[1].split(",")
    order = json.loads(sys.argv[2])
    unsummed = bool(order.get("unsummed", False))
    generator = random.Random(order.get("seed", 1))
    draw = generator.random
    loss, double, late, corrupt = (
        order.get(name, 0.0) for name in ("loss", "double", "late", "corrupt")
    )
    late_s = order.get("late_s", 0.005)
    ports = [_open(name) for name in names]
    held: list[tuple[float, int, socket.socket, bytes]] = []
    count = 0
    while True:
        wait_s = max(held[0][0] - time.monotonic(), 0.0) if held else None
        for port in select.select(ports, [], [], wait_s)[0]:
            for whole in _frames(port):
                for other in ports:
                    if other is port or draw() < loss:
                        continue
                    frame = whole
                    for _ in range(1 + (draw() < double)):
                        if corrupt and draw() < corrupt:
                            frame = corrupted(frame, generator, unsummed)
                        if draw() < late:
                            count += 1
                            due = time.monotonic() + draw() * late_s
                            heapq.heappush(held, (due, count, other, frame))
                        else:
                            _send(other, frame)
        while held and held[0][0] <= time.monotonic():
            _, _, other, frame = heapq.heappop(held)
            _send(other, frame)


def corrupted(frame: bytes, generator: random.Random, unsummed: bool) -> bytes:
    """An IPv4 UDP frame with a few turned bits in its data; any other as it is."""
    if frame[12:14] != b"\x08\x00" or frame[23] != _UDP or len(frame) <= _UDP_DATA:
        return frame
    turned = bytearray(frame)
    if unsummed:
        turned[_UDP_DATA - 2 : _UDP_DATA] = bytes(2)
    for _ in range(generator.randrange(1, 4)):
        turned[generator.randrange(_UDP_DATA, len(turned))] ^= 1 << generator.randrange(
            8
        )
    return bytes(turned)


def _open(name: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(socket.SOL_SOCKET, 33, _PORT_BYTES)  # SO_RCVBUFFORCE
    port.bind((name, _ALL_PROTOCOLS))
    port.settimeout(0)
    return port


def _frames(port: socket.socket) -> list[bytes]:
    frames = []
    try:
        for _ in range(256):
            frame, address = port.recvfrom(65536)
            if address[2] != _OUTGOING:
                frames.append(frame)
    except BlockingIOError:
        pass
    return frames


def _send(port: socket.socket, frame: bytes) -> None:
    try:
        port.send(frame)
    except OSError:
        return  # the other end is down or full: one more lost frame


if __name__ == "__main__":
    main()
