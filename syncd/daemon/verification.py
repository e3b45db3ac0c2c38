"""`verify`: is what peers tell here, what we tell there, and is this kernel alike?

In: live peers, a limit of time. Out: one answer. The rule: it ends in time, whatever
happens meanwhile, and nothing waits for it; what was not compared is not called equal.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from syncd.daemon.commands import Answer
from syncd.daemon.fate import fate_object
from syncd.errors import ControlError
from syncd.flows.digest import ALL_BUCKETS
from syncd.replication.peer import Peer
from syncd.replication.settings import RELIABLE

if TYPE_CHECKING:
    from syncd.daemon.node import Node

_LIMIT_S: Final = 60.0  # when the command names none
_FATES_S: Final = 2.0  # for peers to tell what their kernels are set to
_LOOK_S: Final = 0.01


async def verify(node: "Node", peers: list[Peer], timeout_s: float | None) -> Answer:
    """Compare with these peers, of which some may be dead; see the manual."""
    live = [peer for peer in peers if peer.live]
    if not live:
        raise ControlError("verify: no live peer to compare with")
    end = time.monotonic() + (_LIMIT_S if timeout_s is None else timeout_s)
    kernel = None
    if node.warm is not None:
        kernel = asyncio.create_task(node.warm.verify(end))
    try:
        answer = await _compare(node, live, end)
        if kernel is not None:
            answer["kernel"] = found = await kernel
            if error := kernel_error(found):
                answer["ok"] = False
                answer.setdefault("error", error)
    finally:
        if kernel is not None:
            kernel.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((kernel,))
    return answer


async def _compare(node: "Node", live: list[Peer], end: float) -> Answer:
    """Our copies of the peers' tables, and theirs of ours."""
    engine = node.engine
    peers = [peer for peer in live if "digest" in peer.capabilities]
    mute = [peer.name for peer in live if peer not in peers]
    await _read_fates(node, live, end)
    asked, marker = time.monotonic(), engine.comparison.marker
    repaired = {peer.name: peer.repaired for peer in peers}
    # What was flushed, or is not here in full yet, is different before we look.
    buckets = {peer.name: 0 if peer.swept else ALL_BUCKETS for peer in peers}

    def judged() -> bool:
        fresh = True
        for peer in peers:
            if peer.inbound_at >= asked and not peer.inbound_equal:
                buckets[peer.name] |= peer.buckets
            if peer.outbound_marker > marker and not peer.outbound_equal:
                buckets[peer.name] |= peer.outbound_buckets
            fresh &= peer.inbound_at >= asked
            fresh &= peer.outbound_marker > marker and peer.outbound_at >= asked
        return fresh

    def lost() -> list[str]:
        return [peer.name for peer in peers if not peer.live]

    engine.verify(asked)
    node.pump()
    await _until(lambda: judged() or bool(lost()), end)
    compared = judged() and not mute
    different = [name for name, found in buckets.items() if found]
    if different and engine.settings.mode == RELIABLE:
        node.pump()
        await _until(lambda: all(p.verified for p in peers) or bool(lost()), end)
    rows: list[Answer] = [
        {"node": name, "equal": False, "error": "protocol 1.0 cannot compare"}
        for name in mute
    ]
    for peer in peers:
        differing = buckets[peer.name].bit_count()
        located = peer.repaired - repaired[peer.name]
        rows.append(
            {
                "node": peer.name,
                "equal": compared and not differing,
                "different": max(differing, located),  # at least
                "differing_buckets": differing,
                "repaired": located,
                "verified": peer.verified,
                "settings": fate_object(peer.fate),
            }
        )
    answer: Answer = {"ok": compared and not different, "peers": rows}
    if error := peers_error(different, mute, lost(), compared=compared):
        answer["error"] = error
    return answer


async def _read_fates(node: "Node", peers: list[Peer], end: float) -> None:
    """Read what this kernel is set to; wait for peers that did not tell theirs."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(min(end, time.monotonic() + _FATES_S)):
            await node.fate.read()
    node.pump()
    await _until(
        lambda: all(
            peer.fate.differences is not None
            for peer in peers
            if peer.fate.digest and peer.live
        ),
        min(end, time.monotonic() + _FATES_S),
    )


async def _until(condition: Callable[[], bool], end: float) -> None:
    """Wait for the condition, or for the end."""
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_S)


def peers_error(
    different: list[str], mute: list[str], lost: list[str], *, compared: bool
) -> str:
    """Why the peers' part of the answer is no, or nothing."""
    if different:
        return "different: " + ", ".join(sorted(different))
    if mute:
        return (
            f"verify: {', '.join(sorted(mute))} cannot compare: protocol 1.0, which it "
            "speaks, has no digests; install the same version of syncd there"
        )
    if compared:
        return ""
    if lost:
        return f"verify: {', '.join(sorted(lost))} was lost meanwhile"
    return "verify: no moment without missing frames in time"


def kernel_error(found: Answer) -> str:
    """Why the kernel's part of the answer of a warm standby is no, or nothing."""
    different, repaired = found["different"], found["repaired"]
    if different:
        return f"this kernel: {different} copies were different, {repaired} repaired"
    if found["refused"]:
        return f"this kernel: {found['refused']} copies are refused by it"
    if not found["complete"]:
        return "this kernel: its copies could not be compared in time"
    return ""
