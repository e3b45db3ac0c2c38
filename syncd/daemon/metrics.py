"""Counters as Prometheus text (exposition format 0.0.4).

In: the status object. Out: text, one family per figure, labels for peers and links.
The rule: nothing is counted here; what status says is what the metrics say.
"""

from collections.abc import Iterator, Mapping
from typing import Final

_PEER_FIGURES = ("flows", "expectations", "lag_frames")
_PEER_COUNTERS = ("lost_frames", "differences", "repaired", "suspensions", "overflow")
_LINK_COUNTERS = (
    "sent_bytes",
    "sent_frames",
    "send_errors",
    "received_bytes",
    "received_frames",
    "lost_frames",
    "kernel_drops",
    "switches",
    "failures",
)
_WARM_COUNTERS = ("created", "updated", "refreshed", "deleted", "repaired", "replanted")
_OUTPUT_FIGURES = (
    *(("written", "counter"), ("dropped", "counter"), ("failures", "counter")),
    ("waiting", "gauge"),
)
_KERNEL_COUNTERS = (
    *("events", "overruns", "lost_events", "resyncs"),
    *("audits", "audit_differences"),
)
_HELP: Final = {
    "ready": "Could this node take over now?",
    "role": "1 for the role of this node.",
    "uptime_seconds": "Age of the daemon.",
    "sealing": "Do frames leave encrypted and authenticated?",
    "flows": "Flows in the own table, and of all peers.",
    "expectations": "Expectations in the own table, and of all peers.",
    "ignored_records_total": "Records that were left out, by key of [filter].",
    "young_flows": "Flows that wait until they are old enough (min_age_s).",
    "kernel_events_total": "Events that the kernel reported.",
    "kernel_overruns_total": "How often the event queue was full.",
    "kernel_lost_events_total": "Events that did not fit into the queue.",
    "kernel_resyncs_total": "How often the kernel's table was read.",
    "kernel_audits_total": "Comparisons of the own tables with the kernel's.",
    "kernel_audit_differences_total": "Records that they found and put right.",
    "kernel_entries": "Entries of the kernel's table.",
    "kernel_limit": "net.netfilter.nf_conntrack_max",
    "peer_flows": "Flows that this peer told.",
    "peer_expectations": "Expectations that this peer told.",
    "peer_lag_frames": "Frames that this peer has not acknowledged yet.",
    "peer_last_heard_seconds": "Time since this peer was heard.",
    "peer_state": "1 for the state of this peer.",
    "peer_completeness": "Share of its state that is here and proven, 0 to 1.",
    "peer_differing_buckets": "Of 64, how many differed at the latest comparison.",
    "peer_last_verified_seconds": "Time since our copy was last found equal.",
    "peer_lost_frames_total": "Frames of this peer that never came, or too late.",
    "peer_differences_total": "How often our copy was found different.",
    "peer_repaired_total": "Records that were put right for it.",
    "peer_suspensions_total": "How often this peer was too slow for the others.",
    "peer_overflow_total": "Flows beyond peer_flows_limit, not kept.",
    "peer_verified": "Were both copies equal at their latest comparison?",
    "peer_settings_different": "Settings of its kernel that are not as here.",
    "cluster_refused_frames_total": "Frames of nodes that there is no place for.",
    "cluster_conflicts_total": "Frames refused for a node name that is in use.",
    "cluster_forgotten_total": "Peers that were away too long and forgotten.",
    "cluster_expired_total": "Records that expired (mode refresh).",
    "warm_planted": "Copies of peers' flows that this kernel holds.",
    "warm_waiting": "Changes of peers' flows that are not in this kernel yet.",
    "warm_failed": "Copies that this kernel refused, by reason.",
    "warm_created_total": "Copies that were written.",
    "warm_updated_total": "Copies that were brought up to date.",
    "warm_refreshed_total": "Copies whose timers were set again.",
    "warm_deleted_total": "Copies that were deleted with their flows.",
    "warm_repaired_total": "Copies that the kernel held otherwise than told.",
    "warm_replanted_total": "Copies that the kernel had lost.",
    "accounting_records_total": "Flows that ended and were recorded, by reason.",
    "accounting_held": "Ends that another node may still make untrue.",
    "accounting_elsewhere_total": "Ends of copies, and of flows of other nodes.",
    "accounting_overflow_total": "Ends that were held back and not kept.",
    "accounting_malformed_total": "Messages that made no record.",
    "accounting_written_total": "Records that went out.",
    "accounting_dropped_total": "Records for which there was no room.",
    "accounting_failures_total": "Errors of files and sockets.",
    "accounting_waiting": "Records that wait for a file or a socket.",
    "wildcard_expectations_not_told_total": "Expectations of any source kept back.",
    "wildcard_expectations_not_committed_total": "The same at commits, by reason.",
    "link_sent_bytes_total": "Bytes sent over this link.",
    "link_sent_frames_total": "Frames sent over this link.",
    "link_send_errors_total": "Frames that this link did not take.",
    "link_received_bytes_total": "Bytes received over this link.",
    "link_received_frames_total": "Frames received over this link.",
    "link_lost_frames_total": "Gaps that were seen on this link, in frames.",
    "link_kernel_drops_total": "Datagrams lost because receive_buffer was full.",
    "link_switches_total": "How often the link was taken into use or left.",
    "link_failures_total": "How often it lost a peer that other links reached.",
    "link_hears_peers": "Peers that are heard on this link.",
    "link_heard_by_peers": "Peers that say they hear this node on this link.",
    "link_state": "1 for the state of this link.",
    "link_rejected_frames_total": "Frames that were refused, by reason.",
}


