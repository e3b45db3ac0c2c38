"""A node that was not updated yet: the frozen engine of protocol 1.0.

In: the verbs of the present engine. Out: what they become for the old one, which knows
one link, no keys and no proof of equality.
"""

from typing import cast

from syncd.config_filter import FilterConfig
from syncd.flows.filter import RecordFilter
from syncd.replication.engine import ReplicationEngine
from syncd.replication.settings import Settings

from tests.frozen.v1_0 import agreement, engine


class OldEngine:
    """The doors of the present engine, as far as the simulation uses them."""

    sealing = False
    ready = False  # it does not prove what it says

    def __init__(self, node: str, epoch: int, settings: Settings, now: float) -> None:
        measures = agreement.Settings(
            hello_interval_s=settings.hello_interval_s,
            silence_s=settings.silence_s,
            window_frames=settings.window_frames,
            frame_bytes=settings.frame_bytes,
            ack_frames=settings.ack_frames,
            burst_frames=settings.burst_frames,
        )
        everything = RecordFilter(FilterConfig(), expectations=True)
        self._engine = engine.ReplicationEngine(node, epoch, measures, everything, now)

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    @property
    def dump_wanted(self) -> bool:
        """Does it ask for a dump?"""
        return self._engine.dump_wanted

    @dump_wanted.setter
    def dump_wanted(self, wanted: bool) -> None:
        self._engine.dump_wanted = wanted

    def receive(self, datagram: bytes, _: int, source: str, now: float) -> str | None:
        """It does not know of places."""
        return self._engine.receive(datagram, source, now)

    def send(self, now: float) -> list[tuple[int, bytes]]:
        """All over its only link."""
        return [(0, datagram) for datagram in self._engine.send(now)]

    def link_changed(self, place: int, *, usable: bool, frame_bytes: int) -> None:
        """It does not ask."""


def old_engine(
    node: str, epoch: int, settings: Settings, now: float
) -> ReplicationEngine:
    """One of these, for a simulation that means the present one."""
    return cast(ReplicationEngine, OldEngine(node, epoch, settings, now))
