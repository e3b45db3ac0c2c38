"""Messages become the lines that conntrack 1.4.7 printed, and pass filters or not.

The lines were recorded beside the messages (tests/data/ctnetlink): events with
`-E -o id,timestamp`, dumps with `-L -o id`, expectations without the id.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from syncd.errors import ControlError
from syncd.flows import nla, view

DATA = Path(__file__).parents[2] / "data" / "ctnetlink"
PREFIX = re.compile(r"^\[\d+\.\d+ *\]\t *\[[A-Z]+\] ")
SUFFIX = re.compile(r" \[USERSPACE\].*$")
# The tool's dump was taken a moment after the recorded one: other numbers in these.
LATER = {
    *(("ftp4_active_masquerade", 4), ("ftp4_passive", 4), ("ftp4_zone", 4)),
    *(("ftp6_passive", 4), ("kitchen_sink_ftp4", 4), ("udp4_timeout", 2)),
}
MOVING = re.compile(r"(?<=\d) \d+(?= [A-Zs])|(?<=packets=)\d+|(?<=bytes=)\d+")
Message = dict[str, object]


def recorded() -> Iterator[Message]:
    """Every message that has a line, of all scenarios."""
    for file in sorted(DATA.glob("*.jsonl")):
        for text in file.read_text().splitlines():
            message = json.loads(text)
            if message.get("line"):
                yield message


def now_of(message: Message) -> int:
    """The time at which the line was printed, as its delta-time tells."""
    age = re.search(r"delta-time=(\d+)", str(message["line"]))
    times = view.describe_message(bytes.fromhex(str(message["hex"]))).get("timestamp")
    if age is None or not isinstance(times, dict):
        return 0
    return int(times["start"]) // 1_000_000_000 + int(age[1])


def printed(
    message: bytes, now_s: int = 0, *, ident: bool = False, extended: bool = False
) -> str:
    clock = view.Clock(lambda: now_s * 1_000_000_000, time.gmtime)
    wishes = view.Wishes(clock, ident=ident, extended=extended)
    line = view.Printer("text", wishes).line(message)
    assert line is not None
    return line


def test_every_recorded_line_is_printed_to_the_byte() -> None:
    count = 0
    for message in recorded():
        expected = SUFFIX.sub("", PREFIX.sub("", str(message["line"])))
        # Of expectations conntrack prints no id.
        data = bytes.fromhex(str(message["hex"]))
        text = printed(data, now_of(message), ident=True)
        if (message["scenario"], message["n"]) in LATER:
            text, expected = MOVING.sub("N", text), MOVING.sub("N", expected)
        assert text == expected, (message["scenario"], message["n"])
        count += 1
    assert count > 250


def test_the_id_is_shown_on_demand_only() -> None:
    message = the_message("tcp4_close", 6)
    assert " id=" not in printed(message)
    assert printed(message, ident=True).endswith(" use=1 id=2604312390")


def test_the_extended_line_begins_with_the_family() -> None:
    plain = printed(the_message("udp6", 2))
    text = printed(the_message("udp6", 2), extended=True)
    assert text == f"ipv6     10 {plain}"
    plain = printed(the_message("udp4", 3))
    text = printed(the_message("udp4", 3), extended=True)
    assert text == f"ipv4     2 {plain}"


def test_what_a_table_does_not_know_is_not_printed() -> None:
    message = the_message("tcp4_close", 6)
    found = nla.attributes(message, 20)
    body = b"".join(found[kind] for kind in (2, 3, 4))
    assert view.line(message[16:20] + found[1], body) == (
        "tcp      6 TIME_WAIT src=10.77.1.10 dst=10.77.2.10 sport=45770 dport=7000"
        " src=10.77.2.10 dst=10.77.1.10 sport=7000 dport=45770 [ASSURED]"
    )


def with_attribute(message: bytes, attribute: bytes) -> bytes:
    """The message with one attribute more; of two the last one counts."""
    length = len(message) + len(attribute)
    return length.to_bytes(4, "little") + message[4:] + attribute


def test_an_offloaded_flow_says_so_instead_of_assured() -> None:
    message = the_message("tcp4_close", 6)
    offloaded = with_attribute(message, nla.tlv(3, (0x4006).to_bytes(4)))
    assert " [OFFLOAD] " in printed(offloaded)
    offloaded = with_attribute(message, nla.tlv(3, (0xC006).to_bytes(4)))
    assert " [HW_OFFLOAD] " in printed(offloaded)
    assert "ASSURED" not in printed(offloaded)


def test_a_zone_of_an_expectation_stands_before_its_flags() -> None:
    # As libnetfilter_conntrack 1.0.9 prints it.
    message = the_message("sip4_register_invite", 3)
    text = printed(with_attribute(message, nla.tlv(7, b"\0\7")))
    assert " zone=7 PERMANENT,INACTIVE class=0 helper=sip" in text


def the_message(scenario: str, number: int) -> bytes:
    line = (DATA / f"{scenario}.jsonl").read_text().splitlines()[number]
    return bytes.fromhex(json.loads(line)["hex"])


def selected(message: bytes, **options: object) -> bool:
    given = {name.replace("_", "-"): value for name, value in options.items()}
    filters = view.read_filters(given)
    assert filters is not None
    return view.Sieve(filters).passes(message)


def test_no_filters_are_none() -> None:
    assert view.read_filters({}) is None
    assert view.read_filters({"proto": None, "table": "own"}) is None


@pytest.mark.parametrize(
    ("option", "passes", "fails"),
    [
        ("family", "ipv4", "ipv6"),
        ("proto", "tcp", "udp"),
        ("proto", "6", "17"),
        ("proto", 6, 17),
        ("src", "10.77.1.10", "10.77.1.11"),
        ("src", "10.77.1.0/24", "fd00::/8"),
        ("dst", "10.77.2.10", "10.77.1.10"),
        ("sport", "37036", 21),
        ("dport", 21, "22"),
        ("state", "established", "CLOSE"),
        ("mark", "51966", "0"),
        ("mark", "0145376", "0145377"),
        ("mark", "0xca00/0xff00", "0xcb00/0xff00"),
        ("mark", "0x0/0x1", "0xcafe/0xff00"),
        ("zone", "7", 0),
        ("status", "ASSURED,SNAT", "DST_NAT"),
        ("status", "!DST_NAT,ASSURED", "!ASSURED"),
        ("status", "UNSET", "UNREPLIED"),
        ("reply-src", "10.77.2.0/24", "10.77.1.0/24"),
        ("reply-dst", "10.77.2.1", "10.77.1.10"),
        ("orig-zone", "0", "7"),
        ("reply-zone", "0", "7"),
        ("any-nat", True, "10.77.2.2"),
        ("any-nat", "10.77.2.1", "10.77.2.1:80"),
        ("src-nat", "10.77.2.1:37036", "10.77.2.1:1"),
    ],
)
def test_a_filter_passes_or_not(option: str, passes: object, fails: object) -> None:
    flow = the_message("kitchen_sink_ftp4", 4)
    assert selected(flow, **{option: passes})
    assert not selected(flow, **{option: fails})


def test_all_filters_have_to_pass() -> None:
    flow = the_message("kitchen_sink_ftp4", 4)
    assert selected(flow, proto="tcp", dport=21, mark="51966")
    assert not selected(flow, proto="tcp", dport=21, mark="1")


def test_what_a_flow_has_not_is_not_matched() -> None:
    flow = the_message("icmp4", 2)
    assert not selected(flow, sport=8)
    assert not selected(flow, any_nat=True)
    assert not selected(flow, label=1)
    assert not selected(flow, state="ESTABLISHED")
    assert selected(flow, mark=0)
    assert selected(flow, zone=0)


def test_a_port_that_was_translated_alone_is_nat() -> None:
    flow = the_message("tcp4_dnat_port", 6)
    assert selected(flow, dst_nat="10.77.2.10:7000")
    assert not selected(flow, src_nat=True)
    flow = the_message("tcp6_dnat_port", 6)
    assert selected(flow, dst_nat="[fd77:2::10]:7000")
    assert selected(flow, any_nat="fd77:2::/64")


def test_labels_are_bits_and_all_of_them_are_asked_for() -> None:
    labels = bytes.fromhex("02000000200000000000000000000000")
    flow = with_attribute(the_message("udp4", 3), nla.tlv(22, labels))
    assert selected(flow, label="1,37")
    assert not selected(flow, label="1,2")


def test_an_expectation_is_selected_by_what_is_expected() -> None:
    expectation = the_message("ftp4_passive", 5)
    assert selected(expectation, dport=47929, dst="10.77.2.10", proto="tcp")
    assert not selected(expectation, dport=21)
    assert not selected(expectation, src_nat=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"src": "10.0.0.1", "dst": "fd00::/8"},
            "--src and --dst are of different address families",
        ),
        (
            {"family": "ipv6", "any_nat": "10.0.0.1"},
            "--family and --any-nat are of different address families",
        ),
        ({"proto": "tcp", "state": "COOKIE_WAIT"}, "--state: not a state of tcp"),
        ({"proto": "udp", "state": "ESTABLISHED"}, "--state: not a state of udp"),
        ({"proto": "icmp", "dport": 8}, "--sport and --dport: icmp has no ports"),
        ({"proto": "50", "sport": 8}, "--sport and --dport: protocol 50 has no ports"),
    ],
)
def test_filters_that_nothing_can_pass_are_refused(
    options: dict[str, object], text: str
) -> None:
    given = {name.replace("_", "-"): value for name, value in options.items()}
    with pytest.raises(ControlError, match=f"^{text}") as caught:
        view.read_filters(given)
    assert caught.value.status == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("family", "ipv5"),
        ("proto", "foo"),
        ("proto", "256"),
        ("src", "10.0.0.300"),
        ("src", 7),
        ("dst", "fe80::1%eth0"),
        ("sport", "-1"),
        ("dport", "65536"),
        ("dport", "9" * 5000),
        ("state", "OPENED"),
        ("mark", "x"),
        ("mark", "1/0x100000000"),
        ("zone", True),
        ("label", "128"),
        ("label", "a,b"),
        ("status", "FINE"),
        ("src-nat", "10.0.0.1:x"),
        ("dst-nat", "10.0.0.1:70000"),
    ],
)
def test_a_filter_that_is_not_understood_is_refused(option: str, value: object) -> None:
    with pytest.raises(ControlError, match=f"^--{option}: ") as caught:
        view.read_filters({option: value})
    assert caught.value.status == 2
