"""What a warm standby makes of batches that failed, and of ends that it did not see.

Each of these was found by the simulation (docs/testing.md).
"""

from syncd.flows.record import CANONICAL, END, NEW
from syncd.replication.steps import Step, Task

from tests.unit.replication.talk import flow_body, flow_key
from tests.unit.replication.test_standby import Scene, keys
from tests.unit.replication.warm_kernel import IDENT, Entry, carry_out, next_plan

_MASK = CANONICAL | 1 << 2 | 1 << 3 | 1 << 7


def test_what_could_not_be_brought_forward_is_asked_for_and_tried_again() -> None:
    scene = Scene()
    scene.run(3)  # in step for long
    young = flow_body(1).replace(b"\0\0\0\x0e", b"\0\0\0\x08")
    scene.kernel.entries[flow_key(1)] = Entry(young[:52], 0x8, 1120.0)
    scene.own.apply([(NEW, flow_key(1), young, IDENT, _MASK)], scene.kernel.now)
    scene.tell(1)
    scene.standby.look(scene.kernel.now)
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    assert step.task is Task.ADVANCE
    scene.standby.again(step, scene.kernel.now)
    assert list(scene.own.lookups) == [flow_key(1)]
    scene.work()
    assert scene.kernel.entries[flow_key(1)].status == 0xE


def test_the_end_of_an_expired_entry_says_nothing_of_the_copy_in_its_place() -> None:
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.own.apply([(END, flow_key(1), flow_body(1), IDENT, 0)], scene.kernel.now)
    scene.end(1)
    scene.work()
    assert not scene.held
    assert not scene.own.planted


def test_what_a_batch_without_an_answer_has_planted_ends_with_its_flow() -> None:
    scene = Scene()
    scene.tell(1, 2)
    plan = next_plan(scene.standby, scene.kernel)
    batch = plan.next_batch()
    assert batch is not None
    scene.kernel.answer(batch.messages[:1])  # and no word of it
    scene.standby.again(Step(Task.PLANT, plan=plan), scene.kernel.now)
    assert len(scene.held) == 1
    scene.end(1, 2)
    scene.work()
    assert not scene.held
    assert not scene.own.planted


def test_a_copy_that_ends_while_its_batch_is_on_its_way_is_planted_again() -> None:
    scene = Scene()
    scene.tell(1)
    plan = next_plan(scene.standby, scene.kernel)
    carry_out(plan, scene.kernel)
    scene.kernel.entries[flow_key(1)].ends_at = scene.kernel.now
    scene.kernel.expire(scene.own)
    scene.standby.planted(plan, scene.kernel.now)
    assert not scene.held
    scene.work()
    assert scene.held == keys(1) == set(scene.own.planted)
