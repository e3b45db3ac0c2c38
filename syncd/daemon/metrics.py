"""Counters as Prometheus text (exposition format 0.0.4).

In: the status object. Out: text, one family per figure, labels for peers and links.
The rule: nothing is counted here; what status says is what the metrics say.
"""

from collections.abc import Iterator, Mapping

_PEER_FIGURES = ("flows", "expectations", "lag_frames", "last_heard_s", "lost_frames")
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
_KERNEL_COUNTERS = ("events", "overruns", "lost_events", "resyncs")


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
    tables = _mapping(status["tables"])
    for what in ("flows", "expectations"):
        samples = [
            (_labels(table=owner), str(_mapping(tables[owner])[what]))
            for owner in ("own", "peer")
        ]
        yield from _family(what, "gauge", samples)
    kernel = _mapping(status["kernel"])
    for name in _KERNEL_COUNTERS:
        yield from _family(f"kernel_{name}_total", "counter", [("", str(kernel[name]))])
    for name in ("entries", "limit"):
        yield from _family(f"kernel_{name}", "gauge", [("", str(kernel[name]))])
    peers = _rows(status["peers"])
    for name in _PEER_FIGURES:
        samples = [(_labels(peer=peer["node"]), str(peer[name])) for peer in peers]
        yield from _family(f"peer_{name}", "gauge", samples)
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
    for name in ("differences", "repaired", "suspensions", "overflow"):
        samples = [(_labels(peer=peer["node"]), str(peer[name])) for peer in peers]
        yield from _family(f"peer_{name}_total", "counter", samples)
    verified = [(_labels(peer=p["node"]), _flag(p["verified"])) for p in peers]
    yield from _family("peer_verified", "gauge", verified)
    for name, count in _mapping(status["cluster"]).items():
        yield from _family(f"cluster_{name}_total", "counter", [("", str(count))])
    yield from _link_lines(_rows(status["links"]))


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
