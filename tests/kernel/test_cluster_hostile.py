"""Datagrams that nobody should send, at the sync port of running daemons.

They come from a third namespace on the sync bridge, to the group and to the node. The
rule: each is counted, nothing else changes, and the daemon answers as before.
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import cluster, mixture
from tests.kernel.cluster import Cluster, Node
from tests.kernel.stranger import Stranger
from tests.lab import Lab

pytestmark = pytest.mark.kernel

SECOND = "10.99.0.2"
FLOOD = 50_000
ANSWER_S = 5.0


@pytest.fixture
def visited(lab: Lab, tmp_path: Path) -> Iterator[tuple[Cluster, Stranger]]:
    """Two nodes in step with some flows, and a stranger."""
    made = Cluster(lab, tmp_path)
    roads = mixture.Roads(lab, made.nodes[0].namespace)
    stranger = Stranger(made)
    try:
        made.start()
        mixture.play(roads, made.nodes[0].namespace, mixture.talks(500))
        cluster.wait_until_equal(made.nodes[0], made.nodes[1], 5.0)
        yield made, stranger
    finally:
        made.close()
        stranger.close()
        roads.close()


def _rejected(node: Node) -> dict[str, int]:
    rejected = node.status()["links"][0]["rejected_frames"]
    assert isinstance(rejected, dict)
    return {str(name): int(count) for name, count in rejected.items()}


def _unharmed(made: Cluster) -> None:
    first, second = made.nodes
    for node in made.nodes:
        status = node.status()
        assert [peer["state"] for peer in status["peers"]] == ["in-step"], status
        assert "Traceback" not in node.log, node.log
    assert first.status()["tables"]["peer"]["flows"] == 0
    cluster.wait_until_equal(first, second, 2.0)


def test_garbage_is_counted_and_changes_nothing(
    visited: tuple[Cluster, Stranger],
) -> None:
    made, stranger = visited
    second = made.nodes[1]
    draw = random.Random(5)
    before = _rejected(second)
    samples = [b"", b"\0", b"\x93", bytes(1472), b"\xff" * 1472, b"\x80" * 60]
    samples += [draw.randbytes(draw.randrange(1, 1473)) for _ in range(200)]
    samples += [draw.randbytes(size) for size in (8192, 30000, 65507)]
    for sample in samples:
        stranger.send(sample)
        stranger.send(sample, SECOND)  # the socket hears the group only
    time.sleep(0.5)
    after = _rejected(second)
    counted = sum(after.values()) - sum(before.values())
    assert counted >= len(samples), (before, after)
    _unharmed(made)
    # One line for the reason, not one for each datagram.
    assert second.log.count("10.99.0.66") <= 12, second.log


def test_parts_of_real_frames_are_counted_and_change_nothing(
    visited: tuple[Cluster, Stranger],
) -> None:
    made, stranger = visited
    second = made.nodes[1]
    before = sum(_rejected(second).values())
    sent = 0
    for real in stranger.overhear(6):
        for end in range(1, len(real), 3):
            stranger.send(real[:end])
            sent += 1
        stranger.send(real + b"\0")
        stranger.send(real + bytes(60000))
        sent += 2
    time.sleep(0.5)
    assert sum(_rejected(second).values()) - before >= sent * 0.9
    _unharmed(made)


def test_frames_that_come_again_change_nothing(
    visited: tuple[Cluster, Stranger],
) -> None:
    made, stranger = visited
    real = stranger.overhear(8)
    made.nodes[0].ask("resync", "push")
    for _ in range(50):
        for frame in real:
            stranger.send(frame)
            stranger.send(frame, SECOND)
    _unharmed(made)


def test_a_frame_with_turned_bits_never_ends_a_daemon(
    visited: tuple[Cluster, Stranger],
) -> None:
    made, stranger = visited
    draw = random.Random(7)
    for real in stranger.overhear(8):
        for _ in range(300):
            turned = bytearray(real)
            turned[draw.randrange(len(turned))] ^= 1 << draw.randrange(8)
            stranger.send(bytes(turned))
    time.sleep(0.5)
    for node in made.nodes:
        assert node.running, node.log
        assert "Traceback" not in node.log, node.log


def test_a_flood_of_garbage_does_not_stop_the_work(
    visited: tuple[Cluster, Stranger],
) -> None:
    made, stranger = visited
    first, second = made.nodes
    draw = random.Random(6)
    samples = [draw.randbytes(draw.randrange(1, 1400)) for _ in range(500)]

    def flood() -> None:
        for number in range(FLOOD):
            stranger.send(samples[number % len(samples)])

    flooding = threading.Thread(target=flood)
    flooding.start()
    slowest = 0.0
    while flooding.is_alive():
        begin = time.monotonic()
        second.status()
        slowest = max(slowest, time.monotonic() - begin)
    flooding.join()
    assert slowest < ANSWER_S
    link = second.status()["links"][0]
    counted = sum(_rejected(second).values()) + link["kernel_drops"]
    assert counted >= FLOOD * 0.99, link
    _unharmed(made)
    assert first.running
    assert len(second.log) < 20_000, "a log line for each datagram"
