"""The compiled filter says what a slow, obvious one says of a flow's description."""

import ipaddress
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from syncd.config_filter import (
    TCP_STATES,
    Choice,
    FilterConfig,
    Mark,
    Network,
    Zone,
)
from syncd.flows.filter import REASONS, RecordFilter
from syncd.flows.view import Description, describe

from tests.unit.flows.shapes import ASSURED, CONFIRMED, DST_NAT, SRC_NAT, Shape

_Item = TypeVar("_Item")
NO_ADDRESS = str(ipaddress.IPv4Address(0))
OWN = ("10.2.0.1", "10.1.0.1", "fd00::1", "10.2.0.255")
ADDRESSES4 = (
    *("10.1.0.10", "10.2.0.10", "10.2.0.1", "10.1.0.1", "10.3.0.1", "192.0.2.1"),
    *("127.0.0.1", "224.0.0.18", "255.255.255.255", NO_ADDRESS, "169.254.1.1"),
    *("200.1.2.3", "10.2.0.255"),
)
ADDRESSES6 = (
    *("fd00::10", "fd00::1", "fd00::2:1", "::1", "::", "fe80::1", "febf::1"),
    *("fec0::1", "ff02::1", "2001:db8::1"),
)
NETWORKS = (
    *("10.0.0.0/8", "10.2.0.0/24", "10.2.0.10/32", "0.0.0.0/0", "192.0.2.0/25"),
    *("fd00::/8", "fd00::10/128", "::/0", "2001:db8::/33", "200.0.0.0/7"),
)


def flows() -> st.SearchStrategy[Shape]:
    ends = st.one_of(
        *(
            st.tuples(*[st.sampled_from(family)] * 4)
            for family in (ADDRESSES4, ADDRESSES6)
        )
    )
    zones = st.sampled_from([(0, 0, 0), (5, 0, 0), (0, 5, 0), (0, 0, 5), (7, 0, 0)])

    def shape(
        ends: tuple[str, str, str, str],
        zone: tuple[int, int, int],
        rest: tuple[int, int, int | None, int | None, bytes],
    ) -> Shape:
        protocol, status, state, mark, labels = rest
        return Shape(
            *ends,
            protocol=protocol,
            status=status | CONFIRMED,
            state=state if protocol == 6 else None,
            mark=mark,
            labels=labels,
            zone=zone[0],
            orig_zone=zone[1],
            reply_zone=zone[2],
        )

    rest = st.tuples(
        st.sampled_from((6, 17, 47)),
        st.sampled_from((0, ASSURED, SRC_NAT, DST_NAT, SRC_NAT | DST_NAT)),
        st.sampled_from((None, 1, 3, 7)),
        st.sampled_from((None, 1, 0x10, 0x1F, 0xFFFFFFFF)),
        st.sampled_from((b"", bytes(8) + bytes.fromhex("0800080000000010"))),
    )
    return st.builds(shape, ends, zones, rest)


def choices(items: Sequence[_Item]) -> st.SearchStrategy[Choice[_Item] | None]:
    lists = st.lists(st.sampled_from(items), max_size=2, unique=True).map(tuple)
    return st.none() | st.builds(Choice, lists, lists)


CONFIGS = st.builds(
    FilterConfig,
    protocols=choices((6, 17)),
    addresses=choices([ipaddress.ip_network(text) for text in NETWORKS]),
    tcp_states=choices((1, 3)),
    marks=choices(((0, 0xFFFFFFFF), (0x10, 0xF0), (1, 1), (0xFFFFFFFF, 0xFFFFFFFF))),
    zones=choices((("", 0), ("", 5), ("orig", 0), ("orig", 5), ("reply", 5))),
    nat=choices(("src", "dst", "any", "none")),
    own_addresses=st.sampled_from(("ignore", "accept")),
)


@settings(max_examples=1500, deadline=None)
@given(CONFIGS, flows())
def test_the_filter_says_what_the_words_say(config: FilterConfig, flow: Shape) -> None:
    record_filter = RecordFilter(config)
    record_filter.use_own([ipaddress.ip_address(text).packed for text in OWN])
    said = describe(flow.key, flow.body)
    reason = REASONS[record_filter.verdict(flow.key, flow.body, None)]
    failing = objections(config, said)
    assert record_filter.accepts(flow.key, flow.body) == (not failing)
    assert reason == "accepted" if not failing else reason in failing


def objections(config: FilterConfig, said: Description) -> set[str]:
    """Every key of the configuration that this flow does not pass."""
    orig, reply = ends(said, "orig"), ends(said, "reply")
    people = [ipaddress.ip_address(str(orig["src"]))]
    people.append(ipaddress.ip_address(str(reply["src"])))
    found = set()
    number = int(str(said["protocol_number"]))
    if not chosen(config.protocols, lambda item: item == number):
        found.add("protocols")
    if config.own_addresses == "ignore" and any(map(is_own, people)):
        found.add("own_addresses")

    def lives_there(network: Network) -> bool:
        return any(one.version == network.version and one in network for one in people)

    if not chosen(config.addresses, lives_there):
        found.add("addresses")
    mark = int(str(said.get("mark", 0)))

    def marked(wanted: Mark) -> bool:
        return mark & wanted[1] == wanted[0]

    if not chosen(config.marks, marked):
        found.add("marks")
    both = said.get("zone")
    zones = [both or orig.get("zone", 0), both or reply.get("zone", 0)]

    def inside(zone: Zone) -> bool:
        direction, number = zone
        if direction:
            return zones[direction == "reply"] == number
        return number in zones if number else zones == [0, 0]

    if not chosen(config.zones, inside):
        found.add("zones")
    nat = said["nat"]
    assert isinstance(nat, list)
    words = {*nat, "any" if nat else "none"}
    if not chosen(config.nat, lambda word: word in words):
        found.add("nat")
    state = said.get("state")
    if state is not None and not chosen(
        config.tcp_states, lambda item: TCP_STATES[str(state)] == item
    ):
        found.add("tcp_states")
    return found


def chosen(choice: Choice[_Item] | None, matches: Callable[[_Item], bool]) -> bool:
    if choice is None:
        return True
    if any(map(matches, choice.ignore)):
        return False
    return not choice.accept or any(map(matches, choice.accept))


def ends(said: Description, name: str) -> dict[str, object]:
    found = said[name]
    assert isinstance(found, dict)
    return found


def is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return (
        str(address) in OWN
        or address.is_loopback
        or address.is_multicast
        or (address.version == 6 and address.is_link_local)
        or str(address) in (NO_ADDRESS, "::", "255.255.255.255")
    )
