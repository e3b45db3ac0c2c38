"""Commits into kernels that are full, or hold something else already.

Flows come from real packets on the first node; what is in the second node's way is put
there by conntrack(8) or by request. The judge is the independent reader.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import cluster, fillers, mixture, reader
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab, run_in

pytestmark = pytest.mark.kernel

FLOWS, ROOM = 500, 200
_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@pytest.fixture
def pair(lab: Lab, tmp_path: Path, standby: str) -> Iterator[tuple[Node, Node]]:
    """Two nodes in step, the first one with flows of all kinds."""
    made = Cluster(lab, tmp_path, more=fillers.IGNORED, standby=standby)
    first, second = made.nodes
    roads = [
        mixture.Roads(lab, node.namespace, f"far-{node.name}") for node in made.nodes
    ]
    try:
        made.start()
        mixture.play(roads[0], first.namespace, mixture.talks(FLOWS))
        cluster.wait_until_equal(first, second, 5.0)
        yield first, second
    finally:
        made.close()
        for road in roads:
            road.close()


def _living(node: Node) -> reader.Rows:
    """The node's flows but for those that fill its table."""
    return dict(
        reader.flow_row(message)
        for message in reader.dump(node.namespace)
        if not fillers.is_filler(message)
    )


@cluster.TABLE
@pytest.mark.xdist_group("table limit")
def test_a_full_table_is_one_clear_error_and_the_counts_are_right(
    pair: tuple[Node, Node],
) -> None:
    first, second = pair
    wanted = first.kernel()
    fillers.fill(second.namespace, ROOM)
    done = second.command("commit")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "nf_conntrack_max" in done.stderr
    last = second.status()["commit"]["last"]
    assert last["created"] + last["failed"] == len(wanted), last
    assert last["failed_by_reason"] == {"table full": last["failed"]}
    found = _living(second)
    # In a full table the kernel drops what is unassured for what is new.
    assert 0 < len(found) <= last["created"]
    assert last["failed"] > 0
    # A takeover says so too, and can be repeated once there is room.
    assert second.command("promote").returncode == 1
    limit = int(_LIMIT.read_text())
    _LIMIT.write_text(str(limit + len(wanted)))  # for all namespaces, for a moment
    try:
        answer = second.ask("promote")
    finally:
        _LIMIT.write_text(str(limit))
    assert answer["ok"], answer
    assert answer["role"] == "primary"
    assert not reader.differences(wanted, _living(second), reader.as_committed)


@cluster.TABLE
def test_entries_in_the_way_make_room(pair: tuple[Node, Node]) -> None:
    first, second = pair
    wanted = first.kernel()
    translated = [
        (key, row)
        for key, row in wanted.items()
        if _is_tcp(key) and isinstance(row["status"], int) and row["status"] & 0x10
    ]
    assert len(translated) > 10
    insert = ("conntrack", "-I", "-t", "300", "-u", "SEEN_REPLY,ASSURED")
    tcp = ("-p", "tcp", "--state", "ESTABLISHED")
    for number, (key, row) in enumerate(translated[:9]):
        orig, reply = key[0], row["reply"]
        assert isinstance(orig, tuple)
        assert isinstance(reply, tuple)
        ours = (orig[1], orig[2], orig[3], orig[4])
        theirs = (reply[1], reply[2], reply[3], reply[4])
        if number % 3 == 0:  # the same flow without its translation
            ends = ours
        elif number % 3 == 1:  # another flow that has its translated address
            ends = (theirs[1], theirs[0], theirs[3], theirs[2])
        else:  # a flow the other way round
            ends = (ours[1], ours[0], ours[3], ours[2])
        words = [str(end) for end in ends]
        run_in(
            second.namespace,
            *insert,
            *tcp,
            *("-s", words[0], "-d", words[1], "--sport", words[2], "--dport", words[3]),
        )
    for expected in (True, False):
        answer = second.ask("commit")
        assert answer["ok"], answer
        assert (answer["created"] > 0) is expected, answer
        assert not reader.differences(wanted, second.kernel(), reader.as_committed)


def _is_tcp(key: reader.Key) -> bool:
    ends = key[0]
    return isinstance(ends, tuple) and ends[0] == 6 and key[1] == 0


@cluster.TABLE
def test_a_commit_again_changes_nothing(pair: tuple[Node, Node]) -> None:
    first, second = pair
    wanted = first.kernel()
    assert second.ask("commit")["created"] == len(wanted)
    for _ in range(3):
        answer = second.ask("commit", "--peer", "fw1")
        assert answer["ok"]
        assert answer["created"] == 0, answer
        assert not reader.differences(wanted, second.kernel(), reader.as_committed)
    # What was committed is own now, and the first node is told of it.
    cluster.wait_until_equal(second, first, 5.0)


@cluster.BOTH
def test_flushes_and_resyncs_end_where_they_began(pair: tuple[Node, Node]) -> None:
    first, second = pair
    for words in (
        ("flush", "peer"),
        ("resync", "pull"),
        ("resync", "push"),
        ("resync", "kernel"),
    ):
        assert second.command(*words).returncode == 0, words
    cluster.wait_until_equal(first, second, 5.0)
    assert first.command("flush", "own").returncode == 0
    assert first.command("resync", "kernel").returncode == 0
    cluster.wait_until_equal(first, second, 5.0)
    assert second.command("flush", "peer").returncode == 0
    assert second.command("verify").returncode in (0, 1)
    cluster.wait_until_equal(first, second, 5.0)
    assert first.command("flush", "kernel").returncode == 0
    assert not first.kernel()
    cluster.wait_until_equal(first, second, 5.0)
