"""More than two real daemons: active-active, a flow of two origins, a name twice."""

import time
from pathlib import Path

import pytest

from tests.kernel import cluster
from tests.kernel.cluster import Cluster, Node, running
from tests.lab import Lab, run_in

pytestmark = pytest.mark.kernel

FIVE = tuple(f"fw{number}" for number in range(1, 6))


def insert(node: Node, network: int, count: int, *more: str) -> None:
    """Flows of this node's kernel, as if its traffic had made them."""
    for port in range(1, count + 1):
        run_in(
            node.namespace,
            *("conntrack", "-I", "-p", "tcp", "--state", "ESTABLISHED", "-t", "600"),
            *("-s", f"10.{network}.0.1", "-d", f"10.{network}.0.2"),
            *("--sport", str(port), "--dport", "80", *more),
        )


def wait_for_flows(node: Node, peer: str, count: int) -> None:
    node.wait(lambda _: node.peer(peer).get("flows") == count, f"{count} of {peer}")


def mark_of(node: Node) -> set[object]:
    return {row.get("mark", 0) for row in node.kernel().values()}


def test_five_active_nodes_hold_each_others_flows_apart(
    lab: Lab, tmp_path: Path
) -> None:
    with running(lab, tmp_path, FIVE) as made:
        for number, node in enumerate(made.nodes, 1):
            insert(node, number, 5 * number)
        for node in made.nodes:
            for number, other in enumerate(FIVE, 1):
                if other != node.name:
                    wait_for_flows(node, other, 5 * number)
                    assert len(node.table("peer", peer=other)) == 5 * number
            node.wait(lambda status: bool(status["ready"]), "it is ready")
        first = made.nodes[0]
        made.nodes[2].kill()
        answer = first.ask("commit", "--peer", "fw3")
        assert answer["unchanged" if first.warm else "created"] == 15, answer
        assert len(first.kernel()) == 5 + (70 if first.warm else 15)
        wait_for_flows(made.nodes[1], "fw1", 20)


def test_of_a_flow_that_two_nodes_have_the_newer_state_is_committed(
    lab: Lab, tmp_path: Path
) -> None:
    with running(lab, tmp_path, FIVE[:3], standby="table") as made:
        first, second, third = made.nodes
        insert(first, 1, 4, "--mark", "1")
        wait_for_flows(third, "fw1", 4)
        time.sleep(1.2)  # times of bodies are whole seconds
        insert(second, 1, 4, "--mark", "2")
        wait_for_flows(third, "fw2", 4)
        assert third.ask("resync", "pull")["ok"]  # makes nothing newer
        assert third.ask("commit")["created"] == 4
        assert mark_of(third) == {2}
        time.sleep(1.2)
        run_in(first.namespace, "conntrack", "-D", "-p", "tcp")
        insert(first, 1, 4, "--mark", "3")
        third.wait(
            lambda _: (
                {row.get("mark", 0) for row in third.table("peer", peer="fw1").values()}
                == {3}
            ),
            "the mark has changed",
        )
        assert third.ask("commit")["ok"]
        assert mark_of(third) == {3}


def test_two_daemons_with_one_name_are_refused_loudly(lab: Lab, tmp_path: Path) -> None:
    made = Cluster(lab, tmp_path, FIVE[:3])
    first, second, copy = made.nodes
    copy.config.write_text(copy.config.read_text().replace('"fw3"', '"fw1"', 1))
    try:
        for node in (first, second):
            node.start()
        for node in (first, second):
            node.wait_in_step(1)
        insert(first, 1, 10)
        wait_for_flows(second, "fw1", 10)
        copy.start()
        insert(copy, 9, 3)
        for node in (first, copy):
            node.wait(lambda status: bool(status["name_conflict"]), "it is found out")
        second.wait(
            lambda _: bool(second.peer("fw1")["name_conflict"]), "it is found out"
        )
        time.sleep(1.0)
        for node in (first, copy):
            assert node.log.count("calls itself fw1 too") == 1, node.log
        assert second.log.count("two nodes call themselves fw1") == 1
        assert second.peer("fw1")["flows"] == 10
        assert second.peer("fw1")["state"] == "in-step"
        assert not copy.status()["ready"]
        assert copy.status()["cluster"]["conflicts"] > 0
        first.kill()
        wait_for_flows(second, "fw1", 3)
    finally:
        made.close()


@pytest.mark.parametrize(
    "more",
    [
        'mode = "best-effort"\n',
        'mode = "refresh"\nrefresh_interval_s = 1\nexpire_s = 2\n',
    ],
    ids=["best-effort", "refresh"],
)
def test_modes_without_acknowledgements_replicate(
    lab: Lab, tmp_path: Path, more: str
) -> None:
    with running(lab, tmp_path, more=f"[replication]\n{more}") as made:
        first, second = made.nodes
        insert(first, 1, 30)
        wait_for_flows(second, "fw1", 30)
        run_in(first.namespace, "conntrack", "-F")
        insert(first, 2, 4)
        wait_for_flows(second, "fw1", 4)
        assert second.ask("verify")["ok"]
        second.kill()
        insert(first, 3, 3)
        second.start()
        wait_for_flows(second, "fw1", 7)
        time.sleep(5.0)  # what is told again and again does not expire
        assert second.peer("fw1")["flows"] == 7
        assert second.peer("fw1")["verified"]


def test_mixed_modes_are_refused_on_both_sides(lab: Lab, tmp_path: Path) -> None:
    made = Cluster(lab, tmp_path)
    first, second = made.nodes
    second.more = '[replication]\nmode = "refresh"\n'
    second.configure(cluster.OPEN)
    try:
        for node in made.nodes:
            node.start()
        for node, other in ((first, "fw2"), (second, "fw1")):
            node.wait(
                lambda _, node=node, other=other: (  # type: ignore[misc] # mypy and default arguments
                    node.peer(other).get("state") == "refused"
                ),
                "the other is refused",
            )
        time.sleep(1.0)
        for node in made.nodes:
            assert node.log.count("give all nodes the same") == 1, node.log
    finally:
        made.close()
