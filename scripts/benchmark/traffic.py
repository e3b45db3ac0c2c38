"""The load: TCP connections that begin, live and end at an even pace, as real packets.

A process of its own, started inside the active firewall's namespace. In come orders,
one JSON object a line; out go marks and results, likewise. Packets leave through
transmit rings on the far ends of the firewall's two cables, so each is one conntrack
event there; the last event of a life is a delete request, because the kernel's own
collector ends expired flows in bursts at times of its choosing.
"""

import ctypes
import json
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from benchmark import packets

TICK_S = 0.0001
_PACKET_VERSION, _PACKET_TX_RING, _QDISC_BYPASS = 10, 13, 20
_SOL_PACKET, _TPACKET_V2 = 263, 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_NETFILTER = 270, 10, 12
_SO_RCVBUFFORCE = 33
_CLONE_NEWNET = 0x40000000
_PR_SET_TIMERSLACK = 29
_ENOENT = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    """A transmit ring: packets go to the kernel by the hundred, without a copy each."""

    def __init__(self, interface: str, slots: int = 1 << 15) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        self._socket.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
        size = slots * packets.FRAME_STRIDE
        block = 1 << 16
        request = struct.pack("=4I", block, size // block, packets.FRAME_STRIDE, slots)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_TX_RING, request)
        self._socket.bind((interface, 0))
        self._memory = mmap.mmap(self._socket.fileno(), size)
        self._size = size
        self._at = 0
        self._waiting = False

    def put(self, block: bytes | bytearray) -> None:
        """Lay packets into the ring; they leave with `flush`."""
        room = self._size - self._at
        self._memory[self._at : self._at + len(block)] = block[:room]
        if len(block) > room:
            self._memory[: len(block) - room] = block[room:]
        self._at = (self._at + len(block)) % self._size
        self._waiting = True

    def flush(self) -> None:
        """Return when the kernel has taken, and with veth also delivered, all."""
        if self._waiting:
            self._socket.send(b"")
            self._waiting = False


class Deleter:
    """Ends flows by request, without waiting for an answer each."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
        self.refused = 0

    def put(self, block: bytes | bytearray) -> None:
        self._socket.send(block)
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(65536, socket.MSG_DONTWAIT)
                self.refused += 1


class Stage:
    """One step in every connection's life, and how far it has come."""

    def __init__(
        self, stencil: packets.Stencil, put: Callable[[bytearray], None]
    ) -> None:
        self._stencil = stencil
        self._put = put
        self.reached = 0

    def advance(self, end: int) -> int:
        """Take this step for all connections up to `end`; how many did."""
        first, self.reached = self.reached, end
        for block, _ in self._stencil.blocks(first, end):
            self._put(block)
        return end - first


class Traffic:
    """All connections: opened, walked through their life, closed."""

    def __init__(self, far_namespace: str, client_side: str, server_side: str) -> None:
        self._deleter = Deleter()
        _enter_network(far_namespace)
        self._client = Ring(client_side)
        self._server = Ring(server_side)
        ends = packets.make_endpoints()
        self._stages = [
            Stage(
                packets.packet_stencil(ends, segment),
                (self._server if segment.reply else self._client).put,
            )
            for segment in packets.LIFE
        ]
        self._stages.append(Stage(packets.delete_stencil(ends), self._deleter.put))
        self._held = 0  # connections that `establish` left open
        self._probes = 0

    def cycle(
        self, rate: float, seconds: float, life_s: float, probe_every_s: float
    ) -> dict[str, object]:
        """Whole lives: `rate` events a second for `seconds`, marked at both ends."""
        stages = self._stages
        pace = rate / len(stages)
        step_s = life_s / (len(stages) - 1)
        base = stages[0].reached
        total = int(pace * (life_s + seconds))
        events, latest = 0, 0.0
        probes: list[tuple[int, int]] = []
        marks = [life_s, life_s + seconds]
        begin = due = time.monotonic()
        end = begin + life_s * 2 + seconds
        next_probe = begin + life_s
        while due < end:
            _sleep_until(due)
            now = time.monotonic()
            latest = max(latest, now - due)
            for index, stage in enumerate(stages):
                reached = int((now - begin - index * step_s) * pace)
                reached = base + max(0, min(total, reached))
                if reached > stage.reached:
                    events += stage.advance(reached)
            if probe_every_s and len(marks) == 1 and next_probe <= now:
                probes.append(self._send_probe())
                next_probe += probe_every_s * (0.5 + _jitter(len(probes)))
            self._client.flush()
            self._server.flush()
            if marks and now - begin >= marks[0]:
                _say({"mark": marks.pop(0), "events": events, "time": now})
            due = max(due + TICK_S, now)
        for stage in stages:
            events += stage.advance(base + total)
            self._client.flush()
            self._server.flush()
        self._end_probes(len(probes))
        return {"events": events, "late_s": latest, "probes": probes} | self._state()

    def _send_probe(self) -> tuple[int, int]:
        number, self._probes = self._probes, self._probes + 1
        self._client.put(packets.probe_slot(number))
        moment = time.time_ns()
        self._client.flush()
        return number, moment

    def _end_probes(self, count: int) -> None:
        for number in range(self._probes - count, self._probes):
            client = packets.probe_client(number)
            self._deleter.put(
                packets.delete_message(client, packets.PROBE_SERVER, packets.PROBE_PORT)
            )

    def establish(self, flows: int, rate: float) -> dict[str, object]:
        """Open connections and keep them: three events each."""
        opening, closing = self._stages[:3], self._stages[3:]
        base = opening[0].reached
        self._walk(opening, base + flows, rate / 3)
        for stage in closing:
            stage.reached = base + flows
        self._held += flows
        return {"flows": flows} | self._state()

    def remove(self, rate: float) -> dict[str, object]:
        """End what `establish` opened."""
        last = self._stages[-1]
        end = last.reached
        last.reached = end - self._held
        self._walk([last], end, rate)
        flows, self._held = self._held, 0
        return {"flows": flows} | self._state()

    def forget(self) -> dict[str, object]:
        """Somebody else flushed the table."""
        self._held = 0
        return self._state()

    def _walk(self, stages: list[Stage], end: int, pace: float) -> None:
        base = stages[0].reached
        begin = due = time.monotonic()
        while stages[-1].reached < end:
            _sleep_until(due)
            now = time.monotonic()
            for stage in stages:
                stage.advance(min(end, base + int((now - begin) * pace)))
                self._client.flush()
                self._server.flush()
            due = max(due + TICK_S, now)

    def _state(self) -> dict[str, object]:
        refused, self._deleter.refused = self._deleter.refused, 0
        return {"refused": refused}


def _sleep_until(due: float) -> None:
    pause = due - time.monotonic()
    if pause > 0:
        time.sleep(pause)


def _jitter(number: int) -> float:
    """Between 0 and 1, without a rhythm: probes must not fall into step with a beat."""
    return number * 0.6180339887 % 1.0


def _enter_network(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")
    os.close(descriptor)


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Take orders until the input ends."""
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    traffic = Traffic(*sys.argv[1:4])
    orders: dict[str, Callable[..., dict[str, object]]] = {
        "cycle": traffic.cycle,
        "establish": traffic.establish,
        "remove": traffic.remove,
        "forget": traffic.forget,
    }
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        _say(orders[order.pop("order")](**order) | {"done": True})


if __name__ == "__main__":
    main()
