"""One peer: what we know of it, its tables, and in which state it is with us.

    UNKNOWN --heard--> SYNCING --agreed--> IN_STEP
    SYNCING, IN_STEP --resync--> SYNCING          either side wants everything again
    SYNCING, IN_STEP --silent--> LOST             not heard, or it does not hear us
    LOST --heard--> SYNCING
    any --refused--> REFUSED --heard--> SYNCING   a byte order that is not ours

The rule of the room: the table below is the whole machine; anything else is a bug and
raises. A lost peer's tables stay: on failover they are what is committed.
"""

from dataclasses import dataclass, field
from enum import Enum

from tests.frozen.v1_0.digest import Digest
from tests.frozen.v1_0.inbox import SATISFIED, Inbox
from tests.frozen.v1_0.table import Table


class PeerState(Enum):
    """The words that `status` shows."""

    UNKNOWN = "unknown"
    SYNCING = "syncing"
    IN_STEP = "in-step"
    LOST = "lost"
    REFUSED = "refused"


class PeerEvent(Enum):
    """What can happen to a peer."""

    HEARD = "heard"
    AGREED = "agreed"
    RESYNC = "resync"
    SILENT = "silent"
    REFUSED = "refused"


LIVE = frozenset((PeerState.SYNCING, PeerState.IN_STEP))

TRANSITIONS: dict[tuple[PeerState, PeerEvent], PeerState] = {
    (PeerState.UNKNOWN, PeerEvent.HEARD): PeerState.SYNCING,
    (PeerState.UNKNOWN, PeerEvent.REFUSED): PeerState.REFUSED,
    (PeerState.UNKNOWN, PeerEvent.SILENT): PeerState.LOST,
    (PeerState.SYNCING, PeerEvent.AGREED): PeerState.IN_STEP,
    (PeerState.SYNCING, PeerEvent.RESYNC): PeerState.SYNCING,
    (PeerState.SYNCING, PeerEvent.SILENT): PeerState.LOST,
    (PeerState.SYNCING, PeerEvent.REFUSED): PeerState.REFUSED,
    (PeerState.IN_STEP, PeerEvent.RESYNC): PeerState.SYNCING,
    (PeerState.IN_STEP, PeerEvent.SILENT): PeerState.LOST,
    (PeerState.IN_STEP, PeerEvent.REFUSED): PeerState.REFUSED,
    (PeerState.LOST, PeerEvent.HEARD): PeerState.SYNCING,
    (PeerState.LOST, PeerEvent.REFUSED): PeerState.REFUSED,
    (PeerState.REFUSED, PeerEvent.HEARD): PeerState.SYNCING,
    (PeerState.REFUSED, PeerEvent.REFUSED): PeerState.REFUSED,
}


@dataclass(slots=True)
class Peer:
    """One other node. Times are the local monotonic clock, in seconds."""

    name: str
    flows: Table = field(default_factory=Table)
    expectations: Table = field(default_factory=Table)
    departed: Table = field(default_factory=Table)  # flows missing after its restart
    departed_until: float = 0.0
    inbox: Inbox = field(default_factory=Inbox)
    state: PeerState = PeerState.UNKNOWN
    candidate: int = 0  # a life of it that has not proved itself, 0 = none
    candidate_number: int = 0  # the highest number heard of that life
    challenge: int = 0  # the number of ours that it has to acknowledge
    source: str = ""
    heard_at: float = 0.0
    progress_at: float = 0.0  # when it last acknowledged a frame that was new to it
    highest_acked: int = 0
    role: str = "backup"
    claim: int = 0
    was_primary: bool = False  # in a life before, and it does not know of it yet
    owner: bool = False  # does its table stand for traffic that nobody took over?
    taken: tuple[int, int] = (-1, -1)  # (epoch, claim) of the state we took over
    swept: bool = False  # was it heard in full, in this life of it?
    remote_wants: int = 0  # what it wants of us, see `Inbox.wants`
    compare: int = 0  # comparisons that it asked for
    copy: Digest | None = None  # of our copy of its tables, at its latest marker
    remote_digest: tuple[int, int, int, int] = (0, 0, 0, 0)
    verdict: int = 0  # on our copy of its tables, at marker `verdict_marker`
    verdict_marker: int = 0
    inbound_at: float = -1.0  # when our copy of its tables was last compared
    outbound_at: float = -1.0  # when its copy of ours was last compared
    inbound_equal: bool = False
    outbound_equal: bool = False
    pulled_at: float = -1e9  # when a difference last made us ask for everything
    differing: int = 0  # records that the running resync found different
    repaired: int = 0  # records that resyncs after the first one put right

    def move(self, event: PeerEvent) -> None:
        """Take one transition; an unlisted one is a bug."""
        self.state = TRANSITIONS[self.state, event]

    @property
    def live(self) -> bool:
        """Do we hear it and it hears us?"""
        return self.state in LIVE

    @property
    def agreed(self) -> bool:
        """Does neither side want anything of the other?"""
        return self.inbox.wants == SATISFIED and self.remote_wants == SATISFIED

    @property
    def verified(self) -> bool:
        """Were both copies equal when they were last compared?"""
        return (
            self.state is PeerState.IN_STEP
            and self.inbound_equal
            and self.outbound_equal
        )
