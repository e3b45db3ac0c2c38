"""Lines of clients become checked requests or refusals; tables become rows."""

import json

import pytest
from syncd.daemon.commands import (
    COMMANDS,
    message_rows,
    read_request,
    refusal,
    table_rows,
)
from syncd.errors import ControlError
from syncd.flows import nla


def flow_key(last: int) -> bytes:
    """The key of a UDP flow from 10.0.0.`last`."""
    addresses = nla.tlv(1, bytes((10, 0, 0, last))), nla.tlv(2, bytes((10, 0, 1, 1)))
    ends = nla.tlv(1, b"\x11"), nla.tlv(2, b"\0\1"), nla.tlv(3, b"\0\2")
    return b"\x02\0\0\0" + nla.nested(
        1, nla.nested(1, *addresses), nla.nested(2, *ends)
    )


BODIES = {flow_key(1): nla.tlv(8, b"\0\0\0\7"), flow_key(2): b""}


def refused(line: bytes) -> str:
    with pytest.raises(ControlError) as caught:
        read_request(line)
    assert caught.value.status == 2
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_command_comes_with_its_options() -> None:
    request = read_request(b'{"command": "commit", "peer": "fw2", "timeout": 5}\n')
    assert request.command == "commit"
    assert request.options == {"peer": "fw2", "timeout": 5}
    assert request.timeout_s == 5.0
    assert not request.reads


def test_a_null_is_an_option_that_is_not_given() -> None:
    request = read_request(b'{"command": "status", "timeout": null}')
    assert request.options == {}
    assert request.timeout_s is None
    assert request.reads


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 60000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "command None is not known, allowed: status, metrics"),
        (b'{"command": ["status"]}', "is not known"),
        (b'{"command": "sta\\ntus"}', "is not known"),
        (b'{"command": "status", "x": 1}', "status: option 'x' is not known"),
        (b'{"command": "flush"}', 'flush: table must be given: "own" or "peer"'),
        (b'{"command": "flush", "table": "all"}', "flush: table is 'all', must be"),
        (b'{"command": "resync", "what": 1}', 'must be "pull" or "push" or "kernel"'),
        (b'{"command": "stop", "timeout": 0}', "timeout is 0, must be seconds"),
        (b'{"command": "stop", "timeout": true}', "timeout is True, must be seconds"),
        (b'{"command": "stop", "timeout": NaN}', "timeout is nan, must be seconds"),
        (b'{"command": "commit", "peer": ""}', "peer is '', must be a node's name"),
        (b'{"command": "show", "raw": 1}', "raw is 1, must be true or false"),
        (b'{"command": "watch", "table": "kernel"}', 'must be "own" or "peer"'),
        (b'{"command": "watch", "events": "new,old"}', "must be new, update, destroy"),
        (b'{"command": "show", "src": "x"}', "--src: 'x' is not an address"),
        (b'{"command": "show", "dport": {}}', "dport is {}, must be a port"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_is(
    line: bytes, words: str
) -> None:
    assert words in refused(line)


def test_every_command_of_the_contract_is_there() -> None:
    assert set(COMMANDS) == {
        *("status", "commit", "flush", "resync", "promote", "demote", "fault"),
        *("verify", "show", "watch", "stop", "metrics", "keys", "config"),
    }
    assert all("timeout" in command.options for command in COMMANDS.values())


def test_a_refusal_carries_the_exit_status() -> None:
    answer = {"ok": False, "error": "not allowed", "status": 4}
    assert refusal(ControlError("not allowed", 4)) == answer


def test_rows_are_descriptions_of_what_passes_the_filters() -> None:
    rows = list(table_rows(BODIES, "fw2", {"src": "10.0.0.1"}))
    assert [(row["peer"], row["mark"]) for row in rows] == [("fw2", 7)]
    assert len(list(table_rows(BODIES, None, {}))) == 2


def test_raw_rows_are_hex_and_the_client_filters() -> None:
    rows = list(table_rows(BODIES, "fw2", {"raw": True, "src": "10.0.0.1"}))
    assert [bytes.fromhex(str(row["key"])) for row in rows] == list(BODIES)
    assert [bytes.fromhex(str(row["body"])) for row in rows] == list(BODIES.values())
    assert {row["peer"] for row in rows} == {"fw2"}


def test_a_table_may_change_while_it_is_listed() -> None:
    bodies = dict(BODIES)
    rows = table_rows(bodies, None, {})
    next(rows)
    del bodies[flow_key(2)]
    bodies[flow_key(3)] = b""
    assert list(rows) == []


def test_messages_of_a_dump_are_rows_too() -> None:
    attributes = flow_key(1)[4:]
    message = (
        (20 + len(attributes)).to_bytes(4, "little")
        + bytes((0, 1, 2, 0, *bytes(8)))
        + b"\x02\0\0\0"
        + attributes
    )
    assert list(message_rows([message], {"raw": True})) == [{"message": message.hex()}]
    (row,) = message_rows([message], {"proto": "udp"})
    assert json.loads(json.dumps(row))["protocol"] == "udp"
    assert list(message_rows([message], {"proto": "tcp"})) == []


def test_a_record_that_is_not_understood_is_told_not_raised() -> None:
    (row,) = table_rows({b"x": b""}, None, {"proto": "tcp"})
    assert row == {"kind": "malformed", "problem": "a message of 17 bytes"}
