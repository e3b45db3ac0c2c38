"""`syncd status`: the daemon's status object comes in, a page for the eye goes out.

`syncd metrics`: the same figures come in as Prometheus text, and go out as they are.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping

from syncd.cli import client
from syncd.cli.verbs import counts_text, set_otherwise

Part = Mapping[str, object]


def run(arguments: argparse.Namespace) -> int:
    """Ask, print, give the exit status."""
    options = {"timeout": arguments.timeout}
    answer = client.ask_once(arguments.socket, arguments.command, options, quick=True)
    if arguments.json:
        print(json.dumps(answer, indent=2))
    elif answer.get("ok") is True:
        metrics = answer.get("text")
        print(metrics or "\n".join(page(answer)), end="" if metrics else "\n")
    else:
        print(f"syncd: {answer.get('error', 'the daemon refused')}", file=sys.stderr)
    return client.outcome(answer)


def page(status: Part) -> list[str]:
    """The lines; what the object has not is shown as `?`."""
    ready = "ready" if status.get("ready") is True else "not ready"
    if status.get("lacking"):
        ready += f", lacking: {status['lacking']}"
    elif status.get("name_conflict"):
        ready += f", {status['name_conflict']} has the same name"
    lines = [
        f"{_of(status, 'node')}: {_of(status, 'role')}, {ready}"
        f" (syncd {_of(status, 'version')}, up {_duration(status.get('uptime_s'))})"
    ]
    if unsealed := _unsealed(_part(status, "security")):
        lines += _block("frames", [[unsealed]])
    tables = _part(status, "tables")
    rows = []
    for owner in ("own", "peer"):
        table = _part(tables, owner)
        rows.append([owner, *_sizes(table)])
    lines += _block("tables", rows)
    lines += _block("peers", [_peer(peer) for peer in _parts(status, "peers")])
    found = [
        [_of(peer, "node"), line]
        for peer in _parts(status, "peers")
        for line in set_otherwise(peer)
    ]
    if found:
        lines += _block("kernels", found)
    lines += _block("links", [_link(link) for link in _parts(status, "links")])
    kernel = _part(status, "kernel")
    lines += _block(
        "kernel",
        [
            [
                f"{_of(kernel, 'entries')} of {_of(kernel, 'limit')} entries",
                *[
                    f"{_of(kernel, name)} {name}"
                    for name in ("events", "overruns", "resyncs")
                ],
            ]
        ],
    )
    if isinstance(warm := status.get("warm"), Mapping):
        lines += _block("warm", [_warm(warm)])
    if isinstance(accounting := status.get("accounting"), Mapping):
        outputs = _parts(accounting, "outputs")
        lines += _block("account", [_output(output) for output in outputs])
    last = _part(_part(status, "commit"), "last")
    lines += _block("commit", [[counts_text(last) or "none yet"]])
    return lines


def _warm(warm: Part) -> list[str]:
    failed = ", ".join(
        f"{number} {reason}" for reason, number in _part(warm, "failed").items()
    )
    return [
        f"{_of(warm, 'planted')} copies in this kernel",
        f"{_of(warm, 'waiting')} waiting",
        f"{_of(warm, 'refreshed')} refreshed",
        f"failed {failed or 0}",
    ]


def _output(output: Part) -> list[str]:
    row = [_of(output, "name"), f"{_of(output, 'written')} records written"]
    row += [f"{_of(output, name)} {name}" for name in ("waiting", "dropped")]
    return [*row, f"failing: {output['failing']}"] if output.get("failing") else row


def _unsealed(security: Part) -> str:
    """Nothing where all is sealed, as it is by default."""
    mode = security.get("mode")
    if mode in (None, "enforce"):
        return ""
    leave = "sealed" if security.get("sealing") is True else "in the open"
    return f"leave {leave}, [security] mode {mode}"


def _peer(peer: Part) -> list[str]:
    verified = "verified" if peer.get("verified") is True else "not verified"
    if peer.get("verified") is not True and isinstance(peer.get("completeness"), float):
        verified = f"{peer['completeness']:.1%} proven"
    return [
        _of(peer, "node"),
        _of(peer, "state"),
        *_sizes(peer),
        f"lag {_of(peer, 'lag_frames')} frames",
        f"heard {_duration(peer.get('last_heard_s'))} ago",
        verified,
    ]


def _link(link: Part) -> list[str]:
    rejected = _part(link, "rejected_frames")
    numbers = [number for number in rejected.values() if isinstance(number, int)]
    reasons = ", ".join(
        f"{number} {name}" for name, number in rejected.items() if number
    )
    state = _of(link, "state")
    if state == "waiting" and link.get("reason"):
        state += f": {link['reason']}"
    return [
        _of(link, "interface"),
        _of(link, "type"),
        state,
        f"hears {_names(link, 'hears')}",
        f"heard by {_names(link, 'heard_by')}",
        f"sent {_size(link.get('sent_bytes'))} in {_of(link, 'sent_frames')}",
        f"received {_size(link.get('received_bytes'))}"
        f" in {_of(link, 'received_frames')}",
        f"lost {_of(link, 'lost_frames')}",
        f"rejected {sum(numbers)}" + (f" ({reasons})" if reasons else ""),
    ]


def _names(part: Part, name: str) -> str:
    names = part.get(name)
    return " ".join(map(str, names)) if isinstance(names, list) and names else "nobody"


def _sizes(table: Part) -> list[str]:
    return [
        f"{_of(table, 'flows')} flows",
        f"{_of(table, 'expectations')} expectations",
    ]


def _block(title: str, rows: list[list[str]]) -> list[str]:
    """Rows in aligned columns, the title before the first."""
    rows = rows or [["none"]]
    columns = max(len(row) for row in rows)
    widths = [
        max((len(row[column]) for row in rows if column < len(row)), default=0)
        for column in range(columns)
    ]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append(f"{title:<8}{'  '.join(cells)}".rstrip())
        title = ""
    return lines


def _part(whole: Part, name: str) -> Part:
    part = whole.get(name)
    return part if isinstance(part, Mapping) else {}


def _parts(whole: Part, name: str) -> Iterable[Part]:
    parts = whole.get(name)
    if not isinstance(parts, list):
        return []
    return [part for part in parts if isinstance(part, Mapping)]


def _of(part: Part, name: str) -> str:
    value = part.get(name)
    return "?" if value is None else str(value)


def _duration(seconds: object) -> str:
    if not isinstance(seconds, int | float):
        return "?"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if minutes < 120:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days"


def _size(size: object) -> str:
    if not isinstance(size, int):
        return "?"
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"
