"""Every kind of flow crosses a failover, judged by a twin that did not fail.

The first firewall goes on as if nothing had happened. The second one has only what it
was told and committed. Both get the same next packets: what they let pass, byte for
byte, and what their tables hold in the end must be the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel import cluster, matrix, mixture, reader
from tests.kernel.cluster import Cluster
from tests.lab import Lab, run_in, sysctl

pytestmark = pytest.mark.kernel


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[tuple[Cluster, list[mixture.Roads]]]:
    """Two strict firewalls with the same rules and the same world around each."""
    # What is redirected to the firewall itself crosses too.
    made = Cluster(lab, tmp_path, more='[filter]\nown_addresses = "accept"\n')
    roads = [
        mixture.Roads(lab, node.namespace, f"far-{node.name}", matrix.RULES)
        for node in made.nodes
    ]
    for node in made.nodes:
        for name in ("tcp_loose", "tcp_be_liberal"):
            sysctl(node.namespace, f"net.netfilter.nf_conntrack_{name}", 0)
        for where in ("all", "eth0"):
            sysctl(node.namespace, f"net.ipv4.conf.{where}.send_redirects", 0)
    servers = [matrix.silent_server(node.namespace) for node in made.nodes]
    try:
        made.start()
        yield made, roads
    finally:
        made.close()
        for road in roads:
            road.close()
        for server in servers:
            server.close()


@pytest.mark.parametrize("stale", [False, True], ids=["empty", "stale"])
def test_every_kind_of_flow_goes_on_as_if_nothing_had_happened(
    pair: tuple[Cluster, list[mixture.Roads]], stale: bool
) -> None:
    """Also where the second kernel has, of each flow, what its first packet made."""
    made, roads = pair
    first, second = made.nodes
    cases = list(matrix.cases())
    if stale:
        begun = [replace(case, cut=1) for case in cases]
        matrix.play(roads[1], begun, first=True)
    matrix.play(roads[0], cases, first=True, learning=first.namespace)
    cluster.wait_until_equal(first, second, 5.0, view=reader.as_told)
    wanted = first.kernel()
    answer = second.ask("commit")
    assert answer["ok"], answer
    names: dict[reader.Key, str] = {(c.orig, c.zone): c.name for c in cases}
    _assert_alike(names, wanted, second.kernel())

    ears = [matrix.Ears(road) for road in roads]
    heard = []
    for node, road, ear in zip(made.nodes, roads, ears, strict=True):
        run_in(node.namespace, "nft", "flush", "chain", "inet", "firewall", "fresh")
        ear.take()
        matrix.play(road, cases, first=False)
        heard.append(ear.take())
        ear.close()
    lost, more = heard[0] - heard[1], heard[1] - heard[0]
    assert sum(heard[0].values()) > 3 * len(cases)  # packets got through at all
    assert not lost, _packets(lost)
    assert not more, _packets(more)
    _assert_alike(names, first.kernel(), second.kernel(), _as_gone_on)


def _assert_alike(
    names: dict[reader.Key, str],
    wanted: reader.Rows,
    found: reader.Rows,
    view: Callable[[reader.Row], reader.Row] = reader.as_committed,
) -> None:
    """Name the cases that differ, and in what."""
    assert len(wanted) > len(names) // 2
    rows = [{key: view(row) for key, row in side.items()} for side in (wanted, found)]
    wrong = [
        f"{names.get(key, key)}: {rows[0].get(key)} != {rows[1].get(key)}"
        for key in wanted.keys() | found.keys()
        if rows[0].get(key) != rows[1].get(key)
    ]
    assert not wrong, f"{len(wrong)} differences\n" + "\n".join(sorted(wrong)[:40])


def _as_gone_on(row: reader.Row) -> reader.Row:
    """As committed, but for what the kernel does by itself with the next packet.

    A UDP flow becomes assured when it is older than two seconds, and the kernel does
    not know the age of one that it was given.
    """
    reply, status = row["reply"], row["status"]
    assert isinstance(reply, tuple)
    assert isinstance(status, int)
    if reply[0] in (17, 136) and status & 0x2:
        row = row | {"status": status | 0x4}
    return reader.as_committed(row)


def _packets(found: Counter[tuple[int, bytes]]) -> str:
    lines = [f"side {side}: {data[:60].hex()}" for side, data in found]
    return f"{len(lines)} packets\n" + "\n".join(lines[:40])
