"""Proof of equality between real daemons: under load, with loss, after a corruption."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from syncd.replication.frame import Coder, Data
from syncd.replication.hello import Hello

from tests.kernel import cluster, mixture
from tests.kernel.churn import Churn
from tests.kernel.cluster import Cluster, Node
from tests.lab import Lab, inside
from tests.unit.replication.talk import flow_body, flow_key

pytestmark = pytest.mark.kernel

RATE, FLOWS, SECONDS = 3000.0, 1500, 5.0
LOSSY = {"loss": 0.05}
GROUP, PORT = "225.0.0.50", 3780
_LOOKS_S = 0.3


@contextmanager
def _loaded(made: Cluster) -> Iterator[Churn]:
    first = made.nodes[0].namespace
    roads = mixture.Roads(made.lab, first)
    load = Churn(roads, first, FLOWS)
    try:
        made.start()
        for node in made.nodes:
            _wait_verified(node)
        yield load
    finally:
        made.close()
        load.close()
        roads.close()


def _wait_verified(node: Node, patience_s: float = 10.0) -> None:
    node.wait(
        lambda status: (
            status["ready"]
            and bool(status["peers"])
            and all(row["verified"] for row in status["peers"])
        ),
        "every peer is verified and the node is ready",
        patience_s,
    )


def test_copies_stay_verified_while_thousands_of_flows_change(
    lab: Lab, tmp_path: Path
) -> None:
    made = Cluster(lab, tmp_path)
    with _loaded(made) as load:
        first, second = made.nodes
        seen: list[dict[str, object]] = []
        asked: list[int] = []

        def look() -> None:
            for node in made.nodes:
                status = node.status()
                seen.append(status["peers"][0] | {"ready": status["ready"]})

        def ask() -> None:
            asked.append(second.command("verify").returncode)

        count = int(SECONDS / _LOOKS_S)
        moments = [(_LOOKS_S * number, look) for number in range(1, count)]
        moments.insert(count // 2, (SECONDS / 2, ask))
        load.run(RATE, SECONDS, *moments)
        assert len(seen) >= 20
        for row in seen:
            assert (row["verified"], row["ready"]) == (True, True), row
            assert row["completeness"] == 1.0, row
            assert isinstance(row["last_verified_s"], float)
            assert row["last_verified_s"] < 5.0, row
        assert asked == [0]
        cluster.wait_until_equal(first, second, 2.0)
        assert second.peer("fw1")["differences"] == 0


def test_proof_is_there_again_soon_after_loss(lab: Lab, tmp_path: Path) -> None:
    made = Cluster(lab, tmp_path, relay=LOSSY)
    with _loaded(made) as load:
        first, second = made.nodes
        load.run(RATE, SECONDS)
        assert second.peer("fw1")["lost_frames"] > 0
        began = time.monotonic()
        for node in made.nodes:
            _wait_verified(node)
            peer = node.status()["peers"][0]
            assert peer["differences"] == 0, peer
            assert peer["last_verified_s"] <= time.monotonic() - began + 10.0
        assert second.command("verify").returncode == 0
        cluster.wait_until_equal(first, second, 2.0)


def test_a_forged_frame_is_found_out_and_made_good(lab: Lab, tmp_path: Path) -> None:
    """In `mode = "off"` anybody can write into a copy; nobody can hide it."""
    made = Cluster(lab, tmp_path)
    forger = lab.namespace("forger")
    lab.plug(forger, "eth2", made.switch, "bridge")
    lab.address(forger, "eth2", "10.99.0.9/24")
    with _loaded(made) as load:
        first, second = made.nodes
        load.run(RATE, 1.0)
        _forge(forger, "fw1")
        second.wait(
            lambda status: status["peers"][0]["differences"] == 1,
            "the difference is found",
            10.0,
        )
        _wait_verified(second)
        peer = second.peer("fw1")
        assert peer["repaired"] == 1, peer
        assert peer["differing_buckets"] == 0
        cluster.wait_until_equal(first, second, 2.0)
        assert "differs in 1 of 64 buckets" in second.log
        assert "equal again: 1 records repaired" in second.log
        assert "everything is asked for" not in second.log
        answer = second.ask("verify")
        assert answer["ok"] is True, json.dumps(answer)


def _forge(namespace: str, victim: str) -> None:
    """Say in the victim's name, with its next number, that it has another flow."""
    coder = Coder()
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as road:
        road.bind(("", PORT))
        here = socket.inet_aton("10.99.0.9")
        membership = struct.pack("4s4s", socket.inet_aton(GROUP), here)
        road.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        road.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
        road.settimeout(5.0)
        while True:
            frame = coder.unpack(road.recv(65536))
            if frame.sender == victim and isinstance(frame.content, Hello):
                break
        payload = coder.pack_data(Data(flows=[flow_key(7), flow_body(7)]))
        forged = coder.wrap(victim, frame.epoch, frame.number + 1, payload)
        road.sendto(forged, (GROUP, PORT))
