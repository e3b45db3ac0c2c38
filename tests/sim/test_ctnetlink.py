"""The model kernel writes what a real one writes."""

import json
from pathlib import Path

import pytest

from tests.sim import ctnetlink, decode
from tests.sim.ctnetlink import CTA, END, EXP_DUMP, EXP_END, EXP_NEW

RECORDED = Path(__file__).parent.parent / "data" / "ctnetlink"
NOT_MODELLED = {"COUNTERS_ORIG", "COUNTERS_REPLY", "TIMESTAMP", "TIMESTAMP_EVENT"}


def scenarios() -> list[str]:
    return sorted(
        path.stem for path in RECORDED.glob("*.jsonl") if path.stem != "inject_vectors"
    )


def messages(scenario: str) -> list[tuple[str, list[str], bytes]]:
    found = []
    for line in (RECORDED / f"{scenario}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if not NOT_MODELLED & set(entry["attrs"]):
            found.append((entry["type"], entry["attrs"], bytes.fromhex(entry["hex"])))
    return found


def rebuild_flow(kind: str, data: bytes) -> bytes:
    found = decode.named(data[20:])
    facts = decode.facts_of(found)
    if "SYNPROXY" in found:
        facts = facts._replace(synproxy=decode._triple(found["SYNPROXY"]))
    parts = {name: ctnetlink.attribute(name, facts) for name in found if name in CTA}
    for name in ("ID", "USE", "TIMEOUT", "MARK"):
        if name in found:
            parts[name] = ctnetlink.number(CTA[name], int.from_bytes(found[name]))
    if kind == END and facts.tracker is not None:
        protocol = facts.orig.protocol
        parts["PROTOINFO"] = ctnetlink.tracker_tlv(
            protocol, facts.tracker, state_only=True
        )
    return ctnetlink.flow_message(kind, data[16:20], parts)


def rebuild_expectation(kind: str, data: bytes) -> bytes:
    found = dict(decode.walk(data[20:]))
    ident, timeout = (int.from_bytes(found[at]) for at in (5, 4))
    expected = decode.expected_of(found)
    return ctnetlink.expectation_message(kind, expected, ident, timeout)


@pytest.mark.parametrize("scenario", scenarios())
def test_every_recorded_message_is_rebuilt_byte_for_byte(scenario: str) -> None:
    for kind, names, recorded in messages(scenario):
        if kind in (EXP_NEW, EXP_END, EXP_DUMP):
            built = rebuild_expectation(kind, recorded)
        else:
            built = rebuild_flow(kind, recorded)
        # Sequence and portid belong to whoever asked or caused it.
        assert built[:8] + built[16:] == recorded[:8] + recorded[16:], (kind, names)


def test_recordings_are_there() -> None:
    assert sum(len(messages(scenario)) for scenario in scenarios()) > 300
