"""Commands that change something or compare: one summary line with counts comes out.

The daemon's last answer goes in. With --json it is printed as it is.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Final

from syncd.cli import client
from syncd.cli.terminal import Waiting

# Counts that an answer may have, in the order in which they are told.
_COUNTS: Final = (
    *("flows", "expectations", "flushed", "swept", "created", "updated"),
    *("unchanged", "failed"),
)
_VERIFY_S: Final = 60.0  # a daemon that does not answer by then hangs
_DONE: Final = {"commit": "committed", "stop": "stopped"}


_KERNEL_COUNTS: Final = ("different", "repaired", "refused", "untold")


def run(arguments: argparse.Namespace) -> int:
    """Ask, print, give the exit status."""
    options = {
        name: getattr(arguments, name, None)
        for name in ("peer", "table", "what", "timeout")
    }
    if arguments.command == "verify" and arguments.timeout is None:
        options["timeout"] = _VERIFY_S
    with Waiting(arguments.command, sys.stderr):
        answer = client.ask_once(arguments.socket, arguments.command, options)
        if arguments.command == "stop" and answer.get("ok") is True:
            client.await_end(arguments.socket, arguments.timeout)
    if arguments.json:
        print(json.dumps(answer, indent=2))
        return client.outcome(answer)
    if answer.get("error"):
        print(f"syncd: {answer['error']}", file=sys.stderr)
    if answer.get("warning"):
        print(f"syncd: warning: {answer['warning']}", file=sys.stderr)
    if answer.get("ok") is True or _counts(answer) or "peers" in answer:
        # What was asked for belongs to the summary: the table, the direction.
        for line in report(arguments.command, options | answer):
            print(line)
    return client.outcome(answer)


def report(command: str, answer: Mapping[str, object]) -> list[str]:
    """The summary line; under it what failed, by reason."""
    lines = _verified(answer) if command == "verify" else []
    lines = lines or [_summary(command, answer)]
    reasons = answer.get("failed_by_reason")
    if isinstance(reasons, Mapping):
        lines += [f"  failed: {count} {reason}" for reason, count in reasons.items()]
    return lines


def counts_text(answer: Mapping[str, object]) -> str:
    """`3 created, 0 updated, ... in 0.61 s`, of what is there."""
    text = ", ".join(_counts(answer))
    seconds = answer.get("seconds")
    if isinstance(seconds, int | float):
        text += f" in {seconds:.2f} s"
    return text.strip()


def _counts(answer: Mapping[str, object]) -> list[str]:
    return [f"{answer[name]} {name}" for name in _COUNTS if name in answer]


def _summary(command: str, answer: Mapping[str, object]) -> str:
    subject = _DONE.get(command, command)
    if command in ("flush", "resync"):
        subject = f"{command} {answer.get('table') or answer.get('what')}"
    elif command in ("promote", "demote", "fault"):
        subject = f"role {answer.get('role', command)}"
    if answer.get("pushed") is False:
        subject += " (not every peer has heard of the last changes)"
    counts = counts_text(answer)
    if not counts:
        return subject
    return f"{subject} {counts}" if counts.startswith("in ") else f"{subject}: {counts}"


def _verified(answer: Mapping[str, object]) -> list[str]:
    """One line for each peer."""
    peers = answer.get("peers")
    if not isinstance(peers, list):
        return []
    lines = []
    for peer in peers:
        settings = [f"  {line}" for line in set_otherwise(peer)]
        if peer.get("equal") is True:
            lines += [f"{peer.get('node')}: equal", *settings]
            continue
        more = [
            f"{peer[name]} {name}" for name in ("different", "repaired") if name in peer
        ]
        if "verified" in peer:
            more.append("equal now" if peer["verified"] is True else "still different")
        if isinstance(peer.get("error"), str):
            more.append(peer["error"])
        lines.append(": ".join([f"{peer.get('node')}: not equal", *[", ".join(more)]]))
        lines += settings
    kernel = answer.get("kernel")
    if lines and isinstance(kernel, Mapping):
        lines.append(f"this kernel: {_copies(kernel)}")
    return lines or ["no peers"]


def _copies(kernel: Mapping[str, object]) -> str:
    """What became of the copies that a warm standby keeps in this kernel."""
    words = "equal"
    if kernel.get("different") or kernel.get("refused"):
        words = "not equal"
    elif kernel.get("complete") is not True:
        words = "not compared in time"
    counts = ["compared", *(n for n in _KERNEL_COUNTS if kernel.get(n))]
    return ", ".join([words, *(f"{kernel.get(name)} {name}" for name in counts)])


def set_otherwise(peer: Mapping[str, object]) -> list[str]:
    """What decides how restored flows fare and is set otherwise on that peer."""
    settings = peer.get("settings")
    found = settings.get("differences") if isinstance(settings, Mapping) else None
    if not isinstance(found, list):
        return []
    return [
        f"{item.get('what')}: {_shown(item.get('here'))} here, "
        f"{_shown(item.get('there'))} there"
        for item in found
        if isinstance(item, Mapping)
    ]


def _shown(value: object) -> str:
    return "absent" if value is None else str(value)
