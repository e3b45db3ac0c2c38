"""Moves the virtual addresses to the firewall in whose namespace it runs.

Waits for one line on stdin, as a cluster manager that is up and ready would; then adds
the addresses and tells both segments: gratuitous ARP and unsolicited neighbour
advertisements, as raw frames.  Writes `moved` when done.  The rule: no program beyond
`ip` is needed, and nothing is started between the word and the addresses but that.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
import subprocess
import sys
import time

from .plan import VIRTUAL

SIOCGIFHWADDR = 0x8927
BROADCAST = b"\xff" * 6
ALL_NODES_MAC = bytes.fromhex("333300000001")
ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
REPEATS, PAUSE_S = 3, 0.05


def hardware_address(interface: str) -> bytes:
    """Return the MAC address of an interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", interface.encode())
        return fcntl.ioctl(probe, SIOCGIFHWADDR, request)[18:24]


def gratuitous_arp(mac: bytes, address: str) -> bytes:
    """Return the frame of an ARP announcement: a request for the own address."""
    packed = ipaddress.IPv4Address(address).packed
    head = BROADCAST + mac + struct.pack(">HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    return head + mac + packed + bytes(6) + packed


def neighbour_advertisement(mac: bytes, address: str) -> bytes:
    """Return the frame of an unsolicited neighbour advertisement (RFC 4861, 7.2.6)."""
    source = ipaddress.IPv6Address(address).packed
    flags = 0xA0000000  # a router's, overriding
    body = struct.pack(">BBHI", 136, 0, 0, flags) + source + b"\x02\x01" + mac
    pseudo = source + ALL_NODES + struct.pack(">II", len(body), 58)
    body = body[:2] + struct.pack(">H", checksum(pseudo + body)) + body[4:]
    head = struct.pack(">IHBB", 0x60000000, len(body), 58, 255)
    return ALL_NODES_MAC + mac + b"\x86\xdd" + head + source + ALL_NODES + body


def checksum(data: bytes) -> int:
    """Return the internet checksum of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def add_addresses() -> None:
    """Add all virtual addresses in one go."""
    batch = "".join(
        f"address replace {address}/{length} dev {interface}"
        f"{' nodad' if ':' in address else ''}\n"
        for interface, address, length in VIRTUAL
    )
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)


def frames() -> list[tuple[str, bytes]]:
    """Return the announcement of each virtual address with its interface."""
    return [
        (
            interface,
            (neighbour_advertisement if ":" in address else gratuitous_arp)(
                hardware_address(interface), address
            ),
        )
        for interface, address, _ in VIRTUAL
    ]


def main() -> None:
    """Wait for the word, move the addresses, repeat the announcement some times."""
    announcements = frames()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        print("ready", flush=True)
        if not sys.stdin.readline():
            return
        add_addresses()
        for turn in range(REPEATS):
            for interface, frame in announcements:
                raw.sendto(frame, (interface, 0))
            if turn == 0:
                print("moved", flush=True)
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
