"""For how long has the oldest change of the peers been waiting for this kernel?

In: once a beat, the rounds of a warm standby and whether it has nothing to do. Out: the
seconds since which all is in the kernel. The rule: when the second round after a moment
begins, all that was known at that moment is through.
"""

BEHIND_S = 2.0  # so far behind a standby is not ready; a beat takes hundredths


class Lag:
    """Of one standby."""

    __slots__ = ("_marked_at", "_round", "_through_at")

    def __init__(self) -> None:
        self._through_at: float | None = None  # what was told before is in the kernel
        self._marked_at = 0.0  # a moment
        self._round = 0  # in which it was

    def look(self, rounds: int, *, idle: bool, now: float) -> None:
        """A beat begins, in this round."""
        if self._through_at is None or idle:
            self._through_at = now
        elif rounds >= self._round + 2:
            self._through_at = self._marked_at
        else:
            return
        self._marked_at, self._round = now, rounds

    @property
    def known(self) -> bool:
        """Was there a beat?"""
        return self._through_at is not None

    def seconds(self, now: float) -> float:
        """If something is waiting: for so long, at most."""
        return 0.0 if self._through_at is None else now - self._through_at
