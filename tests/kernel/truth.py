"""Does status tell the truth while everything breaks? A judge that looks on.

In: the node that has the traffic, its standbys. Out: a verdict on what they claimed.
The rule: a claim is compared with what the independent reader saw in the kernel. A row
of a copy is as old as the moment at which the kernel last had it so; a copy is as old
as its oldest row. Nobody may call a copy verified, or itself ready with a live peer's
copy, when that copy is older than `LAG_S`.
"""

import json
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from syncd.cli import show
from syncd.flows import view

from tests.kernel import reader
from tests.kernel.cluster import Node

LAG_S = 4.0  # silence_s, one HELLO, and the time to look
_LOOK_S = 0.5
_HISTORY_S = 90.0  # longer than any fault lasts
_ANSWER_S = 1.5
_MUTE_S = 0.1  # for one that did not answer the last time
_LIVE = ("in-step",)
_RISING = {
    "links": ("sent_bytes", "sent_frames", "received_bytes", "received_frames"),
    "kernel": ("events", "overruns", "lost_events", "resyncs"),
}

# What the daemon answers is whatever JSON says.
Status = dict[str, Any]


@dataclass(slots=True)
class Snapshot:
    """A kernel's table at one moment."""

    at: float
    rows: reader.Rows


@dataclass(slots=True)
class Sample:
    """What a standby claimed, and what it had."""

    node: str
    at: float
    rows: reader.Rows
    verified: bool
    ready: bool  # with a live peer


@dataclass(slots=True)
class Findings:
    """What was seen since the last time somebody asked."""

    samples: int = 0
    unanswered: int = 0
    verified_samples: int = 0
    oldest_s: float = 0.0  # copy, whatever was claimed of it
    oldest_verified_s: float = 0.0
    oldest_ready_s: float = 0.0
    lies: list[str] = field(default_factory=list)


def ask(node: Node, command: str, patience_s: float = _ANSWER_S) -> Status | None:
    """The answer of a daemon by its socket, None if there is none in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(patience_s)
        try:
            control.connect(str(node.socket))
            control.sendall(json.dumps({"command": command}).encode() + b"\n")
            with control.makefile("rb") as answers:
                answer: Status = json.loads(answers.readline())
        except (OSError, ValueError):
            return None
    return answer


def peer_rows(
    node: Node, peer: str, patience_s: float = _ANSWER_S
) -> Callable[[], reader.Rows] | None:
    """A node's copy of a peer's flows, asked for now and decoded when it is called."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(patience_s)
        order = {"command": "show", "what": "flows", "table": "peer", "raw": True}
        try:
            control.connect(str(node.socket))
            control.sendall(json.dumps(order | {"peer": peer}).encode() + b"\n")
            with control.makefile("rb") as answers:
                lines = answers.readlines()
            if not lines or json.loads(lines[-1]).get("ok") is not True:
                return None
        except (OSError, ValueError):
            return None

    def decode() -> reader.Rows:
        messages = [show.read_row(json.loads(line)) for line in lines[:-1]]
        wishes = view.Wishes(view.Clock(time.time_ns, time.localtime))
        return reader.shown_rows(
            "\n".join(view.Printer("json", wishes).lines(messages))
        )

    return decode


