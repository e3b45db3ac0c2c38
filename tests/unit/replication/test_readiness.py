"""Ready is who lacks nothing, or has waited long enough and says what is missing."""

from syncd.replication.engine import ReplicationEngine
from syncd.replication.settings import Settings

from tests.unit.replication.talk import Talk, flow_key, put

PATIENT = Settings(ready_timeout_s=20.0)


def is_ready(engine: ReplicationEngine) -> bool:
    return engine.ready


def test_a_node_is_ready_when_it_has_proof_of_every_live_peer() -> None:
    talk = Talk("a", "b", settings=PATIENT)
    put(talk.engines["a"].own, *range(100))
    b = talk.engines["b"]
    assert not is_ready(b)
    while not is_ready(b):
        talk.turn()
        talk.now += 0.01
    assert b.peers["a"].verified
    assert talk.copy("b", "a") == talk.own("a")
    assert b.lacking == ""


def test_a_difference_makes_a_node_unready_until_it_is_repaired() -> None:
    talk = Talk("a", "b", settings=PATIENT)
    put(talk.engines["a"].own, *range(100))
    talk.run(2)
    b = talk.engines["b"]
    b.peers["a"].flows.drop([flow_key(7)])
    seen = set()
    for _ in range(200):
        talk.turn()
        talk.now += 0.01
        seen.add((b.ready, b.lacking))
    assert seen == {(True, ""), (False, "a differs in 1 of 64 buckets")}
    assert is_ready(b)
    assert talk.copy("b", "a") == talk.own("a")


def test_a_node_without_peers_is_ready_after_a_silence() -> None:
    talk = Talk("a", settings=PATIENT)
    talk.run(2.5)
    assert not is_ready(talk.engines["a"])
    assert talk.engines["a"].lacking == "no peer was heard yet"
    talk.run(1)
    assert is_ready(talk.engines["a"])


def test_nobody_waits_for_ever_and_nobody_is_silent_about_it() -> None:
    talk = Talk("a", "b", settings=PATIENT)
    talk.engines["a"].kernel_read = False  # it never begins a pass
    talk.run(18, step_s=0.05)
    b = talk.engines["b"]
    assert not is_ready(b)
    talk.run(4, step_s=0.05)
    assert is_ready(b)
    assert b.lacking == "a is syncing"
    said = [text for _, text in b.take_messages() if "although" in text]
    assert said == ["ready after 20 s of waiting, although a is syncing"]
    talk.engines["a"].kernel_read = True
    talk.run(3)
    assert is_ready(b)
    assert b.lacking == ""


def test_who_is_behind_with_its_own_kernel_is_not_ready() -> None:
    talk = Talk("a", "b", settings=PATIENT)
    talk.run(2)
    b = talk.engines["b"]
    assert is_ready(b)
    b.readiness.beside = lambda _now: "three copies"
    talk.run(1)
    assert not is_ready(b)
    assert b.lacking == "three copies"
    talk.run(20, step_s=0.05)
    assert is_ready(b)
    assert b.lacking == "three copies"


def test_a_peer_that_died_before_it_was_heard_in_full_leaves_a_node_half_empty() -> (
    None
):
    talk = Talk("a", "b", settings=Settings(ready_timeout_s=20.0, window_frames=4))
    put(talk.engines["a"].own, *range(5000))
    talk.run(0.2)
    b = talk.engines["b"]
    assert 0 < len(talk.copy("b", "a")) < 5000
    del talk.engines["a"]
    talk.run(5, step_s=0.05)
    assert not is_ready(b)
    assert b.lacking == "a was lost before all of its table was here"
    talk.run(20, step_s=0.05)
    assert is_ready(b)


def test_a_frame_of_a_mode_of_long_ago_makes_no_half_told_peer_complete() -> None:
    old = Talk("a", settings=Settings(mode="refresh"))
    old.run(1)
    talk = Talk("a", "b", settings=PATIENT)
    talk.engines["a"].kernel_read = False  # it never begins a pass
    talk.run(2)
    del talk.engines["a"]
    talk.run(4)
    b = talk.engines["b"]
    assert "was lost before" in b.lacking
    assert b.receive(old.sent[0][1], 0, "x", talk.now) == "mode"
    assert "was lost before" in b.lacking
