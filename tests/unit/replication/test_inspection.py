"""What a warm standby's kernel lacks, for whoever asks, and for `ready`."""

from syncd.replication.inspection import Inspection

from tests.unit.replication.talk import flow_key
from tests.unit.replication.test_standby import Scene, keys
from tests.unit.replication.warm_kernel import records


def inspect(scene: Scene, *, work_on: bool = True) -> tuple[int, int]:
    """What `verify` does: how many were different, and how many still are."""
    standby, now = scene.standby, scene.kernel.now
    inspection = Inspection(standby, scene.own, scene.peers)
    inspection.begin()
    while inspection.note(100):
        pass
    inspection.see(records(scene.kernel), now)
    while inspection.unseen(100):
        pass
    inspection.miss(list(standby.told()), now)
    if work_on:
        scene.work()
    counts = inspection.counts(now)
    standby.findings.close()
    return counts


def test_an_inspection_says_what_was_different_and_whether_it_is_right_now() -> None:
    scene = Scene()
    scene.tell(1, 2, 3, 4)
    scene.work()
    assert inspect(scene) == (0, 0)
    scene.kernel.entries[flow_key(1)].status = 0x8
    del scene.kernel.entries[flow_key(2)]
    scene.standby.register.forget(flow_key(3))  # lost sight of
    del scene.kernel.entries[flow_key(3)]
    assert inspect(scene) == (3, 0)
    assert scene.held == keys(1, 2, 3, 4)
    assert inspect(scene) == (0, 0)


def test_an_inspection_counts_what_cannot_be_put_right() -> None:
    scene = Scene()
    scene.tell(1, 2)
    scene.work()
    scene.kernel.room = 0
    del scene.kernel.entries[flow_key(1)]
    assert inspect(scene) == (1, 1)


def test_what_waits_is_no_difference_of_an_inspection() -> None:
    scene = Scene("a", "b")
    scene.tell(1, by="a")
    scene.tell(2, by="b")
    scene.work()
    scene.tell(3, by="b")
    assert inspect(scene) == (0, 0)
    assert scene.held == keys(1, 2, 3)


def test_a_standby_lacks_what_has_been_waiting_for_seconds() -> None:
    scene = Scene()
    standby, kernel = scene.standby, scene.kernel
    scene.tell(1)
    assert "not in this kernel yet" in standby.lacking(kernel.now)
    scene.run(1, step_s=0.02)
    for number in range(2, 400):  # a change in each beat is no backlog
        scene.tell(number)
        assert standby.lacking(kernel.now) == ""
        scene.run(0.02, step_s=0.02)
    scene.tell(*range(400, 2000))
    for _ in range(150):  # the kernel takes nothing, for three seconds
        kernel.now += 0.02
        standby.look(kernel.now)
    assert standby.lacking(kernel.now) == (
        "1600 changes of peers are not in this kernel yet"
    )
    scene.work()
    assert standby.lacking(kernel.now) == ""


def test_copies_that_find_no_room_are_lacking_and_their_number_is_bounded() -> None:
    scene = Scene()
    scene.standby.room = 2
    scene.tell(1, 2, 3, 4, 5)
    scene.work()
    for _ in range(3):
        scene.standby.hurry()
        scene.work()
    lacking = scene.standby.lacking(scene.kernel.now)
    assert lacking == "this kernel's table has no room for 3 copies"
    scene.peer.flows.drop(set(scene.peer.flows.bodies) - scene.held)
    scene.work()
    assert scene.standby.lacking(scene.kernel.now) == ""
