"""Each set of the filter means the same for every record that is asked about."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from syncd.config_filter import Choice, FilterConfig
from syncd.flows.filter import RecordFilter
from syncd.flows.nla import attributes, tlv
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    CTA_EXPECT_HELP_NAME,
    CTA_PROTOINFO,
    DUMP,
    EXP_NEW,
    UPDATE,
    Record,
)

from tests.unit.flows.recorded import recorded

ALL = FilterConfig(own_addresses="accept")
Network = IPv4Network | IPv6Network

CLIENT, SERVER, FIREWALL = "10.77.1.10/32", "10.77.2.10/32", "10.77.2.1/32"
ICMP, TCP, UDP, GRE, ESP, ICMPV6, SCTP = 1, 6, 17, 47, 50, 58, 132
SYN_SENT, SYN_RECV, ESTABLISHED, TIME_WAIT = 1, 2, 3, 7


def records(scenario: str) -> list[Record]:
    return RecordReader().read([said.message for said in recorded(scenario)])


def one(scenario: str, number: int = 0) -> Record:
    return records(scenario)[number]


def accepts(record_filter: RecordFilter, record: Record) -> bool:
    return record_filter.accepts(record[1], record[2])


def of_addresses(accept: str = "", ignore: str = "") -> RecordFilter:
    def networks(text: str) -> tuple[Network, ...]:
        return tuple(ip_network(word) for word in text.split())

    choice: Choice[Network] = Choice(networks(accept), networks(ignore))
    return RecordFilter(FilterConfig(addresses=choice))


def of_states(
    accept: tuple[int, ...] = (), ignore: tuple[int, ...] = ()
) -> RecordFilter:
    return RecordFilter(FilterConfig(tcp_states=Choice(accept, ignore)))


def test_a_filter_without_sets_is_empty_and_accepts_all() -> None:
    nothing: Choice[int] = Choice()
    for config in (ALL, replace(ALL, protocols=nothing)):
        record_filter = RecordFilter(config)
        assert record_filter.empty
        every = RecordReader().read([said.message for said in recorded()])
        assert all(accepts(record_filter, record) for record in every)


def test_any_set_makes_the_filter_not_empty() -> None:
    some: Choice[int] = Choice(accept=(TCP,))
    assert not RecordFilter(FilterConfig(protocols=some)).empty
    assert not RecordFilter(FilterConfig(tcp_states=some)).empty
    assert not of_addresses(ignore=CLIENT).empty
    assert not RecordFilter(ALL, expectations=False).empty
    assert not RecordFilter(ALL, ("ftp",)).empty
    assert not RecordFilter(FilterConfig()).empty  # own addresses are ignored
    assert not RecordFilter(replace(ALL, min_age_s=1.0)).empty


@pytest.mark.parametrize("number", [ICMP, TCP, UDP, GRE, ESP, ICMPV6, SCTP])
def test_accepted_and_ignored_protocols_are_complements(number: int) -> None:
    accepting = RecordFilter(FilterConfig(protocols=Choice(accept=(number,))))
    ignoring = RecordFilter(FilterConfig(protocols=Choice(ignore=(number,))))
    seen = set()
    for said in recorded():
        if said.type.startswith("EXP"):
            continue
        record = RecordReader().read([said.message])[0]
        assert accepts(accepting, record) == (said.protocol == number)
        assert accepts(ignoring, record) != (said.protocol == number)
        seen.add(said.protocol)
    assert number in seen


def test_an_ignored_protocol_is_out_though_it_is_accepted() -> None:
    record_filter = RecordFilter(FilterConfig(protocols=Choice((TCP, UDP), (UDP,))))
    assert accepts(record_filter, one("tcp4_close"))
    assert not accepts(record_filter, one("udp4"))


@pytest.mark.parametrize(
    ("scenario", "networks", "listed"),
    [
        pytest.param("udp4", CLIENT, True, id="original source"),
        pytest.param("udp4", SERVER, True, id="reply source"),
        pytest.param("udp4", "10.77.0.0/16", True, id="a prefix of both"),
        pytest.param("udp4", "10.77.1.8/30", True, id="a prefix that is no byte"),
        pytest.param("udp4", "10.77.1.12/30", False, id="the prefix beside it"),
        pytest.param("udp4", "0.0.0.0/0", True, id="everything"),
        pytest.param("udp4", "::/0", False, id="everything of the other family"),
        pytest.param("udp4", "1.0.0.0/8 10.77.1.10/32", True, id="one of several"),
        pytest.param("udp4_masquerade", CLIENT, True, id="client behind NAT"),
        pytest.param("udp4_masquerade", FIREWALL, False, id="the address it gets"),
        pytest.param("tcp4_dnat_port", SERVER, True, id="server behind DNAT"),
        pytest.param("tcp4_dnat_port", FIREWALL, False, id="its public address"),
        pytest.param("udp6", "fd77:1::/64", True, id="IPv6 original source"),
        pytest.param("udp6", "fd77:2::10/128", True, id="IPv6 reply source"),
        pytest.param("udp6", "fd77:3::/64", False, id="another IPv6 network"),
        pytest.param("udp6", "::/0", True, id="all of IPv6"),
        pytest.param("udp6", "0.0.0.0/0", False, id="IPv4 says nothing of IPv6"),
        pytest.param("icmp4", CLIENT, True, id="no ports"),
        pytest.param("zone_orig_dir", CLIENT, True, id="a zone in the tuple"),
    ],
)
def test_a_flow_is_listed_by_original_or_reply_source(
    scenario: str, networks: str, listed: bool
) -> None:
    for record in records(scenario):
        assert accepts(of_addresses(accept=networks), record) == listed
        assert accepts(of_addresses(ignore=networks), record) != listed


def test_an_ignored_address_is_out_though_its_network_is_accepted() -> None:
    record_filter = of_addresses(accept="10.77.0.0/16", ignore="10.77.1.11/32")
    from_ten, from_eleven = (
        [r for r in records("tcp4_snat_port_only") if r[1][19] == last]
        for last in (10, 11)
    )
    assert from_ten
    assert from_eleven
    assert all(accepts(record_filter, record) for record in from_ten)
    assert not any(accepts(record_filter, record) for record in from_eleven)


def test_a_list_of_one_family_accepts_nothing_of_the_other() -> None:
    assert not accepts(of_addresses(accept="10.0.0.0/8"), one("udp6"))
    assert accepts(of_addresses(accept="10.0.0.0/8 ::/0"), one("udp6"))
    assert accepts(of_addresses(ignore="0.0.0.0/0"), one("udp6"))


def test_tcp_states_are_those_of_the_record() -> None:
    established = of_states(accept=(ESTABLISHED,))
    early = of_states(ignore=(SYN_SENT, SYN_RECV))
    new, syn_recv, update = records("tcp4_close")[:3]
    assert [accepts(established, r) for r in (new, syn_recv, update)] == [
        False,
        False,
        True,
    ]
    assert [accepts(early, r) for r in (new, syn_recv, update)] == [False, False, True]
    assert accepts(of_states(accept=(SYN_SENT, TIME_WAIT)), new)


@pytest.mark.parametrize("scenario", ["udp4", "icmp6", "sctp4", "esp4_generic"])
def test_a_flow_without_tcp_state_passes_the_states(scenario: str) -> None:
    for record in records(scenario):
        assert accepts(of_states(accept=(ESTABLISHED,)), record)


def test_an_update_that_is_not_about_the_state_passes_the_states() -> None:
    updates = [
        record
        for record in records("synproxy4")
        if record[0] == UPDATE and CTA_PROTOINFO not in attributes(record[2])
    ]
    assert updates
    assert all(accepts(of_states(accept=(TIME_WAIT,)), update) for update in updates)


def test_all_sets_have_to_be_passed() -> None:
    record_filter = RecordFilter(
        FilterConfig(
            protocols=Choice(accept=(TCP,)),
            addresses=Choice(accept=(ip_network(CLIENT),)),
            tcp_states=Choice(accept=(ESTABLISHED,)),
        )
    )
    assert accepts(record_filter, one("tcp4_close", 2))
    assert not accepts(record_filter, one("tcp4_close", 0))
    assert not accepts(record_filter, one("tcp6_close", 2))
    assert not accepts(record_filter, one("udp4", 0))


def expectations(scenario: str) -> list[Record]:
    found = [record for record in records(scenario) if record[0] == EXP_NEW]
    assert found
    return found


def test_expectations_go_by_the_name_of_their_helper() -> None:
    ftp = RecordFilter(FilterConfig(), ("ftp", "tftp"))
    assert all(accepts(ftp, record) for record in expectations("ftp4_passive"))
    assert all(accepts(ftp, record) for record in expectations("tftp4"))
    assert not any(accepts(ftp, r) for r in expectations("sip4_register_invite"))
    assert all(accepts(ftp, r) for r in records("sip4_register_invite") if r[0] <= DUMP)


def test_a_helper_on_another_port_is_the_same_helper() -> None:
    key, body = expectations("ftp4_passive")[0][1:3]
    name = attributes(body)[CTA_EXPECT_HELP_NAME]
    for other, is_ftp in ((b"ftp-2121\0", True), (b"ftp-x\0", False), (b"-1\0", False)):
        renamed = body.replace(name, tlv(CTA_EXPECT_HELP_NAME, other))
        assert renamed != body
        assert RecordFilter(FilterConfig(), ("ftp",)).accepts(key, renamed) == is_ftp


@pytest.mark.parametrize("choice", [False, ()])
def test_expectations_may_be_left_out(choice: bool | tuple[str, ...]) -> None:
    record_filter = RecordFilter(FilterConfig(), choice)
    assert not any(accepts(record_filter, r) for r in expectations("ftp4_passive"))
    assert accepts(record_filter, one("ftp4_passive"))


@pytest.mark.parametrize("scenario", ["ftp4_passive", "ftp6_passive"])
def test_an_expectation_goes_with_its_master(scenario: str) -> None:
    family = 4 if "4" in scenario else 6
    client, server, stranger = (
        ("10.77.1.10/32", "10.77.2.10/32", "10.99.0.0/16")
        if family == 4
        else ("fd77:1::10/128", "fd77:2::10/128", "fd99::/16")
    )
    udp = RecordFilter(FilterConfig(protocols=Choice(accept=(UDP,))))
    tcp = RecordFilter(FilterConfig(protocols=Choice(accept=(TCP,))))
    for record in expectations(scenario):
        assert accepts(of_addresses(accept=client), record)
        assert accepts(of_addresses(accept=server), record)
        assert not accepts(of_addresses(accept=stranger), record)
        assert not accepts(of_addresses(ignore=client), record)
        assert accepts(tcp, record)
        assert not accepts(udp, record)
        assert accepts(of_states(accept=(TIME_WAIT,)), record)
