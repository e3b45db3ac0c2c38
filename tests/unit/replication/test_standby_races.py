"""What happens while a warm standby's requests are on their way.

Each of these was found by the simulation (docs/testing.md).
"""

from syncd.flows.record import CANONICAL, END, NEW, Record
from syncd.replication.steps import Step, Task

from tests.unit.replication.talk import flow_body, flow_key
from tests.unit.replication.test_standby import Scene, keys
from tests.unit.replication.warm_kernel import IDENT, Entry

_MASK = CANONICAL | 1 << 2 | 1 << 3 | 1 << 7


def next_step(scene: Scene) -> Step:
    scene.standby.look(scene.kernel.now)
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    return step


def carry_out(scene: Scene, step: Step) -> None:
    assert step.plan is not None
    for batch in iter(step.plan.next_batch, None):
        step.plan.report(batch, *scene.kernel.answer(batch.messages))


def test_a_flow_that_packets_have_just_made_is_not_deleted_for_a_copy() -> None:
    scene = Scene()
    scene.work()
    other = flow_body(2)[:52]  # another reply tuple; its event has not been read yet
    scene.kernel.entries[flow_key(1)] = Entry(other, 0x8, 1100.0)
    scene.tell(1)
    scene.work()
    scene.run(8)
    assert scene.kernel.deleted == 0
    assert scene.kernel.entries[flow_key(1)].reply == other


def test_a_batch_without_an_answer_leaves_no_copy_that_nobody_knows_of() -> None:
    scene = Scene()
    scene.tell(1)
    step = next_step(scene)
    carry_out(scene, step)
    scene.standby.again(step, scene.kernel.now)
    scene.end(1)
    scene.work()
    assert not scene.held
    assert not scene.own.planted


def test_a_copy_that_ends_while_its_batch_is_on_its_way_is_planted_again() -> None:
    scene = Scene()
    scene.tell(1)
    step = next_step(scene)
    carry_out(scene, step)
    assert step.plan is not None
    entry = scene.kernel.entries.pop(flow_key(1))
    body = entry.body(scene.kernel.now)
    scene.own.apply([(END, flow_key(1), body, IDENT, 0)], scene.kernel.now)
    scene.standby.planted(step.plan, scene.kernel.now)
    scene.work()
    assert scene.held == keys(1)


def test_the_end_of_an_expired_entry_is_not_that_of_its_copy() -> None:
    scene = Scene()
    scene.tell(1)
    scene.work()
    scene.own.apply([(END, flow_key(1), flow_body(1), b"\0\0\0\1", 0)], 1000.0)
    scene.end(1)
    scene.work()
    assert not scene.held


def test_what_ends_here_and_lives_on_at_a_peer_is_a_copy_soon() -> None:
    scene = Scene()
    scene.work()
    record: Record = (NEW, flow_key(1), flow_body(1), IDENT, _MASK)
    scene.own.apply([record], scene.kernel.now)
    scene.tell(1)
    scene.work()
    scene.own.apply([(END, flow_key(1), flow_body(1), IDENT, 0)], scene.kernel.now)
    scene.run(4)
    assert scene.held == keys(1) == set(scene.own.planted)


def test_what_is_brought_forward_is_looked_up_when_the_kernel_has_done_it() -> None:
    scene = Scene()
    scene.work()
    young = flow_body(1).replace(b"\0\0\0\x0e", b"\0\0\0\x08")  # not answered yet
    scene.own.apply([(NEW, flow_key(1), young, IDENT, _MASK)], scene.kernel.now)
    scene.tell(1)
    scene.standby.look(scene.kernel.now)
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    assert step.task is Task.ADVANCE
    assert not scene.own.lookups
    scene.standby.advanced(step.keys)
    assert list(scene.own.lookups) == [flow_key(1)]