def metrics_text(status: Mapping[str, object]) -> str:
    """All families, with a closing newline."""
    return "\n".join(_lines(status)) + "\n"


def _lines(status: Mapping[str, object]) -> Iterator[str]:
    yield from _family("ready", "gauge", [("", _flag(status["ready"]))])
    roles = [
        (_labels(role=role), _flag(status["role"] == role))
        for role in ("primary", "backup", "fault")
    ]
    yield from _family("role", "gauge", roles)
    yield from _family("uptime_seconds", "gauge", [("", str(status["uptime_s"]))])
    sealing = _mapping(status["security"])["sealing"]
    yield from _family("sealing", "gauge", [("", _flag(sealing))])
    tables = _mapping(status["tables"])
    for what in ("flows", "expectations"):
        samples = [
            (_labels(table=owner), str(_mapping(tables[owner])[what]))
            for owner in ("own", "peer")
        ]
        yield from _family(what, "gauge", samples)
    own = _mapping(tables["own"])
    ignored = [
        (_labels(key=key), str(count))
        for key, count in _mapping(own["ignored"]).items()
    ]
    yield from _family("ignored_records_total", "counter", ignored)
    yield from _family("young_flows", "gauge", [("", str(own["young"]))])
    kernel = _mapping(status["kernel"])
    for name in _KERNEL_COUNTERS:
        yield from _family(f"kernel_{name}_total", "counter", [("", str(kernel[name]))])
    for name in ("entries", "limit"):
        yield from _family(f"kernel_{name}", "gauge", [("", str(kernel[name]))])
    yield from _peer_lines(_rows(status["peers"]))
    for name, count in _mapping(status["cluster"]).items():
        yield from _family(f"cluster_{name}_total", "counter", [("", str(count))])
    if isinstance(warm := status.get("warm"), Mapping):
        yield from _warm_lines(warm)
    if isinstance(accounting := status.get("accounting"), Mapping):
        yield from _accounting_lines(accounting)
    yield from _wildcard_lines(_mapping(status["wildcard_expectations"]))
    yield from _link_lines(_rows(status["links"]))


def _peer_lines(peers: list[Mapping[str, object]]) -> Iterator[str]:
    for name in _PEER_FIGURES:
        samples = [(_labels(peer=peer["node"]), str(peer[name])) for peer in peers]
        yield from _family(f"peer_{name}", "gauge", samples)
    heard = [(_labels(peer=p["node"]), str(p["last_heard_s"])) for p in peers]
    yield from _family("peer_last_heard_seconds", "gauge", heard)
    states = [(_labels(peer=p["node"], state=p["state"]), "1") for p in peers]
    yield from _family("peer_state", "gauge", states)
    for name in ("completeness", "differing_buckets"):
        samples = [(_labels(peer=peer["node"]), str(peer[name])) for peer in peers]
        yield from _family(f"peer_{name}", "gauge", samples)
    proven = [
        (_labels(peer=peer["node"]), str(peer["last_verified_s"]))
        for peer in peers
        if peer["last_verified_s"] is not None
    ]
    yield from _family("peer_last_verified_seconds", "gauge", proven)
    for name in _PEER_COUNTERS:
        samples = [(_labels(peer=peer["node"]), str(peer[name])) for peer in peers]
        yield from _family(f"peer_{name}_total", "counter", samples)
    verified = [(_labels(peer=p["node"]), _flag(p["verified"])) for p in peers]
    yield from _family("peer_verified", "gauge", verified)
    settings = [
        (_labels(peer=p["node"]), str(len(_list(told["differences"]))))
        for p in peers
        if (told := _mapping(p["settings"]))["equal"] is not None
    ]
    yield from _family("peer_settings_different", "gauge", settings)


