"""A cluster at rest wakes up a few times a second, whatever state it is in."""

import heapq
from collections.abc import Callable
from itertools import count

import pytest
from syncd.replication.settings import Settings

from tests.unit.replication.talk import Talk, flow_key, put

LATENCY_S = 0.0003
REST_S = 40.0
LIMIT = 12.0  # a second and node


def rest(talk: Talk, seconds: float) -> dict[str, float]:
    """Let each engine sleep until its deadline; how often each woke, in a second."""
    arriving: list[tuple[float, int, str, str, bytes]] = []
    serial = count()
    wakes = dict.fromkeys(talk.engines, 0)
    timers = dict.fromkeys(talk.engines, talk.now)
    end = talk.now + seconds
    while (now := min(timers.values())) < end:
        if arriving and arriving[0][0] <= now:
            now, _, name, source, datagram = heapq.heappop(arriving)
            engine = talk.engines[name]
            engine.receive(datagram, 0, source, now)
            timers[name] = max(min(timers[name], engine.deadline() or end), now)
            continue
        name = min(timers, key=timers.__getitem__)
        engine = talk.engines[name]
        engine.tick(now)
        wakes[name] += 1
        assert wakes[name] < LIMIT * seconds, f"{name} spins at {now}"
        for _, datagram in engine.send(now):
            for other in talk.engines.keys() - {name}:
                parcel = (now + LATENCY_S, next(serial), other, name, datagram)
                heapq.heappush(arriving, parcel)
        timers[name] = max(engine.deadline() or end, now)
    return {name: number / seconds for name, number in wakes.items()}


def nothing(_: Talk) -> None:
    """All is well."""


def lost(talk: Talk) -> None:
    del talk.engines["b"]


def oversized(talk: Talk) -> None:
    noise = b"".join(hash((n, "x")).to_bytes(8, "big", signed=True) for n in range(400))
    talk.engines["a"].own.flows.put(flow_key(5000), noise, b"", 1)


def flushed(talk: Talk) -> None:
    talk.engines["b"].forget_peers()


def unread(talk: Talk) -> None:
    """A resync is wanted that cannot begin."""
    talk.engines["a"].kernel_read = False
    talk.engines["a"].push(talk.now)


def suspended(talk: Talk) -> None:
    a = talk.engines["a"]
    a.agreement.suspend(a.peers["b"], talk.now)


def held(talk: Talk) -> None:
    a = talk.engines["a"]
    a.promote(talk.now)
    a.demote(talk.now)
    for number in range(10):
        a.own.flows.end(flow_key(number))


TROUBLES = [nothing, lost, oversized, flushed, unread, suspended, held]
DAYS = [("reliable", trouble, 2_000_000) for trouble in TROUBLES] + [
    ("reliable", nothing, 20),
    ("refresh", nothing, 2_000_000),
    ("refresh", lost, 20),
    ("best-effort", nothing, 2_000_000),
]


@pytest.mark.parametrize(("mode", "trouble", "limit"), DAYS)
def test_a_cluster_at_rest_is_quiet(
    mode: str, trouble: Callable[[Talk], None], limit: int
) -> None:
    settings = Settings(
        mode=mode, peer_flows_limit=limit, refresh_interval_s=5.0, expire_s=15.0
    )
    talk = Talk("a", "b", "c", settings=settings)
    put(talk.engines["a"].own, *range(50))
    talk.run(2, step_s=0.05)
    trouble(talk)
    talk.run(8, step_s=0.05)  # in which a difference is looked for in haste
    assert max(rest(talk, REST_S).values()) < LIMIT
