"""What an inspection of the copies has found, while one is going on.

In: keys that were found otherwise, and records that were put right since. Out: counts.
"""

from collections.abc import Callable, Iterable


class Findings:
    """Closed unless somebody asks."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[bytes, bool] | None = None  # is it put right?

    def open(self) -> None:
        """An inspection begins."""
        self._found = {}

    def close(self) -> None:
        """It is over."""
        self._found = None

    def note(self, key: bytes) -> None:
        """The kernel does not hold it as it is told."""
        if self._found is not None:
            self._found[key] = False

    def right(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """These are in the kernel now."""
        found = self._found
        if found:
            for key, _ in records:
                if key in found:
                    found[key] = True

    def counts(self, wanted: Callable[[bytes], bool]) -> tuple[int, int]:
        """How many were different, and how many of them still are and should not."""
        found = self._found or {}
        left = sum(not right and wanted(key) for key, right in found.items())
        return len(found), left
