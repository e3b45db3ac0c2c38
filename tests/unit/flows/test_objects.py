"""Recorded messages and bodies go in, plain values come out."""

import json
from pathlib import Path

import pytest
from syncd.errors import RecordError
from syncd.flows import nla
from syncd.flows.view import describe, describe_message

DATA = Path(__file__).parents[2] / "data" / "ctnetlink"
IPV4, IPV6 = b"\x02\0\0\0", b"\x0a\0\0\0"


def recorded(scenario: str, number: int) -> bytes:
    line = (DATA / f"{scenario}.jsonl").read_text().splitlines()[number]
    return bytes.fromhex(json.loads(line)["hex"])


def ends(kind: int, protocol: int) -> bytes:
    """A tuple of IPv4 with the two ports 1 and 2."""
    addresses = nla.tlv(1, bytes((10, 0, 0, 1))), nla.tlv(2, bytes((10, 0, 0, 2)))
    return nla.nested(
        kind,
        nla.nested(1, *addresses),
        nla.nested(
            2, nla.tlv(1, bytes((protocol,))), nla.tlv(2, b"\0\1"), nla.tlv(3, b"\0\2")
        ),
    )


def ipv6(source: str) -> str:
    """How the source address, given as 32 hex digits, is written."""
    addresses = nla.tlv(3, bytes.fromhex(source)), nla.tlv(4, bytes(16))
    data = nla.nested(1, *addresses) + nla.nested(2, nla.tlv(1, b"\x32"))
    orig = describe(IPV6 + nla.nested(1, data), b"")["orig"]
    assert isinstance(orig, dict)
    return str(orig["src"])


def test_a_recorded_dump_of_everything_is_described() -> None:
    flow = describe_message(recorded("kitchen_sink_ftp4", 4))
    assert flow["kind"] == "flow"
    assert (flow["family"], flow["protocol"], flow["protocol_number"]) == (
        *("ipv4", "tcp", 6),
    )
    assert flow["orig"] == {
        "src": "10.77.1.10",
        "dst": "10.77.2.10",
        "sport": 37036,
        "dport": 21,
    }
    assert flow["reply"] == {
        "src": "10.77.2.10",
        "dst": "10.77.2.1",
        "sport": 21,
        "dport": 37036,
    }
    assert flow["state"] == "ESTABLISHED"
    assert (flow["assured"], flow["unreplied"], flow["nat"]) == (True, False, ["src"])
    assert (flow["mark"], flow["zone"], flow["helper"]) == (51966, 7, "ftp")
    assert flow["counters"] == {
        "orig": {"packets": 5, "bytes": 301},
        "reply": {"packets": 5, "bytes": 320},
    }
    assert set(flow) >= {"seqadj", "labels", "timestamp", "use", "id", "timeout", "tcp"}
    assert json.loads(json.dumps(flow)) == flow


def test_a_related_flow_names_its_master() -> None:
    flow = describe_message(recorded("kitchen_sink_ftp4", 14))
    assert flow["master"] == {
        "protocol": "tcp",
        "protocol_number": 6,
        "src": "10.77.1.10",
        "dst": "10.77.2.10",
        "sport": 37036,
        "dport": 21,
    }


def test_an_expectation_is_described() -> None:
    expectation = describe_message(recorded("ftp4_active_masquerade", 5))
    assert expectation["kind"] == "expectation"
    assert (expectation["helper"], expectation["class"]) == ("ftp", 0)
    assert expectation["function"] == "nat-follow-master"
    assert expectation["flags"] == []
    nat = expectation["nat"]
    assert isinstance(nat, dict)
    assert nat["direction"] == "reply"
    assert nat["tuple"]["sport"] == 50697


def test_key_and_body_are_described_as_their_message_is() -> None:
    message = recorded("zone", 6)
    parts = nla.attributes(message, 20)
    key = message[16:20] + parts.pop(1) + parts.pop(18)
    flow = describe(key, b"".join(parts.values()))
    assert flow == describe_message(message)
    assert flow["zone"] == 7


def test_a_direction_has_its_own_zone() -> None:
    flow = describe_message(recorded("zone_orig_dir", 2))
    orig, reply = flow["orig"], flow["reply"]
    assert isinstance(orig, dict)
    assert isinstance(reply, dict)
    assert orig["zone"] == 7
    assert "zone" not in reply
    assert "zone" not in flow


def test_dccp_has_states_and_a_role() -> None:
    parts = nla.tlv(1, b"\4"), nla.tlv(2, b"\1"), nla.tlv(3, bytes(7) + b"\5")
    flow = describe(IPV4 + ends(1, 33), nla.nested(4, nla.nested(2, *parts)))
    assert flow["state"] == "OPEN"
    assert flow["dccp"] == {"role": 1, "handshake_seq": 5}


def test_a_state_that_is_not_known_is_none_as_in_conntrack() -> None:
    body = nla.nested(4, nla.nested(1, nla.tlv(1, b"\x63")))
    assert describe(IPV4 + ends(1, 6), body)["state"] == "NONE"


def test_names_from_outside_are_made_printable() -> None:
    body = nla.nested(5, nla.tlv(1, b"f\x1b[2J\n\xff\0rest"))
    assert (
        describe(IPV4 + ends(1, 6), body)["helper"] == "f?[2J?\N{REPLACEMENT CHARACTER}"
    )


@pytest.mark.parametrize(
    ("digits", "text"),
    [
        ("00000000000000000000000000000000", "::"),
        ("00000000000000000000000000000001", "::1"),
        ("20010db8000000000001000000000000", "2001:db8:0:0:1::"),
        ("20010db8000000010001000100010001", "2001:db8:0:1:1:1:1:1"),
        ("00010000000000000000000000000000", "1::"),
        ("00000000000000000000ffff0a000001", "::ffff:10.0.0.1"),
        ("0000000000000000000000000a000001", "::10.0.0.1"),
        ("00000000000100000000000100000000", "::1:0:0:1:0:0"),
    ],
)
def test_ipv6_is_written_as_the_c_library_writes_it(digits: str, text: str) -> None:
    assert ipv6(digits) == text


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (b"", b""),
        (IPV4, b""),
        (IPV4 + nla.tlv(3, b"\0\0\0\0"), b""),
        (IPV4 + nla.nested(1), b""),
        (
            IPV4 + nla.nested(1, nla.nested(1, nla.tlv(1, b"\1"), nla.tlv(2, b"\1"))),
            b"",
        ),
        (b"\x07\0\0\0" + ends(1, 6), b""),
        (IPV4 + ends(1, 6)[:-4], b""),
        (IPV4 + ends(1, 6), b"\1"),
        (IPV4 + ends(1, 6), nla.tlv(3, b"\0")),
        (IPV4 + ends(1, 6), nla.nested(5)),
        (IPV4 + ends(1, 6), nla.nested(4, nla.nested(1))),
        (IPV4 + ends(1, 1), b""),
    ],
)
def test_bytes_that_are_no_record_are_refused(key: bytes, body: bytes) -> None:
    with pytest.raises(RecordError):
        describe(key, body)


@pytest.mark.parametrize("cut", [0, 19, 20, 60, 100])
def test_a_cut_message_is_refused(cut: int) -> None:
    with pytest.raises(RecordError):
        describe_message(recorded("tcp4_close", 0)[:cut])


def test_a_message_of_another_subsystem_is_refused() -> None:
    message = bytearray(recorded("tcp4_close", 0))
    message[5] = 10
    with pytest.raises(RecordError, match="subsystem 10"):
        describe_message(bytes(message))
