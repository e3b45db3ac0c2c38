"""Events of a real kernel: what arrives, what is filtered, what is lost."""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from syncd.errors import KernelError
from syncd.kernel.events import EventSocket

from tests.lab import Lab, inside, run_in, sysctl

pytestmark = pytest.mark.kernel

NEW, DESTROY, EXP_NEW, EXP_DESTROY = 0x0100, 0x0102, 0x0200, 0x0202

SWALLOW = """
table inet swallow {
  chain input { type filter hook input priority 10; udp dport 1000-1999 drop; }
}
"""
FTP = """
table inet ftp {
  ct helper ftp { type "ftp" protocol tcp; }
  chain output { type filter hook output priority 0; tcp dport 21 ct helper set "ftp"; }
}
"""


@pytest.fixture
def box(lab: Lab) -> str:
    """A namespace whose conntrack sees what is sent over its loopback."""
    name = lab.namespace("box", tracking=True)
    lab.rules(name, SWALLOW)
    sysctl(name, "net.netfilter.nf_conntrack_events", 1)
    return name


@pytest.fixture
def events(box: str) -> Iterator[EventSocket]:
    subscribed = subscribe(box)
    yield subscribed
    subscribed.close()


def subscribe(
    namespace: str, receive_buffer: int = 8 << 20, *, reliable: bool = False
) -> EventSocket:
    with inside(namespace):
        return EventSocket(receive_buffer, reliable)


def kinds(messages: list[bytes]) -> list[int]:
    return [int.from_bytes(message[4:6], "little") for message in messages]


def start_flows(namespace: str, count: int) -> None:
    """So many new UDP flows, without an answer."""
    with inside(namespace):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for number in range(count):
            host, port = divmod(number, 1000)
            sender.sendto(b"x", (f"127.0.1.{host + 1}", 1000 + port))


def test_new_and_destroyed_flows_arrive_one_message_each(
    box: str, events: EventSocket
) -> None:
    start_flows(box, 20)
    messages = events.drain(100)
    assert kinds(messages) == [NEW] * 20
    assert all(
        len(message) == int.from_bytes(message[:4], "little") for message in messages
    )
    run_in(box, "conntrack", "-F")
    assert kinds(events.drain(100)) == [DESTROY] * 20
    assert events.events == 40
    assert events.check_losses() == 0


def test_a_drain_stops_at_its_limit_and_an_empty_queue_gives_nothing(
    box: str, events: EventSocket
) -> None:
    assert events.drain(10) == []
    start_flows(box, 25)
    assert events.queued_bytes > 0
    assert [len(events.drain(10)) for _ in range(4)] == [10, 10, 5, 0]
    assert events.queued_bytes == 0


def test_another_namespace_is_not_heard(lab: Lab, events: EventSocket) -> None:
    other = lab.namespace("other", tracking=True)
    subscribe(other).close()
    start_flows(other, 5)
    assert events.drain(100) == []


def test_expectation_events_arrive(lab: Lab, box: str, events: EventSocket) -> None:
    lab.rules(box, FTP)
    with inside(box):
        server = socket.create_server(("127.0.0.1", 21))
        client = socket.create_connection(("127.0.0.1", 21))
    with server, client:
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"USER x\r\n")  # the helper starts at the second line
            assert accepted.recv(100)
            client.sendall(b"PORT 127,0,0,1,200,10\r\n")
            assert accepted.recv(100)
    assert EXP_NEW in kinds(events.drain(100))
    run_in(box, "conntrack", "-F", "expect")
    assert EXP_DESTROY in kinds(events.drain(100))


def test_our_own_echo_is_dropped_by_the_kernel(box: str, events: EventSocket) -> None:
    with inside(box):
        ours = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    with ours:
        ours.bind((0, 0))
        portid = ours.getsockname()[0]
        flush = struct.pack("=IHHIIBBH", 20, DESTROY, 0x0005, 1, 0, 0, 0, 0)
        start_flows(box, 3)
        ours.send(flush)
        heard = events.drain(100)
        assert kinds(heard) == [NEW] * 3 + [DESTROY] * 3
        assert struct.unpack("=I", heard[-1][12:16]) == (portid,)

        events.ignore_portids([portid ^ 1, portid])
        start_flows(box, 3)
        ours.send(flush)
        assert kinds(events.drain(100)) == [NEW] * 3
        assert events.check_losses() == 0, "what is filtered is not lost"

        events.ignore_portids([])
        events.ignore_portids([])
        start_flows(box, 3)
        ours.send(flush)
        assert len(events.drain(100)) == 6


def test_a_filter_for_the_kernel_itself_is_refused(events: EventSocket) -> None:
    with pytest.raises(ValueError, match="port ids"):
        events.ignore_portids([0])


def test_an_overrun_is_counted_once_and_the_queue_refills(box: str) -> None:
    events = subscribe(box, 64 << 10)
    assert events.receive_buffer == 64 << 10
    start_flows(box, 2000)
    lost = events.check_losses()
    assert lost > 1000
    assert events.check_losses() == 0
    assert len(events.drain(40)) == 40
    start_flows(box, 2000 + 10)  # room for some: no need to read it empty first
    kept = len(events.drain(10_000))
    assert kept > 0
    assert events.lost == lost
    run_in(box, "conntrack", "-F")
    assert events.check_losses() > 0
    assert events.overruns == 2
    assert events.drain(10_000)
    assert events.check_losses() == 0
    events.close()


def test_reliable_delivery_brings_every_destroy_in_the_end(box: str) -> None:
    events = subscribe(box, 64 << 10, reliable=True)
    start_flows(box, 1000)
    events.drain(10_000)
    run_in(box, "conntrack", "-F")
    destroyed = 0
    for _ in range(2000):
        destroyed += kinds(events.drain(10_000)).count(DESTROY)
        if destroyed >= 1000:
            break
        time.sleep(0.01)
    assert destroyed == 1000
    events.close()


def test_without_rights_the_refusal_names_the_capability(box: str) -> None:
    with inside(box):
        os.seteuid(65534)
        try:
            with pytest.raises(KernelError, match="CAP_NET_ADMIN") as refused:
                EventSocket(1 << 20, reliable=False)
        finally:
            os.seteuid(0)
    assert refused.value.errno == errno.EPERM
