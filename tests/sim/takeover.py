"""What `syncd promote` does around the engine, in virtual time.

In: a node that shall carry the traffic. Out: the peers' flows in its kernel, its role,
and later, as the daemon does it, the same flows in its own table. The rule: which flows
count decides the code that decides it in the daemon; what a kernel makes of them is the
model's, and is checked here: it holds what was chosen and what it had, nothing else.
"""

from typing import TYPE_CHECKING

from syncd.flows.batch import TimedRecord
from syncd.flows.selection import select
from syncd.replication.roles import PRIMARY, ranked_flows, sources

from tests.sim.ctnetlink import TCP, Facts
from tests.sim.decode import flow_facts
from tests.sim.kernel import Entry
from tests.sim.watch import Violation

if TYPE_CHECKING:
    from tests.sim.node import SimulatedNode

_TIMEOUT_S = 432000
_BE_LIBERAL = 0x08
_ADOPTED_S = 0.03  # after the commit, at most


def take_over(node: "SimulatedNode") -> list[Entry]:
    """Put the peers' flows into this kernel, then take the role; what was created."""
    if node.adopting is not None:  # the daemon waits for it
        node.adopting()
    engine, kernel = node.running, node.kernel
    own = engine.own.flows
    peers = sources(engine.peers.values())
    told, ranks = ranked_flows(peers, engine.roles)
    chosen = list(select(told, own, node.local.now, take_held=True, ranks=ranks))
    before = dict(kernel.flows)
    own.disturbed = set()
    created: list[Entry] = []
    adopted: list[TimedRecord] = []
    for record in chosen:
        entry = _commit(node, record)
        if entry is not None:
            adopted.append(record)
            if record[0] not in before:
                created.append(entry)
    _check(node, before, chosen, adopted)
    _check_complete(node, {key for key, _, _ in chosen})
    if len(adopted) == len(chosen):
        for peer in peers:
            peer.take()
    # Ends that are held back come true with the role: the own table has to know.
    _adopt_within(node, 0.0 if own.held else _ADOPTED_S, adopted)
    return created


def _commit(node: "SimulatedNode", record: TimedRecord) -> Entry | None:
    """Create or update one flow; None if the kernel refuses."""
    kernel, (key, body, _) = node.kernel, record
    facts = as_injected(flow_facts(key, body))
    entry = kernel.flows.get(key)
    if entry is None:
        return None if kernel.is_full else kernel.inject(facts, _TIMEOUT_S)
    if (facts.reply, facts.helper) != (entry.facts.reply, entry.facts.helper):
        return None  # another flow of this tuple: NAT cannot be changed
    facts = entry.facts._replace(
        status=facts.status, tracker=facts.tracker, labels=facts.labels, mark=facts.mark
    )
    entry.set(facts, ("STATUS", "PROTOINFO", "LABELS", "MARK"))
    entry.hidden = False
    return entry


def _check(
    node: "SimulatedNode",
    before: dict[bytes, Entry],
    chosen: list[TimedRecord],
    adopted: list[TimedRecord],
) -> None:
    """Exactly what was there and what was chosen, each once and as it was told."""
    flows = node.kernel.flows
    keys = [key for key, _, _ in chosen]
    if len(set(keys)) != len(keys):
        raise Violation(f"{node.name} commits a flow twice")
    resurrected = flows.keys() - before.keys() - set(keys)
    missing = (before.keys() | set(keys)) - flows.keys()
    if resurrected or (missing and not node.kernel.is_full):
        raise Violation(
            f"{node.name} after a takeover: {len(missing)} flows missing, "
            f"{len(resurrected)} that nobody told of"
        )
    for key, body, _ in adopted:
        told, facts = as_injected(flow_facts(key, body)), flows[key].facts
        if key in before:
            told = told._replace(
                master=facts.master,
                adjust_orig=facts.adjust_orig,
                adjust_reply=facts.adjust_reply,
                synproxy=facts.synproxy,
            )
        if facts != told:
            raise Violation(f"{node.name} took {key.hex()} over as {facts}: {told}")


def _check_complete(node: "SimulatedNode", chosen: set[bytes]) -> None:
    """What a living primary tells is here now, was refused, or has just ended here."""
    engine = node.running
    there = node.kernel.flows.keys() | chosen | engine.own.flows.bodies.keys()
    for peer in engine.peers.values():
        if peer.live and peer.role == PRIMARY:
            lost = peer.flows.bodies.keys() - there
            if lost:
                raise Violation(
                    f"{node.name} is promoted without {len(lost)} flows of {peer.name}"
                )


def _adopt_within(
    node: "SimulatedNode", seconds: float, records: list[TimedRecord]
) -> None:
    """After a commit: its records become own, and the kernel is read anew."""

    def adopt() -> None:
        if node.adopting is not adopt:
            return  # the next commit was sooner
        if node.paused:
            node.later(0.01, adopt)
            return
        node.adopting = None
        node.watch.adopted(node.name, (key for key, _, _ in records))
        if node.running.own.flows.disturbed is None:  # ends were lost since, too
            node.uncertain, node.dumped = True, False
        node.running.own.adopt(records)
        node.running.own.flows.disturbed = None
        node.command("resync kernel")
        node.watch.own(node)

    node.adopting = adopt
    node.later(node.rng.uniform(0.0, seconds), adopt) if seconds else adopt()


def as_injected(facts: Facts) -> Facts:
    """What the kernel makes of it (reference: the seven edits of an injection)."""
    tracker = facts.tracker
    if tracker is not None and facts.orig.protocol == TCP:
        tracker = tracker._replace(
            orig_flags=tracker.orig_flags & 7 | _BE_LIBERAL,
            reply_flags=tracker.reply_flags & 7 | _BE_LIBERAL,
        )
    return facts._replace(tracker=tracker)
