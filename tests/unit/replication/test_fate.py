"""Nodes name what their kernels are set to differently: items, digests, losses."""

import random

import msgpack
import pytest
from syncd.errors import FrameError
from syncd.replication.fate import (
    Difference,
    FateExchange,
    Told,
    bounded,
    differences,
    digest_of,
)
from syncd.replication.frame import Coder
from syncd.replication.hello import FATE_ITEMS_LIMIT, Fate, Hello, Item
from syncd.replication.settings import Settings

from tests.frozen.neighbour import Neighbour
from tests.unit.replication.talk import Talk, put

ESTABLISHED = "nf_conntrack_tcp_timeout_established"


def items(count: int, **others: int | str) -> list[Item]:
    base: dict[str, int | str] = {f"setting_{at:03}": at for at in range(count)}
    return list((base | others).items())


def told(talk: Talk, at: str, of: str) -> tuple[Difference, ...] | None:
    return talk.engines[at].peers[of].fate.differences


def use(talk: Talk, name: str, wanted: list[Item]) -> None:
    talk.engines[name].use_fate(wanted, talk.now)


def parts_said(talk: Talk, name: str) -> int:
    contents = [Coder().unpack(data).content for by, data in talk.sent if by == name]
    return sum(
        isinstance(content, Hello)
        and content.fate is not None
        and content.fate.parts > 0
        for content in contents
    )


def test_each_difference_is_named_with_both_values_on_both_sides() -> None:
    talk = Talk("a", "b")
    use(talk, "a", [*items(40), (ESTABLISHED, 432000), ("helper ftp", "present")])
    use(talk, "b", [*items(40), (ESTABLISHED, 3600), ("policy", "x")])
    talk.run(3)
    assert told(talk, "a", "b") == (
        Difference("helper ftp", "present", None),
        Difference(ESTABLISHED, 432000, 3600),
        Difference("policy", None, "x"),
    )
    assert told(talk, "b", "a") == (
        Difference("helper ftp", None, "present"),
        Difference(ESTABLISHED, 3600, 432000),
        Difference("policy", "x", None),
    )


def test_nodes_that_are_set_alike_exchange_a_digest_and_nothing_more() -> None:
    talk = Talk("a", "b", "c")
    for name in "abc":
        use(talk, name, items(50))
    talk.run(3)
    assert told(talk, "a", "b") == told(talk, "c", "a") == ()
    assert not any(parts_said(talk, name) for name in "abc")
    assert not any(
        "kernel" in text
        for engine in talk.engines.values()
        for _, text in engine.take_messages()
    )


def test_a_difference_is_said_once_and_so_is_its_end() -> None:
    talk = Talk("a", "b")
    use(talk, "a", items(9, timeout=5))
    use(talk, "b", items(9, timeout=6))
    talk.run(4)
    talk.start("b", epoch=99)
    use(talk, "b", items(9, timeout=6))
    talk.run(4)
    said = [m for m in talk.engines["a"].take_messages() if "kernel" in m[1]]
    assert said == [
        (
            "warning",
            "restored flows fare otherwise on b, its kernel is set differently: "
            "timeout: 5 here, 6 there",
        )
    ]
    use(talk, "b", items(9, timeout=5))
    talk.run(2)
    said = [m for m in talk.engines["a"].take_messages() if "kernel" in m[1]]
    assert said == [("info", "the kernels here and on b are set alike now")]
    assert told(talk, "a", "b") == ()


def test_a_change_here_is_compared_with_what_the_peer_told_before() -> None:
    talk = Talk("a", "b")
    use(talk, "a", items(9))
    use(talk, "b", items(9))
    talk.run(2)
    use(talk, "a", items(9, timeout=1))
    assert told(talk, "a", "b") == (Difference("timeout", 1, None),)
    talk.run(2)
    assert told(talk, "b", "a") == (Difference("timeout", None, 1),)


def test_losses_only_delay_it() -> None:
    talk = Talk("a", "b")
    use(talk, "a", items(200, timeout=1))
    use(talk, "b", items(200, timeout=2))
    chance = random.Random(1)
    talk.deliver = lambda _sender, _receiver, _datagram: chance.random() < 0.6
    talk.run(40)
    assert told(talk, "a", "b") == (Difference("timeout", 1, 2),)
    assert told(talk, "b", "a") == (Difference("timeout", 2, 1),)


def test_many_items_leave_in_parts_that_fit_small_frames_and_few_at_once() -> None:
    talk = Talk("a", "b", settings=Settings(frame_bytes=548))
    use(talk, "a", items(FATE_ITEMS_LIMIT + 50))
    use(talk, "b", items(FATE_ITEMS_LIMIT + 60))
    before = 0
    for _ in range(20):
        talk.run(0.5)
        now = parts_said(talk, "a")
        assert now - before <= 12
        before = now
    found = told(talk, "a", "b")
    assert found is not None
    assert [difference.what for difference in found] == ["further settings"]
    assert str(found[0].there).startswith("61, digest ")


def test_parts_that_wait_are_divided_anew_when_hello_has_grown() -> None:
    """Seed 4032930: keys came and counters grew, and a part was too long by 4 bytes."""
    exchange = FateExchange(lambda _level, _text: None)
    exchange.use(items(100), {})
    hello = Hello(fate=Fate(1, ("a",)))
    exchange.heard("b", Told(), hello, "a", 0.0)
    room = 40

    def fits(fate: Fate, beside: int) -> bool:
        return 2 * len(fate.items) + beside <= room

    said = exchange.parts(fits, 1.0)
    assert said
    assert all(fits(part, 0) for part in said)
    room = 36
    while more := exchange.parts(fits, 2.0):
        assert all(fits(part, 0) for part in more)
        said += more
    listener = Told(exchange.digest)
    for part in said:
        listener.collect(part)
    assert listener.items == exchange.items


