"""One peer: what we know of it, its tables, and in which state it is with us.

    UNKNOWN --heard--> SYNCING --agreed--> IN_STEP
    SYNCING, IN_STEP --resync--> SYNCING          either side wants everything again
    SYNCING, IN_STEP --silent--> LOST             not heard, or it does not hear us
    LOST --heard--> SYNCING
    any --refused--> REFUSED --heard--> SYNCING   a byte order that is not ours

The rule of the room: the table below is the whole machine; anything else is a bug and
raises. A lost peer's tables stay: on failover they are what is committed.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

from syncd.flows.digest import BUCKETS, Digest
from syncd.flows.table import Table
from syncd.replication.audit import Audit
from syncd.replication.fate import Told
from syncd.replication.inbox import SATISFIED, Inbox
from syncd.replication.location import Inquiry


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


_SYNCING, _IN_STEP = PeerState.SYNCING, PeerState.IN_STEP

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

NOT_TAKEN = (-1, -1)


@dataclass(slots=True)
class Peer:
    """One other node. Times are the local monotonic clock, in seconds."""

    name: str
    held: Digest = field(default_factory=Digest)  # over both its tables
    flows: Table = field(init=False)
    expectations: Table = field(init=False)
    departed: Table = field(default_factory=Table)  # flows missing after its restart
    departed_until: float = 0.0
    inbox: Inbox = field(default_factory=Inbox)
    state: PeerState = PeerState.UNKNOWN
    # Lives of it that have not proved themselves: epoch -> (highest number, heard at).
    candidates: dict[int, tuple[int, float]] = field(default_factory=dict)
    challenge: int = 0  # the number of ours that one of them has to acknowledge
    challenged_at: float = 0.0
    keys: tuple[bytes, ...] = ()  # ids of the keys that it opens sealed frames with
    version: tuple[int, int] = (0, 0)
    capabilities: tuple[str, ...] = ()
    provable: bool = True  # does it prove its tables, and are losses put right?
    unknown_frames: int = 0  # of a later minor version's kinds
    source: str = ""
    sources: set[str] = field(default_factory=set)  # that this life was heard from
    rival_since: float = -1.0  # when another life of its name was first heard beside it
    rival_at: float = -1.0  # when two nodes of its name were last heard, -1 = one only
    rival_source: str = ""
    heard_at: float = 0.0
    suspended_until: float = 0.0  # too slow for the others: out of the window
    patience_s: float = 0.0  # of the next suspension, doubled each time
    suspensions: int = 0
    period_ends_at: float = math.inf  # see `refresh.py`
    full: bool = False  # at `peer_flows_limit`: its tables are not whole
    overflow: int = 0  # records of it that there was no room for
    progress_at: float = 0.0  # when it last acknowledged a frame that was new to it
    highest_acked: int = 0
    role: str = "backup"
    claim: int = 0
    was_primary: bool = False  # in a life before, and it does not know of it yet
    owner: bool = False  # does its table stand for traffic that nobody took over?
    taken: tuple[int, int] = NOT_TAKEN  # (epoch, claim) of the state we took over
    carried: bool = False  # was it primary since we took its state?
    taken_over: bool = False  # was all that it had committed here, after it was lost?
    swept: bool = False  # was it heard in full, in this life of it?
    remote_wants: int = 0  # what it wants of us, see `Inbox.wants`
    compare: int = 0  # comparisons that it asked for
    compared: bool = False  # has it proved itself in this life?
    buckets: int = 0  # of our copy of its tables that differed at its latest proof
    verdict: int = 0  # on our copy of its tables, at marker `verdict_marker`
    verdict_marker: int = 0
    inquiry: Inquiry = field(default_factory=Inquiry)
    asks: tuple[int, ...] = ()  # short names of records that it shall tell again
    unlisted: list[bytes] = field(default_factory=list)  # dropped by an inventory
    proven_at: float = -1.0  # when our copy of its tables last was equal
    incidents: int = 0  # in which it was not
    incident_at: float = -1.0  # when our copy turned out to be different
    incident_repaired: int = 0
    inbound_at: float = -1.0  # when our copy of its tables was last compared
    outbound_at: float = -1.0  # when its copy of ours was last compared
    inbound_equal: bool = False
    outbound_equal: bool = False
    outbound_buckets: int = 0  # of its copy of ours that differed
    outbound_marker: int = 0  # of ours, the latest that it gave a verdict on
    outbound_asks: int = 0  # names that it has asked for since
    outbound_differs_at: float = -1.0  # since when its copy of ours was not equal
    locate_at: float = 0.0  # when it is listed for it what differs, at the earliest
    pulled_at: float = -1e9  # when a difference last made us ask for everything
    pull_wait_s: float = 5.0  # until it may do so again
    audit: Audit = field(default_factory=Audit)  # of our copy
    fate: Told = field(default_factory=Told)  # what its kernel is set to
    differing: int = 0  # records that the running resync found different
    repaired: int = 0  # records that were put right after the first resync

    def __post_init__(self) -> None:
        self.flows = Table(self.held)
        self.expectations = Table(self.held)

    def move(self, event: PeerEvent) -> None:
        """Take one transition; an unlisted one is a bug."""
        self.state = TRANSITIONS[self.state, event]

    def take(self) -> None:
        """What it tells now is in this kernel, by a promotion."""
        self.taken = (self.inbox.epoch, self.claim)
        self.carried = False

    @property
    def live(self) -> bool:
        """Do we hear it and it hears us?"""
        state = self.state  # a set would hash it, and an Enum does that in Python
        return state is _IN_STEP or state is _SYNCING

    @property
    def agreed(self) -> bool:
        """Does neither side want anything of the other?"""
        return self.inbox.wants == SATISFIED and self.remote_wants == SATISFIED

    @property
    def differing_buckets(self) -> int:
        """How many buckets differed at the latest comparison, in either direction."""
        here = self.buckets if self.compared else 0
        return (here | self.outbound_buckets).bit_count()

    @property
    def completeness(self) -> float:
        """The share of its records that we hold and that is proven, by buckets."""
        if not self.compared:
            return 0.0
        return 1.0 - self.buckets.bit_count() / BUCKETS

    @property
    def verified(self) -> bool:
        """Were both copies equal when they were last compared?"""
        return (
            self.state is PeerState.IN_STEP
            and self.inbound_equal
            and self.outbound_equal
        )
