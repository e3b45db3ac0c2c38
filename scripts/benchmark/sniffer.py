"""When a change reaches the standby: datagrams of the sync link, with their times.

As a process it runs in the standby's namespace: every datagram to the sync port goes
into a file, with the kernel's time of arrival and the time until the daemon's socket
was next seen empty, so that it had surely been taken. On the reading side, the first
datagram that carries a probe's address answers when that probe's event got there. Both
daemons are read alike; what differs is only how their datagrams are opened.
"""

import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from benchmark import counters, packets
from benchmark.daemons import GROUP, PORT
from benchmark.world import World, is_root_of_machine

Opener = Callable[[bytes], bytes]

_ETH_P_IP = 0x0800
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 64 << 20
_RECORD = struct.Struct("=QqI")
_WATCH_NS = 50_000_000
_QUEUED_NS = 10_000  # the tap sees a datagram before the daemon's socket has it
_LATE_NS = 60_000  # taken up later than this, a datagram's stay cannot be told
_UNKNOWN = -1


class Sniffer:
    """The sniffing process of one measurement."""

    def __init__(self, world: World, interface: str, file: Path) -> None:
        self._file = file
        command = [sys.executable, "-m", "benchmark.sniffer", interface]
        self._running = subprocess.Popen(
            world.entering(world.fw2, [*command, str(file)]),
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._running.stdout is not None
        if self._running.stdout.readline() != b"ready\n":
            self.stop()
            raise RuntimeError("the sniffer did not start")

    def stop(self) -> None:
        """No more datagrams; safe to repeat."""
        self._running.send_signal(signal.SIGTERM)
        self._running.wait()

    def datagrams(self) -> Iterator[tuple[int, int, bytes]]:
        """(arrival ns, ns until taken or -1, payload) of each."""
        data = self._file.read_bytes()
        at = 0
        while at + _RECORD.size <= len(data):
            arrival, taken, size = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            yield arrival, taken, data[at : at + size]
            at += size


def match(
    sniffer: Sniffer, probes: tuple[tuple[int, int], ...], opener: Opener
) -> tuple[list[float], list[float]]:
    """Ms until on the link, and ms until taken where known, of probes that arrived."""
    waiting = {packets.probe_client(number): sent for number, sent in probes}
    on_link, at_standby = [], []
    for arrival, taken, payload in sniffer.datagrams():
        due = [key for key, sent in waiting.items() if sent <= arrival]
        opened = opener(payload) if due else b""
        for key in due:
            if key in opened:
                passed = arrival - waiting.pop(key)
                on_link.append(passed / 1e6)
                if taken != _UNKNOWN:
                    at_standby.append((passed + taken) / 1e6)
    return on_link, at_standby


def _taken_after(watch: counters.QueueWatch, arrival: int) -> int:
    """Ns from arrival until no datagram waits for the daemon."""
    now = time.time_ns()
    if now - arrival > _LATE_NS:
        return _UNKNOWN
    while now - arrival < _QUEUED_NS or watch.waiting_bytes():
        now = time.time_ns()
        if now - arrival > _WATCH_NS:
            return _UNKNOWN
    return now - arrival


def _record(tap: socket.socket, watch: counters.QueueWatch) -> bytes:
    """The next datagram as it stands in the file; nothing if there is none."""
    try:
        data, ancillary, _, source = tap.recvmsg(65536, 64)
    except BlockingIOError:
        return b""
    if source[2] == socket.PACKET_OUTGOING or data[36:38] != PORT.to_bytes(2, "big"):
        return b""
    seconds, ns = struct.unpack("=qq", ancillary[0][2])
    arrival = seconds * 1_000_000_000 + ns
    payload = data[counters.HEADER_BYTES :]
    return _RECORD.pack(arrival, _taken_after(watch, arrival), len(payload)) + payload


def _stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Write datagrams until told to stop."""
    interface, file = sys.argv[1:3]
    watch = counters.QueueWatch(interface, GROUP, PORT)
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP))
    force = _SO_RCVBUFFORCE if is_root_of_machine() else socket.SO_RCVBUF
    tap.setsockopt(socket.SOL_SOCKET, force, _BUFFER_BYTES)
    tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    tap.bind((interface, _ETH_P_IP))
    tap.settimeout(0.0)  # it spins: a wake-up would take as long as what is timed
    with open(file, "wb", buffering=1 << 20) as out, suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, _stop)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            out.write(_record(tap, watch))


if __name__ == "__main__":
    main()
