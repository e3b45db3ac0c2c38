"""The measures of the protocol, which a node is configured with."""

from dataclasses import dataclass

RELIABLE = "reliable"  # every change is acknowledged, a lost one is told again
REFRESH = "refresh"  # changes once; everything is told again periodically, or expires
BEST_EFFORT = "best-effort"  # changes once; everything only at the start or on request


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one node; times in seconds."""

    mode: str = RELIABLE
    refresh_interval_s: float = 60.0  # in which everything is told once
    expire_s: float = 180.0  # in which everything has to be told at least once
    hello_interval_s: float = 0.5
    hello_gap_s: float = 0.002  # for each other node, at least between two HELLOs
    silence_s: float = 3.0  # after which a peer counts as lost
    ready_timeout_s: float = 60.0  # after which a node is ready though something lacks
    window_frames: int = 256  # unacknowledged at most
    frame_bytes: int = 1400  # of one datagram at most
    ack_delay_s: float = 0.1
    ack_frames: int = 64  # DATA frames after which an acknowledgement goes at once
    probe_interval_s: float = 0.25  # without acknowledgement, doubled each time
    burst_frames: int = 64  # of one `send`
    slow_peer_s: float = 1.0  # that others wait for one peer before it falls back
    peer_limit: int = 32  # other nodes that are known at the same time
    peer_flows_limit: int = 2_000_000  # flows that are kept of one peer
    forget_after_s: float = 86400.0  # after which a lost peer may be forgotten
    link_hellos: int = 3  # hello intervals without a word: a link is silent
    link_hold_s: float = 5.0  # a link that failed has to be good for so long