class Watch:
    """Looks at the kernel and the standbys all the time, in a thread of its own."""

    def __init__(self, source: Node, standbys: list[Node], step_s: float) -> None:
        """`step_s` is the shortest time for which a row of the load stays as it is."""
        self.source = source
        self.standbys = standbys
        self.findings = Findings()
        self._step_s = step_s
        self._kernel: deque[Snapshot] = deque()
        self._waiting: list[Sample] = []
        self._mute: dict[str, float] = {}  # since when a node has not answered
        self._before: dict[str, Status] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def take(self) -> Findings:
        """The findings since the last call."""
        with self._lock:
            if self._failed is not None:
                raise RuntimeError("the judge fell") from self._failed
            found, self.findings = self.findings, Findings()
        return found

    def begin_anew(self) -> None:
        """The kernel was emptied: rows of the load no longer last for `step_s`."""
        with self._lock:
            self._kernel.clear()

    def _run(self) -> None:
        try:
            while not self._over.wait(_LOOK_S):
                self._look()
        except Exception as error:  # noqa: BLE001 - told by `take`
            self._failed = error

    def _look(self) -> None:
        now = time.monotonic()
        rows = {key: _kept(row) for key, row in self.source.kernel().items()}
        waiting, self._waiting = self._waiting, []
        with self._lock:
            at = (now + time.monotonic()) / 2
            self._kernel.append(Snapshot(at, self._same_objects(rows)))
            while self._kernel[0].at < now - _HISTORY_S:
                self._kernel.popleft()
            for sample in waiting:
                self._judge(sample)
        claimed = self._claims_of_source()
        for node in self.standbys:
            self._claims_of_standby(node)
        for name in claimed & self._mute.keys():
            mute_s = now - self._mute[name]
            if mute_s > LAG_S:
                self._lie(
                    f"{self.source.name} calls {name} verified, which has not answered "
                    f"for {mute_s:.1f} s"
                )

    def _claims_of_source(self) -> set[str]:
        """Whose copies the node with the traffic calls verified."""
        status = self._status(self.source)
        rows = status["peers"] if status is not None else []
        return {row["node"] for row in rows if row["verified"]}

    def _claims_of_standby(self, node: Node) -> None:
        status = self._status(node)
        if status is None:
            with self._lock:
                self.findings.unanswered += 1
            return
        at = time.monotonic()
        peer = next(
            (row for row in status["peers"] if row["node"] == self.source.name), None
        )
        if peer is None:
            return
        decode = peer_rows(node, self.source.name)
        if decode is None or time.monotonic() - at > self._step_s:
            return  # it has just ended, or was stopped
        ready = bool(status["ready"]) and peer["state"] in _LIVE
        kept = {key: _kept(row) for key, row in decode().items()}
        self._waiting.append(Sample(node.name, at, kept, bool(peer["verified"]), ready))

    def _status(self, node: Node) -> Status | None:
        mute = node.name in self._mute
        status = ask(node, "status", _MUTE_S if mute else _ANSWER_S)
        if status is None or "peers" not in status:
            self._mute.setdefault(node.name, time.monotonic())
            return None
        self._mute.pop(node.name, None)
        before = self._before.get(node.name)
        if before is not None and before["epoch"] == status["epoch"]:
            for problem in contradictions(before, status):
                self._lie(f"{node.name}: {problem}")
        self._before[node.name] = status
        return status

    def _lie(self, text: str) -> None:
        with self._lock:
            self.findings.lies.append(text)

    def _judge(self, sample: Sample) -> None:
        found = self.findings
        age = self._age(sample)
        if age is None:
            return
        found.samples += 1
        found.oldest_s = max(found.oldest_s, age)
        if sample.verified:
            found.verified_samples += 1
            found.oldest_verified_s = max(found.oldest_verified_s, age)
        if sample.ready:
            found.oldest_ready_s = max(found.oldest_ready_s, age)
        for claimed, word in ((sample.verified, "verified"), (sample.ready, "ready")):
            if claimed and age > LAG_S:
                found.lies.append(
                    f"{sample.node} says {word} with a copy that is {age:.1f} s old"
                )

    def _age(self, sample: Sample) -> float | None:
        """How old the copy is at least; None if the kernel was not looked at enough.

        A row as the kernel was never seen to have it came and went between two looks.
        """
        keys = set(sample.rows)
        for snapshot in self._kernel:
            keys |= snapshot.rows.keys()
        until, age = math.inf, 0.0
        for snapshot in reversed(self._kernel):
            if until - snapshot.at > self._step_s and until != math.inf:
                return None  # rows may have changed twice unseen
            rows, have = snapshot.rows, sample.rows
            left = {key for key in keys if rows.get(key) != have.get(key)}
            if len(left) < len(keys):
                age = max(sample.at - until, 0.0)
            if not left:
                break
            keys, until = left, snapshot.at
        return age

    def _same_objects(self, rows: reader.Rows) -> reader.Rows:
        """Rows that have not changed since the last look cost nothing."""
        if not self._kernel:
            return rows
        before = self._kernel[-1].rows
        return {
            key: before[key] if before.get(key) == row else row
            for key, row in rows.items()
        }


def _kept(row: reader.Row) -> reader.Row:
    return reader.as_told(row)


def contradictions(before: Status, now: Status) -> list[str]:
    """What cannot be true of two looks at one life of a daemon."""
    wrong = [
        f"kernel.{name} went from {before['kernel'][name]} to {now['kernel'][name]}"
        for name in _RISING["kernel"]
        if now["kernel"][name] < before["kernel"][name]
    ]
    for number, (old, new) in enumerate(
        zip(before["links"], now["links"], strict=True)
    ):
        wrong += [
            f"links[{number}].{name} went from {old[name]} to {new[name]}"
            for name in _RISING["links"]
            if new[name] < old[name]
        ]
        wrong += [
            f"links[{number}].rejected_frames.{reason} fell"
            for reason, count in old["rejected_frames"].items()
            if new["rejected_frames"].get(reason, 0) < count
        ]
    for name in ("flows", "expectations"):
        total = sum(row[name] for row in now["peers"])
        if now["tables"]["peer"][name] != total:
            wrong.append(f"tables.peer.{name} is not the sum of the peers'")
    wrong += [
        f"{row['node']} is verified and {row['state']}"
        for row in now["peers"]
        if row["verified"] and row["state"] != "in-step"
    ]
    return wrong
