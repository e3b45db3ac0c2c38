"""Links over real interfaces: three nodes at one bridge."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
from syncd.config_link import LinkConfig
from syncd.link.bundle import LinkBundle
from syncd.link.facts import Batch, LinkState
from syncd.link.sockets import open_sender
from syncd.link.udp import UdpLink

from tests.lab import Lab, inside, run_in

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio]

NAMES = ("one", "two", "three")
GROUPS = ("225.0.0.50", "ff02::50", "ff08::50")


@dataclass
class Node:
    """A namespace at the bridge and the link that lives in it."""

    namespace: str
    addresses: tuple[str, str]
    link: UdpLink
    heard: list[tuple[bytes, str]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def receive(self, batch: list[tuple[bytes, str]]) -> None:
        self.heard.extend(batch)
        self.batches.append(len(batch))

    def state(self) -> LinkState:
        return self.link.state

    def plug_in(self, mtu: int = 1500) -> None:
        """Tell the link what the daemon would learn about eth0."""
        with inside(self.namespace):
            self.link.interface_changed(
                socket.if_nametoindex("eth0"),
                mtu,
                [*self.addresses, f"fe80::{self.addresses[1][-1]}"],
            )


def node_at(lab: Lab, switch: str, name: str, number: int) -> str:
    namespace = lab.namespace(name)
    lab.plug(namespace, "eth0", switch, "br0")
    give_addresses(lab, namespace, number)
    return namespace


def give_addresses(lab: Lab, namespace: str, number: int) -> None:
    lab.address(
        namespace,
        "eth0",
        f"10.9.0.{number}/24",
        f"fd09::{number}/64",
        f"fe80::{number}/64",
    )


@asynccontextmanager
async def cluster(
    lab: Lab, configure: Callable[[int], LinkConfig]
) -> AsyncIterator[list[Node]]:
    """Three nodes, their links closed at the end."""
    switch = lab.namespace("switch")
    lab.bridge(switch, "br0")
    nodes = []
    for number, name in enumerate(NAMES, 1):
        namespace = node_at(lab, switch, name, number)
        batches: list[Callable[[list[tuple[bytes, str]]], None]] = []
        link = UdpLink(configure(number), partial(_pass_on, batches))
        node = Node(namespace, (f"10.9.0.{number}", f"fd09::{number}"), link)
        batches.append(node.receive)
        nodes.append(node)
    try:
        yield nodes
    finally:
        for node in nodes:
            node.link.close()
        await asyncio.sleep(0)


def _pass_on(
    receivers: list[Callable[[list[tuple[bytes, str]]], None]],
    batch: list[tuple[bytes, str]],
) -> None:
    receivers[0](batch)


def multicast(
    group: str, receive_buffer: int = 8 << 20, send_buffer: int = 2 << 20
) -> Callable[[int], LinkConfig]:
    return lambda _: LinkConfig(
        interface="eth0",
        group=group,
        receive_buffer=receive_buffer,
        send_buffer=send_buffer,
    )


def unicast(number: int) -> LinkConfig:
    """Node 1 and 2 speak IPv4 to each other, both speak IPv6 to node 3."""
    peers = {
        1: ("10.9.0.2", "fd09::3"),
        2: ("10.9.0.1", "fe80::3"),
        3: ("fd09::1", "fe80::2"),
    }
    local = f"10.9.0.{number}" if number == 1 else ""
    return LinkConfig(
        type="unicast", interface="eth0", local=local, peers=peers[number]
    )


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something that is about to happen."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it is the kernel that we wait for
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("group", GROUPS)
async def test_everybody_in_the_group_hears_everybody_else(
    lab: Lab, group: str
) -> None:
    async with cluster(lab, multicast(group)) as nodes:
        for node in nodes:
            assert node.state() is LinkState.WAITING
            assert await node.link.send([b"too early"]) == 0
            node.plug_in()
            assert node.state() is LinkState.ACTIVE
        for node in nodes:
            assert await node.link.send([node.namespace.encode()] * 3) == 3
        await until(lambda: all(len(node.heard) == 6 for node in nodes))
        for node in nodes:
            assert {text.decode() for text, _ in node.heard} == {
                other.namespace for other in nodes if other is not node
            }
            status = node.link.status()
            assert (status.sent_frames, status.received_frames) == (3, 6)
            assert status.rejected_frames == status.send_errors == 0
            assert status.receive_buffer == 8 << 20


async def test_the_source_is_the_address_of_the_sender(lab: Lab) -> None:
    async with cluster(lab, multicast("225.0.0.50")) as nodes:
        for node in nodes:
            node.plug_in()
        await nodes[0].link.send([b"x"])
        await until(lambda: nodes[1].heard)
        assert nodes[1].heard == [(b"x", "10.9.0.1")]


async def test_unicast_reaches_all_peers_over_both_families(lab: Lab) -> None:
    async with cluster(lab, unicast) as nodes:
        for node in nodes:
            node.plug_in()
            assert node.link.frame_bytes == 1500 - 48
        for node in nodes:
            assert await node.link.send([node.namespace.encode()] * 2) == 2
        await until(lambda: all(len(node.heard) == 4 for node in nodes))
        sources = [{source for _, source in node.heard} for node in nodes]
        assert sources[0] == {"10.9.0.2", "fd09::3"}
        assert sources[1] == {"10.9.0.1", "fe80::3"}
        assert sources[2] == {"fd09::1", "fe80::2"}


async def test_a_stranger_is_rejected_by_a_unicast_link(lab: Lab) -> None:
    async with cluster(lab, unicast) as nodes:
        one, two, three = nodes
        one.plug_in()
        with inside(three.namespace):
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with inside(two.namespace):
            friend = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger, friend:
            stranger.sendto(b"garbage", ("10.9.0.1", 3780))
            friend.sendto(b"known", ("10.9.0.1", 3780))
        await until(lambda: one.heard)
        assert one.heard == [(b"known", "10.9.0.2")]
        await until(lambda: one.link.status().rejected_frames == 1)


async def test_a_datagram_larger_than_the_mtu_allows_is_refused(lab: Lab) -> None:
    async with cluster(lab, multicast("225.0.0.50")) as nodes:
        one, two, _ = nodes
        for node in nodes:
            node.plug_in()
        assert one.link.frame_bytes == 1472
        one.plug_in(mtu=1300)
        assert one.link.frame_bytes == 1272
        assert one.state() is LinkState.ACTIVE
        assert await one.link.send([b"x" * 1273, b"y" * 1272, b"z" * 9000]) == 1
        assert one.link.send_errors == 2
        await until(lambda: two.heard)
        assert [len(data) for data, _ in two.heard] == [1272]


@pytest.mark.parametrize("group", GROUPS)
async def test_a_link_rejoins_an_interface_that_was_made_anew(
    lab: Lab, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "syncd.link")
    async with cluster(lab, multicast(group)) as nodes:
        one, two, _ = nodes
        one.plug_in()
        two.plug_in()
        lab.unplug(one.namespace, "eth0")
        await one.link.send([b"into the void"] * 3)  # no error comes out
        one.link.interface_changed(None, 0, [])
        one.link.interface_changed(None, 0, [])
        assert one.state() is LinkState.WAITING
        assert await one.link.send([b"void"]) == 0

        switch = one.namespace.replace("one", "switch")
        lab.cable(one.namespace, "spare0", one.namespace, "spare1")  # takes the index
        lab.plug(one.namespace, "eth0", switch, "br0")
        give_addresses(lab, one.namespace, 1)
        one.plug_in()
        assert one.state() is LinkState.ACTIVE
        await two.link.send([b"welcome back"])
        await one.link.send([b"here I am"])
        await until(lambda: one.heard and two.heard)
        assert one.heard[-1][0] == b"welcome back"
        assert two.heard[-1][0] == b"here I am"
    lines = [record.getMessage() for record in caplog.records]
    assert sum("link is active" in line for line in lines) == 3
    assert sum("absent or down" in line for line in lines) == 1


async def test_the_interface_going_down_makes_the_link_wait(lab: Lab) -> None:
    async with cluster(lab, multicast("225.0.0.50")) as nodes:
        one = nodes[0]
        one.plug_in()
        lab.link(one.namespace, "eth0", "down")
        await one.link.send([b"x"] * 3)
        assert one.link.status().send_errors + one.link.status().sent_frames == 3
        assert one.state() is LinkState.ACTIVE, "until the daemon hears of it"
        with inside(one.namespace):
            one.link.interface_changed(socket.if_nametoindex("eth0"), 1500, ["fd09::1"])
        assert one.state() is LinkState.WAITING
        assert "IPv4" in one.link.reason


async def test_a_burst_arrives_in_few_batches_and_overruns_are_counted(
    lab: Lab,
) -> None:
    async with cluster(lab, multicast("225.0.0.50", receive_buffer=1 << 16)) as nodes:
        one, two, _ = nodes
        one.plug_in()
        two.plug_in()
        assert two.link.status().receive_buffer == 1 << 16
        total = 0
        for _ in range(4):
            total += await one.link.send([b"x" * 1400] * 500)
        await until(lambda: two.link.status().kernel_drops > 0)
        await until(
            lambda: len(two.heard) + two.link.status().kernel_drops == total == 2000
        )
        assert len(two.batches) < len(two.heard)


async def test_under_load_the_link_wakes_at_its_pace(lab: Lab) -> None:
    async with cluster(lab, multicast("225.0.0.50")) as nodes:
        one, two, _ = nodes
        one.plug_in()
        two.plug_in()
        for _ in range(200):
            await one.link.send([b"x"])
            await asyncio.sleep(0)
        await until(lambda: len(two.heard) == 200)
        assert len(two.batches) < 100


async def test_a_port_that_is_taken_is_tried_again(lab: Lab) -> None:
    async with cluster(lab, unicast) as nodes:
        one = nodes[0]
        with inside(one.namespace):
            thief = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with thief:
                thief.bind(("10.9.0.1", 3780))
                one.plug_in()
                assert one.state() is LinkState.WAITING
                assert "in use" in one.link.reason
            await until(lambda: one.state() is LinkState.ACTIVE)


async def test_a_bundle_sends_over_the_links_that_it_is_told_and_hears_all(
    lab: Lab,
) -> None:
    near, far = lab.namespace("near"), lab.namespace("far")
    for number, name in enumerate(("eth0", "eth1")):
        lab.cable(near, name, far, name)
        lab.address(near, name, f"10.{number}.0.1/24")
        lab.address(far, name, f"10.{number}.0.2/24")
    configs = [
        LinkConfig(interface="eth0", group="225.0.0.50"),
        LinkConfig(interface="eth1", group="225.0.0.50"),
    ]
    heard: list[tuple[bytes, str]] = []

    def hear(_place: int, batch: Batch) -> bool:
        heard.extend(batch)
        return True

    sending = LinkBundle(configs, hear)
    hearing = LinkBundle(configs, hear)

    def tell(namespace: str, bundle: LinkBundle, name: str, number: int) -> None:
        with inside(namespace):
            bundle.interface_changed(
                name,
                socket.if_nametoindex(name),
                1500 - 100 * number,
                [f"10.{number}.0.{1 if bundle is sending else 2}"],
            )

    try:
        assert await sending.send([(0, b"nowhere")]) == 0
        for bundle, namespace in ((sending, near), (hearing, far)):
            tell(namespace, bundle, "eth1", 1)
            tell(namespace, bundle, "eth0", 0)
        assert [link.frame_bytes for link in sending.links] == [1472, 1372]
        assert await sending.send([(0, b"first")]) == 1
        await until(lambda: heard == [(b"first", "10.0.0.1")])
        sending.interface_changed("eth0", None, 0, [])
        assert await sending.send([(1, b"second")]) == 1
        await until(lambda: heard[1:] == [(b"second", "10.1.0.1")])
        tell(near, sending, "eth0", 0)
        assert await sending.send([(0, b"third")]) == 1
        await until(lambda: heard[2:] == [(b"third", "10.0.0.1")])
        assert [status.sent_frames for status in sending.status()] == [2, 1]
        sending.interface_changed("eth0", None, 0, [])
        sending.interface_changed("eth1", None, 0, [])
        assert await sending.send([(0, b"lost"), (1, b"lost")]) == 0
    finally:
        sending.close()
        hearing.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize(("rate", "all_leave"), [("200mbit", True), ("200kbit", False)])
async def test_a_slow_interface_holds_the_sender_back_but_not_for_ever(
    lab: Lab, rate: str, *, all_leave: bool
) -> None:
    async with cluster(lab, multicast("225.0.0.50", send_buffer=16 << 10)) as nodes:
        one, two, _ = nodes
        one.plug_in()
        two.plug_in()
        shape = ("tbf", "rate", rate, "burst", "20k", "limit", "8m")
        run_in(one.namespace, "tc", "qdisc", "add", "dev", "eth0", "root", *shape)
        sent = await one.link.send([b"x" * 1400] * 600)
        assert one.link.sent_frames == sent
        if all_leave:
            assert (sent, one.link.send_errors) == (600, 0)
            await until(lambda: len(two.heard) == 600)
        else:
            assert 0 < sent < 600
            assert one.link.send_errors == 600 - sent


async def test_a_sending_socket_hears_nothing(lab: Lab) -> None:
    config = LinkConfig(type="unicast", local="127.0.0.1", peers=("127.0.0.2",))
    with inside(lab.namespace("one")):
        sender = open_sender(config, 4, ipaddress.ip_address("127.0.0.1"), 1)
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, stranger:
        stranger.sendto(b"x", sender.getsockname())
        with pytest.raises(BlockingIOError):
            sender.recv(100)
