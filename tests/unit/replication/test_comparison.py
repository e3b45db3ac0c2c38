"""A copy that differs is found, located and repaired; nothing else is told again."""

import pytest
from syncd.flows.digest import bucket_of, short_name
from syncd.replication.comparison import DIFFERENT
from syncd.replication.frame import Coder, Data
from syncd.replication.peer import Peer
from syncd.replication.settings import Settings

from tests.unit.replication.talk import Talk, flow_body, flow_key, put


def in_step(*names: str, flows: int = 300, settings: Settings | None = None) -> Talk:
    talk = Talk(*names, settings=settings)
    put(talk.engines["a"].own, *range(flows))
    talk.run(1)
    assert talk.engines["b"].peers["a"].verified
    return talk


def is_proof(datagram: bytes) -> bool:
    content = Coder().unpack(datagram).content
    return isinstance(content, Data) and content.proof is not None


def count_afresh(peer: Peer) -> None:
    peer.held.recount_all((peer.flows.bodies, peer.expectations.bodies))


def told(talk: Talk, seconds: float) -> list[bytes]:
    """The keys that a tells b in that time."""
    keys: list[bytes] = []

    def listen(sender: str, receiver: str, datagram: bytes) -> bool:
        content = Coder().unpack(datagram).content
        if (sender, receiver) == ("a", "b") and isinstance(content, Data):
            keys.extend(content.flows[::2])
            keys.extend(content.flow_ends)
        return True

    talk.deliver = listen
    talk.run(seconds)
    return keys


def corrupt(peer: Peer, what: str) -> bytes:
    """Change a copy behind everybody's back; the key of the flow that is concerned."""
    if what == "add":
        key = flow_key(999)
        peer.flows.bodies[key] = flow_body(999)
        peer.flows.told_s[key] = 1
        return key
    key = list(peer.flows.bodies)[17]
    if what == "flip":
        body = bytearray(peer.flows.bodies[key])
        body[-1] ^= 1
        peer.flows.bodies[key] = bytes(body)
    else:
        del peer.flows.bodies[key]
        del peer.flows.told_s[key]
    return key


@pytest.mark.parametrize("what", ["flip", "drop", "add"])
def test_a_silent_corruption_is_found_located_and_repaired(what: str) -> None:
    talk = in_step("a", "b", "c")
    a, b = talk.engines["a"], talk.engines["b"]
    peer = b.peers["a"]
    b.take_messages()
    key = corrupt(peer, what)
    passes = a.agreement._pass_count
    again = told(talk, 2.0)
    assert talk.copy("b", "a") == talk.own("a") == talk.copy("c", "a")
    assert again == ([] if what == "add" else [key])
    assert a.agreement._pass_count == passes
    assert (peer.repaired, b.comparison.differences) == (1, 1)
    assert a.comparison.differences == 1
    assert peer.verified
    assert a.peers["b"].verified
    assert peer.completeness == 1.0
    texts = [text for _, text in b.take_messages()]
    assert len(texts) == 2
    assert "differs in 1 of 64 buckets" in texts[0]
    assert "equal again: 1 records repaired" in texts[1]


def test_a_difference_is_shown_until_it_is_repaired() -> None:
    talk = in_step("a", "b")
    b = talk.engines["b"]
    peer = b.peers["a"]
    corrupt(peer, "flip")
    heard = talk.deliver
    talk.deliver = lambda sender, receiver, datagram: (
        sender == "a" and heard(sender, receiver, datagram)
    )
    talk.run(1.2)
    assert peer.buckets.bit_count() == 1
    assert peer.completeness == 63 / 64
    assert [peer.verified] == [False]
    talk.deliver = heard
    talk.run(1.5)
    assert [peer.verified] == [True]
    assert talk.copy("b", "a") == talk.own("a")


def test_copies_are_compared_while_changes_go_on() -> None:
    talk = in_step("a", "b")
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    for turn in range(300):
        put(a.own, *range(turn * 5, turn * 5 + 40), seconds=turn)
        a.own.flows.end(flow_key(turn * 5))
        talk.turn()
        talk.now += 0.01
        assert peer.verified
        assert a.peers["b"].verified
    assert a.comparison.marker >= 3
    assert talk.now - peer.inbound_at < 1.2


def test_a_corruption_under_load_is_repaired_as_well() -> None:
    talk = in_step("a", "b")
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    key = corrupt(peer, "flip")
    for turn in range(300):
        put(a.own, *range(1000, 1040), seconds=turn)
        talk.turn()
        talk.now += 0.01
    assert peer.flows.bodies[key] == a.own.flows.bodies[key]
    assert peer.verified
    assert peer.repaired == 1


def test_loss_is_no_difference() -> None:
    talk = in_step("a", "b")
    a, b = talk.engines["a"], talk.engines["b"]
    count = 0

    def lossy(_sender: str, _receiver: str, _datagram: bytes) -> bool:
        nonlocal count
        count += 1
        return count % 7 != 0

    talk.deliver = lossy
    for turn in range(600):
        put(a.own, *range(turn * 3, turn * 3 + 30), seconds=turn)
        talk.turn()
        talk.now += 0.01
    assert b.comparison.differences == 0
    talk.deliver = lambda _sender, _receiver, _datagram: True
    talk.run(1.5)
    assert b.peers["a"].verified
    assert b.comparison.differences == 0


