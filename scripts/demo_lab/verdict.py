"""The judgement: from the reports of both ends to lived or died, and the last table.

The rule: a connection lived only if everything that was sent arrived unchanged, up to
its orderly end after the failover; a UDP stream, if both ends still hear each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .plan import CONNECTIONS, STREAMS

Report = Mapping[str, object]
UDP_SILENCE_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one connection."""

    name: str
    title: str
    path: str
    lived: bool
    gap_ms: float | None
    remark: str


def judge(client: Mapping[str, Report], server: Mapping[str, Report]) -> list[Verdict]:
    """Return one verdict for each connection of the plan."""
    verdicts = []
    for connection in CONNECTIONS:
        name = connection.name
        ends = (client[name], server[name])
        if name in STREAMS:
            lived, remark = _stream(*ends)
        elif name == "udp":
            lived, remark = _datagrams(*ends)
        else:
            lived, remark = _ftp(*ends)
        gap = max(_number(end, "gap_ms") for end in ends) if lived else None
        verdicts.append(
            Verdict(name, connection.title, connection.path, lived, gap, remark)
        )
    return verdicts


def as_object(verdicts: list[Verdict], **more: object) -> dict[str, object]:
    """Return the verdicts for machines."""
    lived = all(verdict.lived for verdict in verdicts)
    return {"ok": lived, "connections": [asdict(v) for v in verdicts], **more}


def table(verdicts: list[Verdict]) -> str:
    """Return the verdicts for people."""
    rows = [("connection", "path", "", "gap", "")]
    rows += [
        (
            v.title,
            v.path,
            "lived" if v.lived else "DIED",
            "-" if v.gap_ms is None else f"{v.gap_ms:.0f} ms",
            v.remark,
        )
        for v in verdicts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}"
        f"  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    )


def _stream(client: Report, server: Report) -> tuple[bool, str]:
    error = client["error"] or server["error"]
    if error:
        return False, str(error)
    if not (client["complete"] and server["complete"]):
        silent_s = min(_number(end, "silent_ms") for end in (client, server)) / 1000
        return False, f"nothing arrived for the last {silent_s:.1f} s"
    for sender, receiver in ((client, server), (server, client)):
        if sender["sent_sha256"] != receiver["received_sha256"]:
            return False, "what arrived is not what was sent"
    total = _number(client, "received") + _number(server, "received")
    return True, f"{total / 1e6:.0f} MB both ways, content verified"


def _datagrams(client: Report, server: Report) -> tuple[bool, str]:
    silent_ms = max(_number(end, "silent_ms") for end in (client, server))
    if silent_ms > UDP_SILENCE_MS:
        return False, f"nothing arrived for the last {silent_ms / 1000:.1f} s"
    lost = _number(client, "lost") + _number(server, "lost")
    total = _number(client, "datagrams") + _number(server, "datagrams") + lost
    return True, f"{lost:.0f} of {total:.0f} datagrams lost"


def _ftp(client: Report, server: Report) -> tuple[bool, str]:
    if client["error"]:
        return False, str(client["error"])
    digest = server["sha256"]
    if not client["expected_sha256"]:
        return False, "no answer on the control connection"
    for name in ("before", "expected", "after"):
        if client[f"{name}_sha256"] != digest:
            return False, f"the transfer {name!r} did not arrive as it was sent"
    return True, "PASV from before and PORT from after the failover, content verified"


def _number(report: Report, key: str) -> float:
    value = report.get(key, 0.0)
    assert isinstance(value, int | float)
    return float(value)
