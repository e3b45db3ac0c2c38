"""A network that is narrower in the middle than at its ends."""

import random
from collections.abc import Callable

import pytest
from syncd.flows.nla import tlv
from syncd.replication.frame import Coder, Data
from syncd.replication.seal import Security
from syncd.replication.settings import Settings

from tests.unit.replication.talk import Talk, new_flow

KEY = b"\x11" * 4
SEALED = Security("enforce", {KEY: bytes(32)}, KEY)


def passing(limit: int) -> Callable[[str, str, bytes], bool]:
    return lambda _sender, _receiver, datagram: len(datagram) <= limit


def fill(talk: Talk, name: str, count: int, first: int = 0) -> None:
    """Flows with labels that no compression makes shorter."""
    draw = random.Random(first)
    for number in range(first, first + count):
        kind, key, body, ident, mask = new_flow(number)
        labelled = body + tlv(22, draw.randbytes(16))
        talk.engines[name].own.apply([(kind, key, labelled, ident, mask | 1 << 22)], 1)


def room(talk: Talk, name: str = "a") -> int:
    return talk.engines[name].paths.status(0, talk.now).frame_bytes


def said(talk: Talk, name: str = "a") -> list[str]:
    return [
        text for _, text in talk.engines[name].take_messages() if "frames of" in text
    ]


@pytest.mark.parametrize("limit", [548, 800, 1000])
@pytest.mark.parametrize("security", [Security(), SEALED], ids=["plain", "sealed"])
def test_frames_become_as_small_as_what_passes(limit: int, security: Security) -> None:
    talk = Talk("a", "b", "c", security=security)
    talk.run(1)
    talk.deliver = passing(limit)
    fill(talk, "a", 2000)
    talk.run(4)
    assert talk.copy("b", "a") == talk.copy("c", "a") == talk.own("a")
    assert 0.8 * limit < room(talk) <= limit
    assert talk.engines["a"].paths.status(0, talk.now).narrow
    text = said(talk)
    assert len(text) == 1
    assert f"1400 bytes do not reach b, those of {room(talk)} do" in text[0]
    talk.run(1)
    assert talk.engines["a"].peers["b"].verified


def test_a_cluster_that_starts_behind_a_narrow_network_comes_in_step() -> None:
    talk = Talk("a", "b", settings=Settings(frame_bytes=8972))
    talk.deliver = passing(1472)
    fill(talk, "a", 3000)
    fill(talk, "b", 2000)
    talk.run(6)
    assert talk.copy("b", "a") == talk.own("a")
    assert talk.copy("a", "b") == talk.own("b")
    assert talk.engines["b"].peers["a"].verified
    assert room(talk) == room(talk, "b") == 1440


def test_frames_are_large_again_when_the_network_is_wide_again() -> None:
    talk = Talk("a", "b")
    talk.deliver = passing(800)
    fill(talk, "a", 2000)
    talk.run(4)
    assert room(talk) == 750
    talk.run(100, 0.05)  # probes that are lost change nothing and say nothing
    assert room(talk) == 750
    assert len(said(talk)) == 1
    talk.deliver = lambda *_: True
    talk.run(300, 0.05)
    assert room(talk) == 1400
    assert said(talk) == ["frames of 1400 bytes pass the network again"]


def test_losses_of_all_sizes_make_no_frame_smaller() -> None:
    talk = Talk("a", "b")
    count = [0]

    def lose(_sender: str, _receiver: str, _datagram: bytes) -> bool:
        count[0] = (count[0] * 1103515245 + 12345) % (1 << 31)
        return count[0] >> 16 & 1 == 0

    talk.run(1)
    talk.deliver = lose
    for turn in range(3000):
        fill(talk, "a", 200, turn % 50 * 40)
        talk.turn()
        talk.now += 0.01
    assert room(talk) == 1400
    assert not said(talk)


def test_a_probe_says_nothing_and_has_the_length_that_was_asked_for() -> None:
    coder = Coder()
    for length in (60, 200, 270, 548, 1400, 8900):
        payload = coder.pack_probe(Data(floor=7, resync=3), length)
        assert length - 1 <= len(payload) <= length
        assert coder.content(payload) == Data(floor=7, resync=3)
