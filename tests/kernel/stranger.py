"""Somebody else on the sync network of a cluster, without its key.

In: datagrams to send to the group or to a node. Out: what the cluster's nodes send.
"""

import socket
import struct

from tests.kernel.cluster import SYNC_PORT, Cluster
from tests.lab import inside

GROUP = "225.0.0.50"
ADDRESS = "10.99.0.66"


class Stranger:
    """Somebody else on the sync network."""

    def __init__(self, made: Cluster) -> None:
        self._namespace = made.lab.namespace("stranger")
        made.lab.plug(self._namespace, "eth2", made.switch, "bridge")
        made.lab.address(self._namespace, "eth2", f"{ADDRESS}/24")
        with inside(self._namespace):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("eth2")
        here = struct.pack("=4s4si", bytes(4), bytes(4), index)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
        self._index = index

    def send(self, data: bytes, to: str = GROUP) -> None:
        self._socket.sendto(data, (to, SYNC_PORT))

    def overhear(self, count: int) -> list[bytes]:
        """Frames of the cluster."""
        with inside(self._namespace):
            ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with ear:
            ear.bind((GROUP, SYNC_PORT))
            group = socket.inet_aton(GROUP) + bytes(4) + struct.pack("=i", self._index)
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            ear.settimeout(10)
            return [ear.recv(65536) for _ in range(count)]

    def close(self) -> None:
        self._socket.close()
