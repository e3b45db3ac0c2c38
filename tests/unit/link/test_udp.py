"""What a link knows without a kernel: sizes, and when it has to wait."""

import pytest
from syncd.config_link import LinkConfig
from syncd.link.facts import LinkState
from syncd.link.udp import UdpLink

V4 = LinkConfig(interface="eth2", group="225.0.0.50")
V6 = LinkConfig(interface="eth2", group="ff02::50")
MIXED = LinkConfig(type="unicast", interface="eth2", peers=("10.0.0.2", "fd00::3"))
ANYWHERE = LinkConfig(type="unicast", local="10.0.0.1", peers=("10.0.0.2",))


def make(config: LinkConfig) -> UdpLink:
    return UdpLink(config, lambda _: None)


@pytest.mark.parametrize(
    ("config", "mtu", "size"),
    [
        (V4, 1500, 1472),
        (V6, 1500, 1452),
        (MIXED, 1500, 1452),
        (V4, 9000, 8972),
        (V4, 65536, 65507),
        (V6, 65536, 65488),
        (V4, 100, 576 - 28),
        (V6, 100, 1280 - 48),
        (ANYWHERE, 9000, 1472),
    ],
)
def test_a_frame_fits_into_one_packet(config: LinkConfig, mtu: int, size: int) -> None:
    link = make(config)
    link.interface_changed(None, mtu, [])
    assert link.frame_bytes == size


def test_an_mtu_that_is_not_known_yet_is_taken_as_the_smallest() -> None:
    assert make(V4).frame_bytes == 576 - 28
    assert make(V6).frame_bytes == 1280 - 48


@pytest.mark.parametrize(
    ("config", "index", "addresses", "reason"),
    [
        (V4, None, ["10.0.0.1"], "the interface is absent or down"),
        (V4, 7, ["fe80::1"], "the interface has no IPv4 address"),
        (V6, 7, ["10.0.0.1"], "the interface has no IPv6 address"),
        (V6, 7, [], "the interface has no IPv6 address"),
        (ANYWHERE, 7, ["10.0.0.7"], "the address 10.0.0.1 is not there"),
        (ANYWHERE, None, [], "no interface that is up has the address 10.0.0.1"),
    ],
)
def test_a_link_says_what_it_waits_for(
    config: LinkConfig, index: int | None, addresses: list[str], reason: str
) -> None:
    link = make(config)
    link.interface_changed(index, 1500, addresses)
    status = link.status()
    assert (status.state, status.reason) == (LinkState.WAITING, reason)
    assert status.receive_buffer == status.send_buffer == 0


def test_the_reason_for_waiting_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = make(V4)
    for _ in range(3):
        link.interface_changed(None, 0, [])
    link.close()
    assert [record.getMessage() for record in caplog.records] == [
        "eth2: multicast link is waiting: the interface is absent or down"
    ]


def test_a_link_is_named_after_its_interface_or_else_its_address() -> None:
    assert make(V4).name == "eth2"
    assert make(ANYWHERE).name == "10.0.0.1"
