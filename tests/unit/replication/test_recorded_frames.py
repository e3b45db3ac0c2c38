"""Frames of every version of this major are understood as they were meant."""

import json
from dataclasses import asdict

import msgpack
import pytest
from syncd.replication.frame import Coder, Data

from tests.unit.replication.recorded_frames import (
    VERSIONS,
    RecordedFrame,
    digest,
    recorded_frames,
)

# What a version said that no later one asks for: comparisons of 1.0.
RETIRED = ("marker", "digest")


def says(newer: object, older: object) -> bool:
    """Does the newer reading hold all of the older one? It may know more fields."""
    if isinstance(older, dict):
        return isinstance(newer, dict) and all(
            key in newer and says(newer[key], value)
            for key, value in older.items()
            if key in newer or key not in RETIRED
        )
    if isinstance(older, list):
        return (
            isinstance(newer, list)
            and len(newer) >= len(older)
            and all(map(says, newer, older))
        )
    return newer == older


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_frame_is_understood_as_it_was_meant(version: str) -> None:
    coder = Coder()
    for recorded in recorded_frames(version):
        frame = coder.unpack(recorded.datagram)
        place = f"{version} {recorded.session} {recorded.n}"
        assert frame.sender == recorded.sender, place
        assert (frame.epoch, frame.number) == (recorded.epoch, recorded.number), place
        content = frame.content
        if recorded.hello is not None:
            fields = json.loads(json.dumps(asdict(content)))
            assert says(fields, recorded.hello), place
            continue
        assert isinstance(content, Data), place
        assert recorded.data is not None, place
        for name, value in recorded.data.items():
            if name in RETIRED:
                continue
            found = getattr(content, name)
            if isinstance(value, int):
                assert found == value, place
            else:
                assert [len(found), digest(found)] == value, place


def test_the_recorded_sessions_of_1_0_hold_what_they_promise() -> None:
    frames = recorded_frames("1.0")
    assert {frame.session for frame in frames} == {"two-nodes", "three-nodes"}
    codecs = {bytes(msgpack.unpackb(frame.datagram)[4])[0] for frame in frames}
    assert codecs == {0, 1}
    for name in ("flows", "flow_ends", "expectations", "expectation_ends"):
        assert any(_count(frame, name) for frame in frames), name
    for name in ("floor", "resync", "marker"):
        assert any(frame.data and frame.data[name] for frame in frames), name
    acks = [ack for frame in frames for ack in _acks(frame)]
    assert any(ack["lost"] for ack in acks)
    assert {-1} < {ack["wants"] for ack in acks}
    assert {ack["verdict"] for ack in acks} >= {0, 1}
    assert any(ack["primary"] for ack in acks)


def _count(frame: RecordedFrame, name: str) -> object:
    value = frame.data[name] if frame.data else [0]
    assert isinstance(value, list)
    return value[0]


def _acks(frame: RecordedFrame) -> list[dict[str, object]]:
    acks = frame.hello["acks"] if frame.hello else []
    assert isinstance(acks, list)
    return acks
