"""Which keys does a dump have to show, and has not shown yet?

In: the keys that are there when it begins, and those that it shows. Out: what is left
at its end. The rule: half a million keys are noted and looked through in parts, so that
others get their turn between two of them; only references are kept.
"""

from collections.abc import Iterable


class RollCall:
    """The roll of one dump; `unseen` is what it has not shown so far."""

    __slots__ = ("_waiting", "unseen")

    def __init__(self) -> None:
        self.unseen: set[bytes] = set()
        self._waiting: list[bytes] = []  # to be noted

    def __bool__(self) -> bool:
        """Is there anything that a dump has still to show?"""
        return bool(self._waiting or self.unseen)

    def begin(self, keys: Iterable[bytes]) -> None:
        """A dump begins that has to show these keys."""
        self.unseen = set()
        self._waiting = list(keys)

    def note(self, limit: int) -> bool:
        """Note so many of them; is there more to do?"""
        waiting = self._waiting
        if len(waiting) > limit:
            self.unseen.update(waiting[-limit:])
            del waiting[-limit:]
            return True
        self.unseen.update(waiting)
        self._waiting = []
        return False

    def saw(self, key: bytes) -> None:
        """The dump shows this key, or something else says that it is there."""
        if self._waiting:
            self.note(len(self._waiting))
        self.unseen.discard(key)

    def take(self, limit: int) -> list[bytes]:
        """Up to so many keys that it has not shown, each of them once."""
        if self._waiting:
            self.note(len(self._waiting))
        unseen = self.unseen
        return [unseen.pop() for _ in range(min(limit, len(unseen)))]