def test_many_differences_over_a_small_mtu_are_repaired_without_a_resync() -> None:
    talk = in_step("a", "b", flows=2000, settings=Settings(frame_bytes=548))
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    passes = a.agreement._pass_count
    peer.flows.drop([flow_key(number) for number in range(0, 2000, 50)])
    talk.run(4.0)
    assert talk.copy("b", "a") == talk.own("a")
    assert peer.verified
    assert a.agreement._pass_count == passes
    assert peer.repaired == 40


def test_a_copy_that_is_another_one_altogether_is_sent_anew() -> None:
    talk = in_step("a", "b", flows=3000)
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    passes = a.agreement._pass_count
    peer.flows.clear()
    talk.run(4.0)
    assert talk.copy("b", "a") == talk.own("a")
    assert peer.verified
    assert a.agreement._pass_count == passes + 1


def test_a_digest_that_went_wrong_by_itself_is_counted_afresh() -> None:
    talk = in_step("a", "b")
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    a.outbox.told.sums[bucket_of(short_name(flow_key(5)))] += 12345
    again = told(talk, 2.5)
    assert again == []
    assert peer.verified
    assert peer.repaired == 0


def test_a_proof_that_is_not_given_again_grows_old() -> None:
    talk = in_step("a", "b")
    peer = talk.engines["b"].peers["a"]
    talk.deliver = lambda _sender, _receiver, datagram: not is_proof(datagram)
    talk.run(9.0, step_s=0.1)
    assert peer.verified
    talk.run(3.0, step_s=0.1)
    assert not peer.verified


def test_a_record_that_no_frame_can_carry_is_a_difference_without_a_storm() -> None:
    talk = in_step("a", "b")
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    noise = b"".join(hash((n, "x")).to_bytes(8, "big", signed=True) for n in range(400))
    a.own.flows.put(flow_key(500), noise, b"", 1)
    passes = a.agreement._pass_count
    talk.run(30.0, step_s=0.05)
    assert a.outbox.oversized > 0
    assert not peer.verified
    assert peer.completeness == 63 / 64
    assert a.agreement._pass_count - passes <= 3


def test_a_flushed_copy_stays_empty_until_somebody_asks() -> None:
    talk = in_step("a", "b")
    b = talk.engines["b"]
    b.forget_peers()
    talk.run(2.5)
    assert talk.copy("b", "a") == {}
    assert b.comparison.differences == 0
    b.verify(talk.now)
    talk.run(1)
    assert talk.copy("b", "a") == talk.own("a")
    assert b.peers["a"].verified


def test_a_copy_that_is_not_whole_is_not_verified_at_its_sender_either() -> None:
    talk = in_step("a", "b", flows=50, settings=Settings(peer_flows_limit=100))
    a, b = talk.engines["a"], talk.engines["b"]
    peer = a.peers["b"]
    assert [peer.verified] == [True]
    put(a.own, *range(50, 300))
    talk.run(12, step_s=0.05)
    assert len(talk.copy("b", "a")) == 100
    assert [b.peers["a"].verified, peer.verified] == [False, False]
    asked = talk.now
    a.verify(asked)
    talk.run(2, step_s=0.05)
    assert peer.outbound_at < asked  # no answer, and not "equal"


def test_two_copies_that_differ_in_other_buckets_cost_the_records_that_differ() -> None:
    talk = in_step("a", "b", "c", flows=10000)
    a = talk.engines["a"]
    copies = [talk.engines[name].peers["a"] for name in "bc"]
    first = next(iter(talk.own("a")))
    bucket = bucket_of(short_name(first))
    other = next(key for key in talk.own("a") if bucket_of(short_name(key)) != bucket)
    for peer, key in zip(copies, (first, other), strict=True):
        peer.flows.bodies[key] = peer.flows.bodies[key][:-1] + b"\xff"
        count_afresh(peer)
    before = a.outbox.told_records
    talk.run(3)
    assert talk.copy("b", "a") == talk.copy("c", "a") == talk.own("a")
    assert a.outbox.told_records - before == 2


def test_a_difference_that_stays_is_looked_for_ever_less() -> None:
    talk = in_step("a", "b", flows=1000)
    a = talk.engines["a"]
    noise = b"".join(hash((n, "x")).to_bytes(8, "big", signed=True) for n in range(400))
    a.own.flows.put(flow_key(5000), noise, b"", 1)
    talk.run(20.0, step_s=0.02)
    before = a.outbox.number, a.comparison.marker
    talk.run(20.0, step_s=0.02)
    assert a.outbox.number - before[0] <= 20 * 6
    assert a.comparison.marker - before[1] <= 40