def _accounting_lines(accounting: Mapping[str, object]) -> Iterator[str]:
    records = [
        (_labels(reason=reason), str(count))
        for reason, count in _mapping(accounting["records"]).items()
    ]
    yield from _family("accounting_records_total", "counter", records)
    yield from _family("accounting_held", "gauge", [("", str(accounting["held"]))])
    for name in ("elsewhere", "overflow", "malformed"):
        samples = [("", str(accounting[name]))]
        yield from _family(f"accounting_{name}_total", "counter", samples)
    outputs = _rows(accounting["outputs"])
    for name, kind in _OUTPUT_FIGURES:
        total = "_total" if kind == "counter" else ""
        samples = [(_labels(output=one["name"]), str(one[name])) for one in outputs]
        yield from _family(f"accounting_{name}{total}", kind, samples)


def _warm_lines(warm: Mapping[str, object]) -> Iterator[str]:
    for name in ("planted", "waiting"):
        yield from _family(f"warm_{name}", "gauge", [("", str(warm[name]))])
    failed = [
        (_labels(reason=reason), str(count))
        for reason, count in _mapping(warm["failed"]).items()
    ]
    yield from _family("warm_failed", "gauge", failed)
    for name in _WARM_COUNTERS:
        yield from _family(f"warm_{name}_total", "counter", [("", str(warm[name]))])


def _wildcard_lines(wildcards: Mapping[str, object]) -> Iterator[str]:
    not_told = [("", str(wildcards["not_told"]))]
    yield from _family("wildcard_expectations_not_told_total", "counter", not_told)
    reasons = _mapping(wildcards["not_committed"])
    samples = [(_labels(reason=why), str(count)) for why, count in reasons.items()]
    name = "wildcard_expectations_not_committed_total"
    yield from _family(name, "counter", samples)


def _link_lines(links: list[Mapping[str, object]]) -> Iterator[str]:
    labels = [  # links may share an interface
        _labels(link=link["interface"], place=place)
        for place, link in enumerate(links, 1)
    ]
    for name in _LINK_COUNTERS:
        samples = [
            (at, str(link[name])) for at, link in zip(labels, links, strict=True)
        ]
        yield from _family(f"link_{name}_total", "counter", samples)
    for name in ("hears", "heard_by"):
        counts = [
            (at, str(len(_list(link[name]))))
            for at, link in zip(labels, links, strict=True)
        ]
        yield from _family(f"link_{name}_peers", "gauge", counts)
    link_states = [
        (_labels(link=link["interface"], place=place, state=link["state"]), "1")
        for place, link in enumerate(links, 1)
    ]
    yield from _family("link_state", "gauge", link_states)
    rejected = [
        (_labels(link=link["interface"], place=place, reason=reason), str(count))
        for place, link in enumerate(links, 1)
        for reason, count in _mapping(link["rejected_frames"]).items()
    ]
    yield from _family("link_rejected_frames_total", "counter", rejected)


def _family(name: str, kind: str, samples: list[tuple[str, str]]) -> Iterator[str]:
    if samples:
        yield f"# HELP syncd_{name} {_HELP[name]}"
        yield f"# TYPE syncd_{name} {kind}"
        for labels, value in samples:
            yield f"syncd_{name}{labels} {value}"


def _labels(**labels: object) -> str:
    pairs = []
    for name, value in labels.items():
        text = str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        pairs.append(f'{name}="{text}"')
    return "{" + ",".join(pairs) + "}"


def _flag(value: object) -> str:
    return "1" if value is True else "0"


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _rows(value: object) -> list[Mapping[str, object]]:
    assert isinstance(value, list)
    return value
