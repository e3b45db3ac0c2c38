"""Under load: a bad network, a killed daemon, a stopped one, three nodes.

The bounds are those that operators are promised: the same state again within two
seconds after the load has ended, within five after an overrun. `SYNCD_TEST_SECONDS=30`
asks for a longer load.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture
from tests.kernel.churn import Churn
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab

pytestmark = pytest.mark.kernel

SECONDS = float(os.environ.get("SYNCD_TEST_SECONDS", "3"))
RATE = 10_000.0
FLOWS = int(os.environ.get("SYNCD_TEST_CHURN_FLOWS", "4000"))
EQUAL_S, AFTER_OVERRUN_S = 2.0, 5.0
BAD_NETWORK = {"loss": 0.05, "double": 0.05, "late": 0.10, "late_s": 0.005}


@contextmanager
def _loaded(
    lab: Lab,
    directory: Path,
    names: tuple[str, ...] = ("fw1", "fw2"),
    more: str = "",
    relay: Mapping[str, object] | None = None,
    standby: str = cluster.STANDBY,
) -> Iterator[tuple[Cluster, Churn, list[mixture.Roads]]]:
    """A running cluster with a load on its first node, and the roads to all."""
    made = Cluster(lab, directory, names, more, relay, standby=standby)
    # All have the same rules: without one of them no kernel keeps labels.
    roads = [
        mixture.Roads(lab, node.namespace, f"far-{node.name}") for node in made.nodes
    ]
    load = Churn(roads[0], made.nodes[0].namespace, FLOWS)
    try:
        made.start()
        yield made, load, roads
    finally:
        made.close()
        load.close()
        for road in roads:
            road.close()


def _report(capsys: pytest.CaptureFixture[str], *words: object) -> None:
    with capsys.disabled():
        print("\n", *words)


def test_a_network_that_loses_doubles_and_reorders_changes_nothing(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _loaded(lab, tmp_path, relay=BAD_NETWORK) as (made, load, _):
        first, second = made.nodes
        load.run(RATE, SECONDS)
        after_s = cluster.wait_until_equal(first, second, EQUAL_S)
        peer = second.peer("fw1")
        assert peer["lost_frames"] > 0
        assert first.status()["kernel"]["overruns"] == 0
        _report(
            capsys,
            *(load.events, "events, latest", f"{load.late_s:.3f} s,", peer["flows"]),
            *("flows, lost", peer["lost_frames"], "late", peer["late_frames"]),
            *("frames; equal after", f"{after_s:.2f} s"),
        )


@cluster.BOTH
def test_a_killed_standby_is_in_step_again_by_itself(
    lab: Lab, tmp_path: Path, standby: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with _loaded(lab, tmp_path, standby=standby) as (made, load, _):
        first, second = made.nodes
        load.run(
            RATE,
            SECONDS,
            (SECONDS / 4, second.kill),
            (SECONDS / 2, second.start),
        )
        second.wait(lambda _: True, "it answers")  # a busy machine is late
        # It takes copies of what ended while it was not there for its own flows.
        patience_s = EQUAL_S + AFTER_OVERRUN_S
        after_s = cluster.wait_until_equal(first, second, patience_s, leftovers=True)
        second.wait_in_step(1)
        assert second.command("verify").returncode == 0
        _report(capsys, "standby killed: equal after", f"{after_s:.2f} s")


@cluster.BOTH
def test_a_killed_primary_reads_its_kernel_and_tells_it_anew(
    lab: Lab, tmp_path: Path, standby: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with _loaded(lab, tmp_path, standby=standby) as (made, load, _):
        first, second = made.nodes
        load.run(RATE, SECONDS, (SECONDS / 4, first.kill), (SECONDS / 2, first.start))
        # A restart ends no copies: those of flows that ended meanwhile have timers.
        patience_s = EQUAL_S + AFTER_OVERRUN_S
        after_s = cluster.wait_until_equal(first, second, patience_s, leftovers=True)
        second.wait_in_step(1)
        _report(capsys, "primary killed: equal after", f"{after_s:.2f} s")


@cluster.BOTH
def test_each_of_three_nodes_holds_all_the_others(
    lab: Lab, tmp_path: Path, standby: str
) -> None:
    names = ("fw1", "fw2", "fw3")
    with _loaded(lab, tmp_path, names, standby=standby) as (made, load, roads):
        played = [mixture.talks(300, 1), mixture.talks(600, 2)]
        for node, road, talks in zip(made.nodes[1:], roads[1:], played, strict=True):
            # The kernel maps all flows of a source alike: leave the load its own.
            others = [talk for talk in talks if "10.1." not in str(talk.orig[1])[:5]]
            mixture.play(road, node.namespace, others)
        load.run(RATE / 2, 2.0)
        for source in made.nodes:
            for copy in made.nodes:
                if copy is not source:
                    cluster.wait_until_equal(source, copy, EQUAL_S, among=3)
        made.nodes[1].kill()
        made.nodes[1].start()
        made.nodes[1].wait_in_step(2)
        for source in (made.nodes[0], made.nodes[2]):
            cluster.wait_until_equal(source, made.nodes[1], EQUAL_S, among=3)
        cluster.wait_until_equal(made.nodes[1], made.nodes[2], EQUAL_S, among=3)


SMALL_BUFFER = '[kernel]\nreceive_buffer = "64 KiB"\n'


@pytest.mark.parametrize("stopped_s", [0.7])
def test_lost_events_are_counted_and_healed(
    lab: Lab, tmp_path: Path, stopped_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with _loaded(lab, tmp_path, more=SMALL_BUFFER) as (made, load, _):
        first, second = made.nodes
        load.run(
            RATE,
            stopped_s + 1.0,
            (0.5, lambda: first.send_signal(signal.SIGSTOP)),
            (0.5 + stopped_s, lambda: first.send_signal(signal.SIGCONT)),
        )
        after_s = cluster.wait_until_equal(first, second, AFTER_OVERRUN_S)
        kernel = first.status()["kernel"]
        assert kernel["overruns"] > 0
        assert kernel["lost_events"] > 0
        _report(capsys, kernel["lost_events"], "lost; equal after", f"{after_s:.2f} s")


def test_a_stopped_standby_catches_up(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _loaded(lab, tmp_path) as (made, load, _):
        first, second = made.nodes
        _stop_for_a_while(load, second)
        after_s = cluster.wait_until_equal(first, second, AFTER_OVERRUN_S)
        _report(capsys, "standby stopped: equal after", f"{after_s:.2f} s")


def _stop_for_a_while(load: Churn, node: Node) -> None:
    load.run(
        RATE,
        4.5,
        (0.5, lambda: node.send_signal(signal.SIGSTOP)),
        (4.0, lambda: node.send_signal(signal.SIGCONT)),
    )
