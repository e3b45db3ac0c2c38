"""Own flows that a peer has seen more of: they are brought forward, never back.

In: keys of such flows. Out: a step that asks the kernel for it. The rule: what is asked
for follows from what is known when the step is taken, for the kernel goes on meanwhile.
"""

from collections.abc import Callable

from syncd.flows.forward import advance, bring
from syncd.flows.own import Own
from syncd.replication.steps import Step, Task, WarmCounts
from syncd.replication.told import Told


class Forwarding:
    """Of one node; `told` says whose word of a key counts."""

    __slots__ = ("_counts", "_keys", "_own", "_told")

    def __init__(
        self, own: Own, told: Callable[[bytes], Told | None], counts: WarmCounts
    ) -> None:
        self._own = own
        self._told = told
        self._counts = counts
        self._keys: dict[bytes, None] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def note(self, key: bytes, ours: bytes, theirs: bytes) -> None:
        """Bring this one forward if the peer's state is further."""
        if advance(ours, theirs):
            self._keys[key] = None

    def step(self) -> Step:
        """All that was noted."""
        keys = list(self._keys)
        messages: list[bytes] = []
        self._keys.clear()
        for key in keys:
            ours, told = self._own.flows.bodies.get(key), self._told(key)
            if ours and told and (further := advance(ours, told[1])):
                messages.append(bring(key, further, len(messages) + 1, ours))
        self._counts.advanced += len(messages)
        return Step(Task.ADVANCE, keys, messages=messages)
