"""Links of every type under load: lossy, cut on one side, with another MTU.

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

RATE, FLOWS, EQUAL_S = 6_000.0, 3000, 2.0
SILENCE_S = 3.0
BAD_NETWORK = {"loss": 0.2, "double": 0.1, "late": 0.2, "late_s": 0.02}
MULTICAST = 'type = "multicast"\ninterface = "eth2"\ngroup = "225.0.0.50"\n'
LINKS = {
    "multicast6": 'type = "multicast"\ninterface = "eth2"\ngroup = "ff02::5051"\n',
    "unicast6": 'type = "unicast"\nlocal = "{own6}"\npeers = ["{other6}"]\n',
}


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


def _relink(made: Cluster, text: str) -> None:
    """Give the nodes another link."""
    for number, node in enumerate(made.nodes, 1):
        both = f"fd99::{number}/64", f"fe80::{number}/64"
        made.lab.address(node.namespace, "eth2", *both)
        link = text.format(
            own=f"10.99.0.{number}",
            other=f"10.99.0.{3 - number}",
            own6=f"fd99::{number}",
            other6=f"fd99::{3 - number}",
            link6=f"fe80::{number}",
            far6=f"fe80::{3 - number}",
        )
        node.config.write_text(node.config.read_text().replace(MULTICAST, link))


@pytest.mark.parametrize("name", LINKS)
def test_every_type_of_link_bears_a_bad_network(
    lab: Lab, tmp_path: Path, name: str
) -> None:
    made = Cluster(lab, tmp_path, relay=BAD_NETWORK)
    _relink(made, LINKS[name])
    with _loaded(made) as load:
        first, second = made.nodes
        load.run(RATE, 2.0)
        cluster.wait_until_equal(first, second, EQUAL_S + 1)
        assert second.peer("fw1")["lost_frames"] > 0


SECOND_LINK = '[[link]]\ntype = "multicast"\ninterface = "eth3"\ngroup = "225.0.0.51"\n'


def _two_links(lab: Lab, directory: Path) -> tuple[Cluster, Callable[[str, str], None]]:
    made = Cluster(lab, directory, more=SECOND_LINK + cluster.OWN_TOO)
    lab.bridge(made.switch, "second")
    for number, node in enumerate(made.nodes, 1):
        lab.plug(node.namespace, "eth3", made.switch, "second")
        lab.address(node.namespace, "eth3", f"10.98.0.{number}/24")

    def switch_port(node: str, state: str) -> None:
        """What happens at the far end of a node's first cable."""
        namespace = next(n.namespace for n in made.nodes if n.name == node)
        shown = run("ip", "-n", namespace, "-o", "link", "show", "eth2")
        index = shown.split("eth2@if")[1].split(":")[0]
        ports = run("ip", "-n", made.switch, "-o", "link", "show").splitlines()
        port = next(line for line in ports if line.startswith(f"{index}:"))
        name = port.split()[1].split("@")[0]
        run("ip", "-n", made.switch, "link", "set", name, state)

    return made, switch_port


def _cut_and_mend(
    made: Cluster, switch_port: Callable[[str, str], None], names: tuple[str, ...]
) -> None:
    """The first link dies under load and comes back under load."""

    def turn(state: str) -> None:
        for name in names:
            switch_port(name, state)

    with _loaded(made) as load:
        first, second = made.nodes
        for state in ("down", "up"):
            load.run(RATE, 1.5, (0.5, partial(turn, state)))
            cluster.wait_until_equal(first, second, EQUAL_S + SILENCE_S)
            for node in made.nodes:
                node.wait_in_step(1)
            assert second.command("verify").returncode == 0


def test_a_link_that_is_cut_on_both_sides_gives_way_to_the_second(
    lab: Lab, tmp_path: Path
) -> None:
    made, switch_port = _two_links(lab, tmp_path)
    _cut_and_mend(made, switch_port, ("fw1", "fw2"))


def test_a_link_that_is_cut_on_one_side_gives_way_to_the_second(
    lab: Lab, tmp_path: Path
) -> None:
    made, switch_port = _two_links(lab, tmp_path)
    _cut_and_mend(made, switch_port, ("fw2",))


MIXED = (
    'type = "multicast"\ninterface = "eth2"\ngroup = "225.0.0.50"\n',
    'type = "unicast"\nlocal = "10.98.0.{own}"\npeers = ["10.98.0.{other}"]\n',
    'type = "tcp"\nlocal = "10.97.0.{own}"\npeers = ["10.97.0.{other}"]\n',
)

