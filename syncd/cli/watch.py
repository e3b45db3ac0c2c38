"""`syncd watch`: what happens in a table, one line for each event.

The kernel's events come from the kernel, by a socket of our own: the daemon has no work
with them and need not even run. Changes of the own and the peers' tables are told by
the daemon, as bytes. It ends at --count, after --timeout, at SIGINT and SIGTERM, and
when nobody reads any more. What could not be held for us is told on standard error.
"""

import argparse
import contextlib
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from syncd.cli import client
from syncd.cli.output import Output
from syncd.errors import ControlError, RecordError
from syncd.flows import view
from syncd.kernel.events import EventSocket
from syncd.kernel.program import Programs

_GROUPS: Final = {
    "flows": {"NEW": 1, "UPDATES": 2, "DESTROY": 3},
    "expectations": {"NEW": 4, "UPDATES": 5, "DESTROY": 6},
}
_EVENTS: Final = {"NEW": "new", "UPDATES": "update", "DESTROY": "destroy"}
_CHANGE: Final = ("event", "key", "body", "owner")
_BATCH: Final = 512
_LOOK_S: Final = 1.0


class _Source(Protocol):
    def fileno(self) -> int: ...


def run(arguments: argparse.Namespace) -> int:
    """Print events until somebody has had enough."""
    output = Output(arguments, events=True)
    table = arguments.table or ("kernel" if arguments.peer is None else "peer")
    if arguments.peer is not None and table != "peer":
        problem = f"--peer {arguments.peer} goes with --table peer, not with {table}"
        raise ControlError(problem, status=2)
    kinds = _kinds(arguments)
    answer: Mapping[str, object] = {"ok": True}
    with _ending() as ending:
        if table == "kernel":
            _watch_kernel(arguments, kinds, ending, output)
        else:
            options = {
                "what": arguments.what,
                "table": table,
                "peer": arguments.peer,
                "events": ",".join(_EVENTS[kind] for kind in kinds),
            }
            answer = _watch_table(arguments, options, ending, output)
    output.end(str(answer.get("error") or ""))
    return client.outcome(answer) or int(output.malformed > 0)


def _watch_kernel(
    arguments: argparse.Namespace,
    kinds: list[str],
    ending: socket.socket,
    output: Output,
) -> None:
    """Print the kernel's events."""
    if not client.is_here(arguments.socket):
        problem = "the daemon lives in another network namespace, where its events are"
        command = "nsenter --net=/proc/PID/ns/net syncd watch"
        raise ControlError(f"{problem}: {command}", status=1)
    groups = [_GROUPS[arguments.what][kind] for kind in kinds]
    events = EventSocket(arguments.buffer_size, reliable=False, groups=groups)
    programs = Programs()
    with contextlib.closing(events):
        for _ in _turns(events, ending, output, arguments.timeout):
            messages = events.drain(_BATCH)
            for message in messages:
                portid = int.from_bytes(message[12:16], sys.byteorder)
                output.write_event(message, programs.name(portid) if portid else None)
                if output.is_full():
                    break
            if messages:
                output.flush()
            lost = events.check_losses()
            if lost:
                more = f"more than {events.receive_buffer} with --buffer-size may help"
                output.warn(
                    f"{lost} events were lost, the socket's buffer was full: {more}"
                )


def _watch_table(
    arguments: argparse.Namespace,
    options: Mapping[str, object],
    ending: socket.socket,
    output: Output,
) -> Mapping[str, object]:
    """Print the changes that the daemon tells; its last answer, if it has one."""
    with contextlib.closing(client.Stream(arguments.socket, "watch", options)) as told:
        for _ in _turns(told, ending, output, arguments.timeout):
            for answer in told.take():
                if "ok" in answer:
                    return answer
                changes = answer.get("changes")
                if isinstance(changes, list):
                    _print(changes, output)
                if "lost" in answer:
                    output.warn(
                        f"{answer['lost']} changes were lost, they came faster than "
                        f"they were read: syncd show --table {options['table']} lists "
                        "what is there now"
                    )
            output.flush()
    return {"ok": True}


def _print(changes: list[object], output: Output) -> None:
    for change in changes:
        if output.is_full():
            return
        try:
            message, owner = read_change(change)
        except RecordError:
            output.malformed += 1
            continue
        output.write_event(message, peer=owner)


def read_change(change: object) -> tuple[bytes, str]:
    """One change of the daemon's: the event that it would be, and whose it is."""
    if not isinstance(change, list) or len(change) != len(_CHANGE):
        raise RecordError("a change that is none")
    event, key, body, owner = map(str, change)
    try:
        return view.event_of(event, bytes.fromhex(key), bytes.fromhex(body)), owner
    except ValueError as error:
        raise RecordError("a change that is none") from error


def _turns(
    source: _Source, ending: socket.socket, output: Output, limit_s: float | None
) -> Iterator[None]:
    """A turn whenever something may have come, until it is time to end."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(ending, select.POLLIN)
    out = sys.stdout.fileno()
    with contextlib.suppress(OSError):
        poll.register(out, 0)  # only tells when the reader has gone
    end_s = None if limit_s is None else time.monotonic() + limit_s
    while not output.is_full():
        wait_s = _LOOK_S
        if end_s is not None:
            wait_s = min(end_s - time.monotonic(), wait_s)
            if wait_s <= 0:
                return
        for number, event in poll.poll(wait_s * 1000):
            if number == ending.fileno():
                return
            if number == out and event & (select.POLLERR | select.POLLNVAL):
                raise BrokenPipeError
        yield


@contextlib.contextmanager
def _ending() -> Iterator[socket.socket]:
    """A socket that can be read from as soon as we are asked to end."""
    here, there = socket.socketpair()
    there.settimeout(0)

    def end(*_: object) -> None:
        with contextlib.suppress(OSError):
            there.send(b".")

    kept = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield here
    finally:
        for number, action in kept.items():
            signal.signal(number, action)
        here.close()
        there.close()


_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def _kinds(arguments: argparse.Namespace) -> list[str]:
    """What conntrack's -e asks for; everything without it."""
    words = (arguments.event_mask or "ALL").upper().split(",")
    wanted: set[str] = set()
    for word in words:
        if word != "ALL" and word not in _EVENTS:
            allowed = ", ".join(("ALL", *_EVENTS))
            problem = f"--event-mask {word.lower()!a} is not one of {allowed}"
            raise ControlError(problem, status=2)
        wanted |= set(_EVENTS) if word == "ALL" else {word}
    return [kind for kind in _EVENTS if kind in wanted]
