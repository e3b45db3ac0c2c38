"""What a packet has met here is not put there again: the story of an FTP session."""

from syncd.flows.record import BY_PROGRAM, EXP_END, Record, master_of
from syncd.replication.steps import Task

from tests.unit.flows.recorded import announced
from tests.unit.replication.test_standby import Scene


def _scene(new: Record) -> Scene:
    """The expectation of a peer is planted here, as its master is."""
    scene = Scene()
    scene.work()
    _, key, body, _, _ = new
    master = master_of(body)
    scene.peer.expectations.put([key, body], scene.kernel.now)
    scene.peer.flows.put([master, b""], scene.kernel.now)
    assert _planted(scene) == {key, master}
    scene.own.sown.clear()
    scene.standby.register.note([(master, b"")], 300, scene.kernel.now)
    scene.standby.register.note([(key, body)], 300, scene.kernel.now)
    return scene


def _end(scene: Scene, new: Record, mask: int = 0) -> set[bytes]:
    """The kernel ends it; what is planted then? Whoever looks finds nothing."""
    scene.own.apply([(EXP_END, new[1], b"", new[3], mask)], scene.kernel.now)
    return _planted(scene)


def _planted(scene: Scene) -> set[bytes]:
    scene.standby.look(scene.kernel.now)
    planted: set[bytes] = set()
    while (step := scene.standby.next_step(scene.kernel.now)) is not None:
        if step.task is Task.LOOK:
            gone = [None] * len(step.keys)
            scene.standby.looked(step.keys, gone, scene.kernel.now)
        elif step.plan is not None:
            planted |= {record[0] for record in step.plan.records}
    return planted


def test_what_a_packet_has_met_is_not_put_there_at_once() -> None:
    """It would drive out what the helper has announced meanwhile."""
    new = announced("ftp4_passive")
    key, body = new[1:3]
    scene = _scene(new)
    assert not _end(scene, new)
    assert set(scene.own.planted) == {master_of(body)}
    scene.kernel.now += 4
    assert _planted(scene) == {key}  # it is told all the same


def test_what_a_packet_has_met_stays_away_if_its_peer_has_ended_it() -> None:
    new = announced("ftp4_passive")
    scene = _scene(new)
    assert not _end(scene, new)
    scene.peer.expectations.drop([new[1]])
    assert not _planted(scene)
    scene.kernel.now += 4
    assert not _planted(scene)


def test_what_a_program_has_ended_is_planted_again() -> None:
    new = announced("ftp4_passive")
    assert _end(_scene(new), new, BY_PROGRAM) == {new[1]}


def test_what_its_new_owner_has_ended_is_deleted_though_nobody_remembers_it() -> None:
    """Left in the kernel of a former primary: no copy yet, and not own any more."""
    _, key, body, _, _ = announced("ftp4_passive")
    scene = Scene()
    scene.work()
    scene.peer.expectations.put([key, body], scene.kernel.now)
    scene.peer.expectations.drop([key])
    step = scene.standby.next_step(scene.kernel.now)
    assert step is not None
    assert step.task is Task.DELETE
    assert scene.standby.register.deletable(step.keys) == [key]