STREAMS = {
    "ipv4": 'type = "tcp"\nlocal = "{own}"\npeers = ["{other}"]\n',
    "link-local": (
        'type = "tcp"\ninterface = "eth2"\nlocal = "{link6}"\npeers = ["{far6}"]\n'
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_tcp_link_carries_a_load_over_a_network_that_loses_little(
    lab: Lab, tmp_path: Path, name: str
) -> None:
    made = Cluster(lab, tmp_path, relay={"loss": 0.002})
    _relink(made, STREAMS[name])
    with _loaded(made) as load:
        first, second = made.nodes
        load.run(RATE, 2.0)
        cluster.wait_until_equal(first, second, EQUAL_S + 1)
        assert first.status()["links"][0]["connections"] == 1


def _three_links(lab: Lab, directory: Path, order: tuple[int, ...]) -> Cluster:
    """One link of each type, each over a bridge of its own."""
    made = Cluster(lab, directory, more=cluster.OWN_TOO)
    for place, name in ((98, "eth3"), (97, "eth4")):
        lab.bridge(made.switch, f"bridge{place}")
        for number, node in enumerate(made.nodes, 1):
            lab.plug(node.namespace, name, made.switch, f"bridge{place}")
            lab.address(node.namespace, name, f"10.{place}.0.{number}/24")
    for number, node in enumerate(made.nodes, 1):
        links = [MIXED[at].format(own=number, other=3 - number) for at in order]
        text = "[[link]]\n".join(links)
        node.config.write_text(node.config.read_text().replace(MULTICAST, text))
    return made


def _active(node: Node) -> list[str]:
    return [row["type"] for row in node.status()["links"] if row["state"] == "active"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_links_of_all_types_stand_in_for_each_other(
    lab: Lab, tmp_path: Path, order: tuple[int, ...]
) -> None:
    made = _three_links(lab, tmp_path, order)
    types = ("multicast", "unicast", "tcp")
    bridges = ("bridge", "bridge98", "bridge97")
    with _loaded(made) as load:
        first, second = made.nodes
        assert _active(first) == [types[order[0]]]

        def drop(place: int) -> None:
            """Nothing arrives over it any more, and nobody is told."""
            ports = run(
                "ip", "-n", made.switch, "-o", "link", "show", "master", bridges[place]
            )
            for line in ports.splitlines():
                name = line.split()[1].split("@")[0]
                run("ip", "-n", made.switch, "link", "set", name, "nomaster")

        for at in (0, 1):
            load.run(RATE, 1.5, (0.5, partial(drop, order[at])))
            cluster.wait_until_equal(first, second, EQUAL_S + 1)
            assert _active(first) == [types[order[at + 1]]]
        for node in made.nodes:
            node.wait_in_step(1)
            assert "lost" not in node.log.split("in step", 1)[1]
        assert second.command("verify").returncode == 0


@pytest.mark.parametrize("mtu", [600])
def test_another_mtu_in_the_middle_is_respected(
    lab: Lab, tmp_path: Path, mtu: int
) -> None:
    made = Cluster(lab, tmp_path)
    with _loaded(made) as load:
        first, second = made.nodes

        def change() -> None:
            ports = run("ip", "-n", made.switch, "-o", "link", "show").splitlines()
            names = [line.split()[1].split("@")[0].rstrip(":") for line in ports]
            for name in names:
                if name.startswith("port"):
                    lab.link(made.switch, name, "mtu", str(mtu))
            for node in made.nodes:
                lab.link(node.namespace, "eth2", "mtu", str(mtu))

        load.run(RATE, 2.0, (0.5, change))
        cluster.wait_until_equal(first, second, EQUAL_S)
        assert first.status()["links"][0]["frame_bytes"] <= mtu - 28


def test_all_flows_ending_at_once_end_on_the_peer_too(lab: Lab, tmp_path: Path) -> None:
    made = Cluster(lab, tmp_path)
    roads = mixture.Roads(lab, made.nodes[0].namespace)
    try:
        first, second = made.nodes
        mixture.play(roads, first.namespace, mixture.talks(3000))
        made.start()  # the flows are older than the daemons
        cluster.wait_until_equal(first, second, EQUAL_S)
        run_in(first.namespace, "conntrack", "-F")
        assert not first.kernel()
        cluster.wait_until_equal(first, second, EQUAL_S)
    finally:
        made.close()
        roads.close()
