"""What becomes of interfaces under load: MTUs that differ, addresses and devices gone.

Each test runs a load on the first node and judges when it has ended: the second node's
peer table must be the first one's kernel table again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture
from tests.kernel.churn import Churn
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab, run, run_in

pytestmark = pytest.mark.kernel

RATE, FLOWS, EQUAL_S = 6_000.0, 3000, 3.0
HEADERS = 28
SECOND = (
    '[[link]]\ntype = "unicast"\nlocal = "10.98.0.{own}"\npeers = ["10.98.0.{other}"]\n'
)


@contextmanager
def _loaded(made: Cluster) -> Iterator[Churn]:
    first = made.nodes[0].namespace
    roads = mixture.Roads(made.lab, first)
    load = Churn(roads, first, FLOWS)
    try:
        made.start()
        yield load
    finally:
        made.close()
        load.close()
        roads.close()


def _widen(made: Cluster) -> None:
    """The switch carries whatever its nodes send."""
    for line in run("ip", "-n", made.switch, "-o", "link", "show").splitlines():
        name = line.split()[1].split("@")[0].rstrip(":")
        if name.startswith("port"):
            made.lab.link(made.switch, name, "mtu", "9000")


def _set_mtus(made: Cluster, mtus: tuple[int, int]) -> None:
    for node, mtu in zip(made.nodes, mtus, strict=True):
        made.lab.link(node.namespace, "eth2", "mtu", str(mtu))


def _room(node: Node) -> int:
    return int(node.status()["links"][0]["frame_bytes"])


@pytest.mark.parametrize("mtus", [(9000, 1500), (576, 9000), (1500, 576), (9000, 9000)])
def test_the_two_ends_of_a_link_may_have_different_mtus(
    lab: Lab, tmp_path: Path, mtus: tuple[int, int]
) -> None:
    made = Cluster(lab, tmp_path)
    _widen(made)
    _set_mtus(made, mtus)
    with _loaded(made) as load:
        first, second = made.nodes
        load.run(RATE, 1.0)
        cluster.wait_until_equal(first, second, EQUAL_S)
        assert [_room(first), _room(second)] == [min(mtus) - HEADERS] * 2
        assert first.status()["links"][0]["send_errors"] == 0
        # And it may change while they run, on one side first.
        load.run(RATE, 1.0, (0.3, partial(_set_mtus, made, mtus[::-1])))
        cluster.wait_until_equal(first, second, EQUAL_S)
        load.run(RATE, 1.0, (0.3, partial(_set_mtus, made, (1500, 1500))))
        cluster.wait_until_equal(first, second, EQUAL_S)
        assert [_room(first), _room(second)] == [1500 - HEADERS] * 2
        assert second.command("verify").returncode == 0


def _two_links(lab: Lab, directory: Path) -> Cluster:
    made = Cluster(lab, directory, more=cluster.OWN_TOO)
    lab.bridge(made.switch, "second")
    for number, node in enumerate(made.nodes, 1):
        lab.plug(node.namespace, "eth3", made.switch, "second")
        lab.address(node.namespace, "eth3", f"10.98.0.{number}/24")
        lab.link(node.namespace, "eth3", "mtu", "576")
        text = SECOND.format(own=number, other=3 - number)
        node.config.write_text(node.config.read_text() + text)
    return made


def _take_address(_lab: Lab, node: Node) -> None:
    run_in(node.namespace, "ip", "address", "flush", "dev", "eth2")


def _remove_device(lab: Lab, node: Node) -> None:
    lab.unplug(node.namespace, "eth2")


def _lose_carrier(lab: Lab, node: Node) -> None:
    lab.link(node.namespace, "eth2", "down")


FAULTS: dict[str, Callable[[Lab, Node], None]] = {
    "address": _take_address,
    "device": _remove_device,
    "down": _lose_carrier,
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("at", [0, 1])
def test_what_an_interface_loses_moves_the_state_to_a_narrower_link_at_once(
    lab: Lab, tmp_path: Path, name: str, at: int
) -> None:
    made = _two_links(lab, tmp_path)
    with _loaded(made) as load:
        first, second = made.nodes
        victim = made.nodes[at]
        load.run(RATE, 1.0, (0.5, partial(FAULTS[name], lab, victim)))
        cluster.wait_until_equal(first, second, EQUAL_S)
        assert [row["state"] for row in first.status()["links"]][1] == "active"
        assert all("lost" not in node.log.split("in step")[-1] for node in made.nodes)
        if name == "device":
            lab.plug(victim.namespace, "eth2", made.switch, "bridge")
        if name != "down":
            lab.address(victim.namespace, "eth2", f"10.99.0.{at + 1}/24")
        lab.link(victim.namespace, "eth2", "up")
        load.run(RATE, 1.0)
        cluster.wait_until_equal(first, second, EQUAL_S)
        first.wait(
            lambda status: status["links"][0]["state"] == "active",
            "the first link is used again",
            patience_s=12.0,
        )
        load.run(RATE, 0.5)
        cluster.wait_until_equal(first, second, EQUAL_S)
        assert second.command("verify").returncode == 0
