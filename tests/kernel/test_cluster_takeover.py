"""Commands in the middle of a load: commit, promote, verify, show, stop.

The load runs on the first node. Whatever the second one is asked meanwhile, it answers,
and when the load has ended it holds what it should.
"""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture, reader
from tests.kernel.churn import Churn
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab

pytestmark = [pytest.mark.kernel, cluster.BOTH]

RATE, FLOWS, EQUAL_S = 6_000.0, 4000, 2.0


@contextmanager
def _asked(node: Node, *commands: tuple[str, ...]) -> Iterator[list[str]]:
    """The commands are given again and again; what was answered badly."""
    wrong: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            for words in commands:
                try:
                    done = node.command(*words)
                except subprocess.TimeoutExpired:
                    wrong.append(f"{words}: no answer")
                    continue
                if done.returncode != 0:
                    wrong.append(f"{words}: {done.stderr}")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield wrong
    finally:
        over.set()
        asking.join()


@pytest.fixture
def loaded(lab: Lab, tmp_path: Path, standby: str) -> Iterator[tuple[Cluster, Churn]]:
    made = Cluster(lab, tmp_path, standby=standby)
    roads = [
        mixture.Roads(lab, node.namespace, f"far-{node.name}") for node in made.nodes
    ]
    load = Churn(roads[0], made.nodes[0].namespace, FLOWS)
    try:
        made.start()
        yield made, load
    finally:
        made.close()
        load.close()
        for road in roads:
            road.close()


def test_commits_under_load_end_in_the_present_state(
    loaded: tuple[Cluster, Churn],
) -> None:
    made, load = loaded
    first, second = made.nodes
    assert first.command("promote").returncode == 0
    with _asked(second, ("commit",)) as wrong:
        load.run(RATE, 3.0)
    assert not wrong, wrong[:3]
    # What was committed is own there, until the next commit it is as it was then.
    cluster.wait_until_equal(first, second, EQUAL_S, kernels=False)
    assert second.ask("commit")["ok"]
    wanted = first.kernel()
    living = {key: row for key, row in second.kernel().items() if key in wanted}
    lost = reader.differences(wanted, living, reader.as_committed)
    assert not lost, (len(lost), lost[:4])


def test_a_node_under_load_answers_every_question(
    loaded: tuple[Cluster, Churn],
) -> None:
    made, load = loaded
    first, second = made.nodes
    questions = (
        ("status",),
        ("show", "flows", "--table", "own"),
        ("show", "flows", "--table", "peer", "--proto", "udp"),
        ("show", "flows", "--table", "kernel", "--state", "ESTABLISHED"),
        ("show", "expectations", "--table", "peer"),
        ("resync", "kernel"),
        ("resync", "push"),
    )
    with _asked(first, *questions) as wrong, _asked(second, *questions[:5]) as more:
        load.run(RATE, 3.0)
    assert not wrong + more, (wrong + more)[:3]
    cluster.wait_until_equal(first, second, EQUAL_S)
    for node in made.nodes:
        assert node.command("verify").returncode == 0, node.log


def test_a_takeover_from_a_living_primary_under_load_keeps_its_flows(
    loaded: tuple[Cluster, Churn],
) -> None:
    made, load = loaded
    first, second = made.nodes
    assert first.command("promote").returncode == 0
    roles = [("promote",), ("demote",)]
    with _asked(second, *roles) as wrong:
        load.run(RATE, 3.0)
    assert not wrong, wrong[:3]
    cluster.wait_until_equal(first, second, EQUAL_S)
    cluster.wait_until_equal(second, first, EQUAL_S)


def test_a_stop_under_load_is_clean_and_fast(loaded: tuple[Cluster, Churn]) -> None:
    made, load = loaded
    first, second = made.nodes
    load.run(RATE, 1.0)
    stopped: list[int] = []

    def stop() -> None:
        stopped.append(first.command("stop").returncode)

    load.run(RATE, 2.0, (0.5, stop))
    assert stopped == [0]
    assert first.wait_for_exit() == 0
    assert "Traceback" not in first.log
    before = len(second.table("peer"))
    assert before > 0
    first.start()
    # A restart ends no copies: those of flows that ended meanwhile have their timers.
    cluster.wait_until_equal(first, second, 3 * EQUAL_S, leftovers=True)
