"""The engine of protocol 1.0, with the doors of the present one.

In: the arguments of `syncd.replication.engine.ReplicationEngine`. Out: an engine that a
test drives like any other.
"""

from syncd.config_filter import FilterConfig
from syncd.flows.filter import RecordFilter
from syncd.replication.settings import Settings

from tests.frozen.v1_0 import agreement, engine


class Neighbour(engine.ReplicationEngine):
    """A node that was not updated yet."""

    def __init__(self, node: str, epoch: int, settings: Settings, now: float) -> None:
        super().__init__(
            node,
            epoch,
            agreement.Settings(
                hello_interval_s=settings.hello_interval_s,
                silence_s=settings.silence_s,
                window_frames=settings.window_frames,
                frame_bytes=settings.frame_bytes,
                ack_frames=settings.ack_frames,
                burst_frames=settings.burst_frames,
            ),
            RecordFilter(FilterConfig()),
            now,
        )

    def hear(self, datagram: bytes, source: str, now: float) -> str | None:
        """`receive` of the present engine."""
        return self.receive(datagram, source, now)
