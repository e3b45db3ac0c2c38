"""A copy that changes without anybody's doing: a bug, or a bad memory cell.

In: a node, and whose copy. Out: one record of it that is not as it was told. The rule:
the watch is told, for all else has to stay true.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.node import SimulatedNode


_ONE_BYTE = 5  # the length of such an attribute


def corrupt(node: "SimulatedNode", what: str, of: str) -> None:
    """One record of a copy changes in silence: `flip`, `drop` or `add`."""
    known = node.engine is not None and not node.old
    peer = node.running.peers.get(of) if known else None
    if peer is None or not peer.flows.bodies:
        return
    table = peer.flows
    key = node.rng.choice(list(table.bodies))
    body = table.bodies[key]
    if what == "add":
        # The last value has one byte, or two: what follows them is padding.
        at = len(key) - (4 if key[-8] == _ONE_BYTE else 3)
        key = key[:at] + bytes((key[at] ^ 0x80,)) + key[at + 1 :]
        if key in table.bodies:
            return
    node.watch.excuse(node.name, of, "flows", key)
    node.note(f"{what} {key.hex()} of {of} in silence")
    if what == "drop":
        del table.bodies[key], table.told_s[key]
        table.stale.discard(key)
    else:
        table.bodies[key] = body[:-1] + bytes((body[-1] ^ 1,))
        table.told_s.setdefault(key, 0)