def test_who_never_hears_the_items_asks_less_and_less_often() -> None:
    talk = Talk("a", "b")
    use(talk, "a", items(5, timeout=1))
    use(talk, "b", items(5, timeout=2))

    def without_parts(_sender: str, _receiver: str, datagram: bytes) -> bool:
        content = Coder().unpack(datagram).content
        fate = content.fate if isinstance(content, Hello) else None
        return fate is None or fate.parts == 0

    talk.deliver = without_parts
    talk.run(60)
    assert 5 <= parts_said(talk, "a") <= 12
    assert told(talk, "a", "b") is None
    assert talk.engines["a"].peers["b"].state.value == "in-step"


def test_who_tells_no_settings_is_not_compared() -> None:
    talk = Talk("a", "b")
    use(talk, "a", items(5))
    talk.run(3)
    assert told(talk, "a", "b") is None
    assert told(talk, "b", "a") is None
    assert parts_said(talk, "a") == 0
    use(talk, "b", items(5))
    talk.run(1)
    assert told(talk, "a", "b") == ()
    talk.start("b", epoch=50)  # as an older version, say
    talk.run(3)
    assert told(talk, "a", "b") is None


def test_a_node_of_1_0_is_in_step_with_one_that_tells_its_settings() -> None:
    talk = Talk("a", "b")
    old = Neighbour("z", 100, talk.settings, talk.now)
    old.begin_dump(talk.now)
    old.end_dump(talk.now)
    put(talk.engines["a"].own, *range(50))
    use(talk, "a", items(50, timeout=1))
    use(talk, "b", items(50, timeout=2))
    for _ in range(300):
        before = len(talk.sent)
        talk.turn()
        for name, datagram in talk.sent[before:]:
            assert old.hear(datagram, name, talk.now) is None
        old.tick(talk.now)
        for datagram in old.send(talk.now):
            for engine in talk.engines.values():
                assert engine.receive(datagram, 0, "z", talk.now) is None
        talk.now += 0.01
    assert told(talk, "a", "b") == (Difference("timeout", 1, 2),)
    assert told(talk, "a", "z") is None
    assert old.peers["a"].flows.bodies == talk.own("a")
    assert {p.state.value for p in talk.engines["a"].peers.values()} == {"in-step"}


def test_items_come_back_as_they_were_packed() -> None:
    fate = Fate(77, ("b", "c"), 2, 3, (("x", 1), ("y", "z"), ("big", (1 << 64) - 1)))
    for sent in (fate, Fate(77, ("b",)), Fate(1)):
        content = Coder().content(Coder().pack_hello(Hello(fate=sent)))
        assert isinstance(content, Hello)
        assert content.fate == sent


@pytest.mark.parametrize(
    "fate",
    [
        *(1, [], [0, []], [7], [7, 5], [7, [5]], [-1, []], [7, ["\x1b[2J"]]),
        *([7, [], 0, 1, 5], [7, [], 1, 1, []], [7, [], 0, 513, []]),
        *([7, [], 0, 1, ["a"]], [7, [], 0, 1, [1, 1]], [7, [], 0, 1, ["a", None]]),
        *([7, [], 0, 1, ["a", True]], [7, [], 0, 1, ["a", "b\n"]]),
        *([7, [], 0, 1, ["a" * 129, 1]], [7, [], 0, 1, ["a", 1] * 513]),
        *([7, [], 0, 1, ["a", 1.5]], [7, [], "0", 1, ["a", 1]]),
    ],
)
def test_broken_settings_are_a_frame_error(fate: object) -> None:
    payload = b"\x00" + msgpack.packb([0, {"fate": fate}])
    with pytest.raises(FrameError):
        Coder().content(payload)


def test_what_no_frame_may_carry_is_escaped_and_cut_before_it_leaves() -> None:
    strange: list[Item] = [
        ("policy \x1b[2J\udc80\u2603", "a\nb"),
        ("x" * 200, "\u2603" * 100),
        ("plain", 1 << 32),
    ]
    fate = Fate(5, (), 0, 1, bounded(strange))
    content = Coder().content(Coder().pack_hello(Hello(fate=fate)))
    assert isinstance(content, Hello)
    assert content.fate == fate
    assert fate.items[1] == ("policy \\x1b[2J\\udc80\\u2603", "a\\nb")


def test_items_that_do_not_have_the_digest_are_not_believed() -> None:
    talk = Talk("a", "b")
    use(talk, "a", items(3))
    talk.run(1)
    there = talk.engines["a"].peers["b"].fate
    wrong = Fate(digest_of((("timeout", 1),)), (), 0, 1, (("timeout", 2),))
    talk.engines["a"].agreement.fate.heard("b", there, Hello(fate=wrong), "a", talk.now)
    assert there.items is None
    assert there.differences is None


def test_the_digest_tells_numbers_from_texts_and_knows_no_order() -> None:
    assert digest_of((("a", 1), ("b", 2))) == digest_of((("b", 2), ("a", 1)))
    assert digest_of((("a", 1),)) != digest_of((("a", "1"),))
    assert digest_of(()) > 0
    assert bounded([("b", 1), ("a", 2)]) == (("a", 2), ("b", 1))
    assert differences((("a", 1),), (("a", 1),)) == ()
