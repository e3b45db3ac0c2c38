"""A hub for the sync network that loses, doubles and reorders frames.

A program of its own: in come interface names and, as JSON, `loss`, `double` and `late`
(shares of all frames), `late_s` (for how long a late one is held back at most), `seed`.
Each frame goes to all other ports. The rule: what it does to a frame is drawn from a
seeded generator, for each receiver anew.
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


def main() -> None:
    """Relay until killed."""
    names = sys.argv[1].split(",")
    order = json.loads(sys.argv[2])
    draw = random.Random(order.get("seed", 1)).random
    loss, double, late = (order.get(name, 0.0) for name in ("loss", "double", "late"))
    late_s = order.get("late_s", 0.005)
    ports = [_open(name) for name in names]
    held: list[tuple[float, int, socket.socket, bytes]] = []
    count = 0
    while True:
        wait_s = max(held[0][0] - time.monotonic(), 0.0) if held else None
        for port in select.select(ports, [], [], wait_s)[0]:
            for frame in _frames(port):
                for other in ports:
                    if other is port or draw() < loss:
                        continue
                    for _ in range(1 + (draw() < double)):
                        if draw() < late:
                            count += 1
                            due = time.monotonic() + draw() * late_s
                            heapq.heappush(held, (due, count, other, frame))
                        else:
                            _send(other, frame)
        while held and held[0][0] <= time.monotonic():
            _, _, other, frame = heapq.heappop(held)
            _send(other, frame)


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
