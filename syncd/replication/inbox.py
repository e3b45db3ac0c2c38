"""What one peer tells us: order, gaps, restarts, and the state of its resync.

In: the epoch and number of each frame of that peer. Out: whether the frame is to be
taken, and what we acknowledge. The rule of the room: numbers only go up. A frame that
comes after a later one is dropped and counts as lost (it may hold older state), its
flows come again in a later frame.

Resync, seen from here: `wants` is -1 when nothing is wanted, else any pass with a
higher number is. The first DATA frame of such a pass begins the sweep (`begun`), the
sender's word that we have been told everything of it ends the sweep. It is not true
where we have forgotten which frames were lost (`holes`): such a pass counts as none.
"""

from collections import deque

SATISFIED = -1
_RANGES_LIMIT = 128  # lost ranges that are remembered until the sender knows of them
_EPOCHS_LIMIT = 16  # ended lives of a peer that are remembered


class Inbox:
    """Sequence accounting of one peer; survives its restarts."""

    __slots__ = (
        "_ended_epochs",
        "begun",
        "epoch",
        "first",
        "highest",
        "holes",
        "late_frames",
        "latest_pass",
        "lost",
        "lost_frames",
        "service",
        "wants",
    )

    def __init__(self) -> None:
        self.epoch = 0  # 0 = no life of the peer is known
        self.first = 0  # number of the frame that this life began with here
        self.highest = 0
        self.lost: list[tuple[int, int]] = []
        self.wants = 0
        self.begun = 0
        self.latest_pass = 0
        self.holes = False  # were lost frames forgotten, maybe those of a pass?
        self.lost_frames = 0
        self.late_frames = 0
        self._ended_epochs: deque[int] = deque(maxlen=_EPOCHS_LIMIT)

    def is_ended(self, epoch: int) -> bool:
        """Is this a life of the peer that we know to be over?"""
        return epoch in self._ended_epochs

    def open(self, epoch: int, number: int) -> None:
        """The first frame of a life of the peer: count from here, want everything."""
        if self.epoch:
            self._ended_epochs.append(self.epoch)
        self.epoch = epoch
        self.first = self.highest = number
        self.lost = []
        self.wants = 0
        self.begun = 0
        self.latest_pass = 0
        self.holes = False
        self.service = 0

    def accept(self, number: int) -> bool:
        """Count one frame; False when it is late or came twice: drop it."""
        if number <= self.highest:
            self.late_frames += 1
            return False
        if number > self.highest + 1:
            self.lost.append((self.highest + 1, number - 1))
            self.lost_frames += number - self.highest - 1
            if len(self.lost) > _RANGES_LIMIT:
                self.lost = []
                self.holes = True
                self.want_resync()
        self.highest = number
        return True

    def forget_below(self, floor: int) -> None:
        """The sender needs no word any more about frames below `floor`."""
        if self.lost and self.lost[0][0] < floor:
            self.lost = [
                (max(first, floor), last) for first, last in self.lost if last >= floor
            ]

    def want_resync(self) -> None:
        """Ask for a pass that starts later than any that was seen so far."""
        self.wants = max(self.wants, self.latest_pass)
        self.begun = 0

    def served(self, number: int) -> None:
        """The sender serves us; a new number says that we may have missed much."""
        if number != self.service:
            self.service = number
            self.want_resync()

    def begins(self, number: int) -> bool:
        """A frame of pass `number`: does a wanted pass begin with it?"""
        if number <= self.latest_pass:
            return False
        self.latest_pass = number
        holes, self.holes = self.holes, False
        if self.wants == SATISFIED:
            return False
        if holes:
            self.wants = number  # its begin may be among what we forgot
            return False
        self.begun = number
        return True

    def completes(self, number: int) -> bool:
        """The sender says that pass `number` was told in full: is it ours?"""
        if self.wants == SATISFIED or number <= self.wants:
            return False
        if number > self.latest_pass:
            self.wants = self.latest_pass = number  # all of it is among what we forgot
        if self.begun != number:
            return False
        self.wants = SATISFIED
        self.begun = 0
        return True
