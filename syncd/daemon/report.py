"""What `syncd status` says: the object of docs/operation.md, nothing estimated.

In: the engine, the links, the kernel's counters. Out: one JSON object.
"""

from dataclasses import dataclass

from syncd import __version__, build
from syncd.daemon.fate import fate_object
from syncd.link.facts import LinkState, LinkStatus
from syncd.replication.engine import ReplicationEngine
from syncd.replication.paths import PathState, PathStatus
from syncd.replication.peer import Peer

REASONS = ("auth", "replay", "malformed", "version")


@dataclass(slots=True)
class KernelReport:
    """What the daemon knows about its kernel when status is asked."""

    events: int = 0
    overruns: int = 0
    lost_events: int = 0
    resyncs: int = 0
    entries: int = 0
    limit: int = 0
    receive_buffer: int = 0
    audits: int = 0
    audit_differences: int = 0
    last_audit: dict[str, object] | None = None


@dataclass(slots=True)
class LinkReport:
    """One link's own status, what the engine refused of it, and what it is good for."""

    status: LinkStatus
    rejected: dict[str, int]
    path: PathStatus


def status_object(
    engine: ReplicationEngine,
    links: list[LinkReport],
    kernel: KernelReport,
    last_commit: dict[str, object] | None,
    started_at: float,
    now: float,
) -> dict[str, object]:
    """The whole status object of interface.md, and what we add to it."""
    peers = list(engine.peers.values())
    lost = sum(peer.inbox.lost_frames for peer in peers)
    return {
        "node": engine.node,
        "version": __version__,
        "build": build.name(),
        "epoch": f"{engine.epoch:x}",
        "uptime_s": round(now - started_at, 3),
        "role": engine.roles.role,
        "claim": engine.roles.claim,
        "owner": engine.roles.owner(peers),
        "ready": engine.ready,
        "mode": engine.settings.mode,
        "name_conflict": engine.agreement.membership.twin_source or None,
        "cluster": _cluster(engine),
        "security": _security(engine),
        "lacking": engine.lacking,
        "tables": {
            "own": {
                "flows": len(engine.own.flows),
                "expectations": len(engine.own.expectations),
                "held_ends": len(engine.own.flows.held)
                + len(engine.own.expectations.held),
                "marked": len(engine.own.flows.marks)
                + len(engine.own.expectations.marks),
                "filtered": engine.own.ignored,
                "ignored": engine.admission.ignored_by_key(),
                "young": len(engine.admission.young.flows),
                "oversized": engine.outbox.oversized,
            },
            "peer": {
                "flows": sum(len(peer.flows) for peer in peers),
                "expectations": sum(len(peer.expectations) for peer in peers),
            },
        },
        "peers": [_peer(engine, peer, now) for peer in peers],
        "links": [_link(link, lost) for link in links],
        "kernel": _kernel(engine, kernel),
        "commit": {"last": last_commit},
        "wildcard_expectations": _wildcards(engine),
    }


def _wildcards(engine: ReplicationEngine) -> dict[str, object]:
    """What became of expectations that any source may meet."""
    wildcards = engine.own.wildcards
    return {
        "policy": wildcards.word,
        "not_told": wildcards.not_told,
        "not_committed": dict(wildcards.not_committed),
    }


def _kernel(engine: ReplicationEngine, kernel: KernelReport) -> dict[str, object]:
    return {
        "events": kernel.events,
        "overruns": kernel.overruns,
        "lost_events": kernel.lost_events,
        "resyncs": kernel.resyncs,
        "entries": kernel.entries,
        "limit": kernel.limit,
        "receive_buffer": kernel.receive_buffer,
        "audits": kernel.audits,
        "audit_differences": kernel.audit_differences,
        "last_audit": kernel.last_audit,
        "malformed": engine.reader.malformed,
        "echoes": engine.reader.echoes,
    }


def _security(engine: ReplicationEngine) -> dict[str, object]:
    security = engine.sealer.security
    return {
        "mode": security.mode,
        "sealing": engine.sealing,
        "key": security.sending.hex(),
    }


def _cluster(engine: ReplicationEngine) -> dict[str, object]:
    """Counters about nodes that are no peers, or none any more."""
    membership = engine.agreement.membership
    return {
        "refused_frames": membership.refused,
        "conflicts": membership.conflicts,
        "forgotten": membership.forgotten,
        "expired": engine.agreement.refresh.expired,
    }


def _peer(engine: ReplicationEngine, peer: Peer, now: float) -> dict[str, object]:
    outbox = engine.outbox
    acked = outbox.acked.get(peer.name)
    lag = 0 if acked is None else sum(number > acked for number in outbox.unacked)
    return {
        "node": peer.name,
        "state": peer.state.value,
        "flows": len(peer.flows),
        "expectations": len(peer.expectations),
        "lag_frames": lag,
        "last_heard_s": round(max(now - peer.heard_at, 0.0), 3),
        "verified": peer.verified,
        "completeness": round(peer.completeness, 4),
        "differing_buckets": peer.differing_buckets,
        "last_verified_s": _age(peer.proven_at, now),
        "role": peer.role,
        "claim": peer.claim,
        "owner": peer.owner,
        "epoch": f"{peer.inbox.epoch:x}",
        "source": peer.source,
        "protocol": ".".join(map(str, peer.version)),
        "unknown_frames": peer.unknown_frames,
        "suspensions": peer.suspensions,
        "full": peer.full,
        "overflow": peer.overflow,
        "name_conflict": peer.rival_source or None,
        "lost_frames": peer.inbox.lost_frames,
        "late_frames": peer.inbox.late_frames,
        "differences": peer.incidents,
        "repaired": peer.repaired,
        "settings": fate_object(peer.fate),
    }


def _age(at: float, now: float) -> float | None:
    """Seconds since then, None if it never was."""
    return round(max(now - at, 0.0), 3) if at >= 0 else None


def _link(link: LinkReport, lost_frames: int) -> dict[str, object]:
    """Frames are lost by a stream, not by a link: those in use show them all."""
    status, path = link.status, link.path
    rejected = dict.fromkeys(REASONS, 0) | link.rejected
    rejected["source"] = status.rejected_frames
    waiting = status.state is LinkState.WAITING
    in_use = path.state is PathState.ACTIVE
    told = {
        "interface": status.interface,
        "type": status.type,
        "state": str(status.state if waiting else path.state),
        "reason": status.reason,
        "hears": list(path.hears),
        "heard_by": list(path.heard_by),
        "switches": path.switches,
        "last_switch_s": path.last_switch_s,
        "failures": path.failures,
        "hold_s": round(path.hold_s, 1),
        "narrow": path.narrow,
        "sent_bytes": status.sent_bytes,
        "sent_frames": status.sent_frames,
        "send_errors": status.send_errors,
        "received_bytes": status.received_bytes,
        "received_frames": status.received_frames,
        "lost_frames": lost_frames if in_use else 0,
        "rejected_frames": rejected,
        "kernel_drops": status.kernel_drops,
        "frame_bytes": min(status.frame_bytes, path.frame_bytes or status.frame_bytes),
        "receive_buffer": status.receive_buffer,
        "send_buffer": status.send_buffer,
    }
    if status.type == "tcp":
        told["connections"] = status.connections
        told["broken_streams"] = status.broken_streams
    return told
