"""What the kernel counts about a process and its network: process numbers in, ints out.

Nothing here disturbs the process that is measured.
"""

import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES = 14 + 20 + 8  # Ethernet, IPv4, UDP
_CPU_CLOCK_SCHED = 2  # what clock_getcpuclockid(3) gives, with the process's number
_NETFILTER = "12"
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NO_COOKIE = 0xFFFFFFFF


def cpu_ns(pid: int) -> int:
    """User and system time of the process, with all threads there are and were."""
    return time.clock_gettime_ns(~pid << 3 | _CPU_CLOCK_SCHED)


def resident_bytes(pid: int) -> int:
    """Memory that the process holds now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no memory any more")


@dataclass(frozen=True, slots=True)
class Wire:
    """What an interface has carried."""

    sent_bytes: int
    sent_packets: int
    received_bytes: int

    def payload_since(self, before: "Wire") -> int:
        """Bytes sent without the Ethernet, IPv4 and UDP headers."""
        packets = self.sent_packets - before.sent_packets
        return self.sent_bytes - before.sent_bytes - HEADER_BYTES * packets


def wire(pid: int, interface: str) -> Wire:
    """An interface of the network that the process lives in."""
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            fields = [int(number) for number in numbers.split()]
            return Wire(fields[8], fields[9], fields[0])
    raise ValueError(f"no interface {interface} beside process {pid}")


def lost_events(pid: int) -> int:
    """Conntrack events that found the subscriber's queue full, in that network."""
    total = 0
    for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == _NETFILTER and int(fields[3], 16):
            total += int(fields[8])
    return total


def lost_datagrams(pid: int) -> int:
    """Datagrams that found the receiver's buffer full, in that network."""
    lines = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
    return sum(int(line.split()[-1]) for line in lines)


class QueueWatch:
    """The receive queue of one UDP socket of the network this process lives in.

    Asked by sock_diag for exactly this socket: reading /proc/net/udp walks a table of
    64 K buckets and takes longer than a daemon needs to empty the queue.
    """

    def __init__(self, interface: str, group: str, port: int) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG
        )
        identity = struct.pack(
            "=2s2s16s16sIII",
            bytes(2),
            port.to_bytes(2, "big"),
            bytes(16),
            socket.inet_aton(group).ljust(16, b"\0"),
            *(socket.if_nametoindex(interface), _NO_COOKIE, _NO_COOKIE),
        )
        body = struct.pack(
            "=BBBBI", socket.AF_INET, socket.IPPROTO_UDP, 0, 0, 0xFFFFFFFF
        )
        header = struct.pack("=IHHII", 72, _SOCK_DIAG_BY_FAMILY, 1, 0, 0)
        self._request = header + body + identity

    def waiting_bytes(self) -> int:
        """Bytes that wait for the receiver."""
        self._socket.send(self._request)
        answer = self._socket.recv(4096)
        if struct.unpack_from("=H", answer, 4)[0] != _SOCK_DIAG_BY_FAMILY:
            raise OSError("no socket receives the sync link's datagrams")
        return int(struct.unpack_from("=I", answer, 72)[0])