def test_what_an_inventory_drops_leaves_the_kernel_of_the_holder_as_well() -> None:
    talk = in_step("a", "b")
    a, b = talk.engines["a"], talk.engines["b"]
    a.promote(talk.now)
    talk.run(1)
    put(b.own, 999)  # a copy from when it was primary
    b.peers["a"].flows.put([flow_key(999), flow_body(999)], talk.now)
    talk.run(3)
    assert flow_key(999) not in talk.copy("b", "a")
    assert b.take_ended_elsewhere() == [flow_key(999)]


def test_who_wants_everything_is_not_listed_it_as_well() -> None:
    talk = in_step("a", "b", flows=20000)
    peer = talk.engines["b"].peers["a"]
    for key, body in list(peer.flows.bodies.items()):
        peer.flows.bodies[key] = body[:-1] + b"\xff"
    count_afresh(peer)
    listings = 0

    def count(_sender: str, _receiver: str, datagram: bytes) -> bool:
        nonlocal listings
        content = Coder().unpack(datagram).content
        listings += isinstance(content, Data) and content.inventory is not None
        return True

    talk.deliver = count
    talk.run(3)
    assert talk.copy("b", "a") == talk.own("a")
    assert listings <= 64  # of 150 that all of it takes


def test_copies_are_compared_though_the_window_is_always_full() -> None:
    settings = Settings(window_frames=8, ack_frames=4)
    talk = in_step("a", "b", settings=settings)
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    full: list[bool] = []

    def look(sender: str, _receiver: str, _datagram: bytes) -> bool:
        if sender == "a":
            full.append(not a.outbox.window_open)
        return True

    talk.deliver = look
    for turn in range(600):
        put(a.own, *range(2000), seconds=turn + 1)
        talk.turn()
        talk.now += 0.01
        assert peer.verified
    assert all(full)
    assert talk.now - peer.inbound_at < 2.5


@pytest.mark.parametrize("what", ["flip", "drop", "add"])
def test_a_silent_corruption_of_a_large_copy_is_found_in_bounded_time(
    what: str,
) -> None:
    """A count takes 50 us a record, the next proof a second at most."""
    talk = in_step("a", "b", flows=20000)
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    talk.run(0.5)
    if what == "add":
        peer.flows.bodies[b"new to all"] = flow_body(1)
        peer.flows.told_s[b"new to all"] = 1
    else:
        corrupt(peer, what)
    began, latest = talk.now, 2 * 20000 * 5e-5 + 2.5  # the running count has passed it
    while peer.repaired == 0:
        put(a.own, *range(100, 101 + int(talk.now * 100) % 50))
        talk.turn()
        talk.now += 0.01
        assert talk.now - began < latest
    talk.run(1)
    assert talk.copy("b", "a") == talk.own("a")
    assert peer.repaired == 1
    assert peer.verified


@pytest.mark.parametrize(("flows", "limit_s"), [(300, 1.0), (20000, 5.0)])
def test_a_record_that_changes_in_silence_while_another_is_located(
    flows: int, limit_s: float
) -> None:
    """The next change to it takes from the sum what never was in it."""
    talk = in_step("a", "b", flows=flows)
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    corrupt(peer, "flip")
    while peer.verdict != DIFFERENT:
        talk.turn()
        talk.now += 0.01
    numbers = [
        number
        for number in range(flows)
        if peer.buckets >> bucket_of(short_name(flow_key(number))) & 1
        and peer.flows.bodies[flow_key(number)] == a.own.flows.bodies[flow_key(number)]
    ]
    key = flow_key(numbers[0])
    peer.flows.bodies[key] = flow_body(numbers[0])[:-1] + b"?"
    put(a.own, numbers[0], seconds=1)
    talk.run(limit_s)
    assert peer.verified
    assert a.peers["b"].verified
    assert talk.copy("b", "a") == talk.own("a")


def test_a_sum_that_goes_wrong_while_its_bucket_is_listed_is_counted_again() -> None:
    talk = in_step("a", "b")
    a, peer = talk.engines["a"], talk.engines["b"].peers["a"]
    key = corrupt(peer, "flip")
    talk.run(1.5)
    assert peer.repaired == 1
    a.outbox.told.sums[bucket_of(short_name(key))] += 1
    talk.run(2.0)
    assert peer.incidents == 2
    assert peer.verified
    assert a.peers["b"].verified


def test_no_step_of_a_comparison_looks_through_a_large_table() -> None:
    """An answer to `verify` waits for the count, in pieces; then it is a true one."""
    talk = in_step("a", "b", flows=50000)
    a, b = talk.engines["a"], talk.engines["b"]
    peer = b.peers["a"]
    key = corrupt(peer, "flip")
    asked = talk.now
    b.verify(asked)
    steps = 0
    while peer.inbound_at < asked:
        talk.turn()
        talk.now += 0.01
        steps += peer.audit.requested
    assert steps > 60  # one for each bucket
    assert [peer.verified] == [False]
    talk.run(2)
    assert peer.verified
    assert talk.copy("b", "a")[key] == talk.own("a")[key]
    assert a.peers["b"].verified
