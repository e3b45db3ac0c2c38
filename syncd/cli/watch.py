"""`syncd watch`: what happens in the kernel's tables, one line for each event.

The events come from the kernel, by a socket of our own: the daemon has no work with
them and need not even run. It ends at --count, at SIGINT and SIGTERM, and when nobody
reads any more. Events that the kernel could not hold for us are told on standard error.
"""

import argparse
import contextlib
import select
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Final

from syncd.cli import client
from syncd.cli.output import Output
from syncd.errors import ControlError
from syncd.kernel.events import EventSocket
from syncd.kernel.program import Programs

_GROUPS: Final = {
    "flows": {"NEW": 1, "UPDATES": 2, "DESTROY": 3},
    "expectations": {"NEW": 4, "UPDATES": 5, "DESTROY": 6},
}
_BATCH: Final = 512
_LOOK_MS: Final = 1000


def run(arguments: argparse.Namespace) -> int:
    """Print events until somebody has had enough."""
    output = Output(arguments, events=True)
    groups = _groups(arguments)
    if not client.is_here(arguments.socket):
        problem = "the daemon lives in another network namespace, where its events are"
        command = "nsenter --net=/proc/PID/ns/net syncd watch"
        raise ControlError(f"{problem}: {command}", status=1)
    events = EventSocket(arguments.buffer_size, reliable=False, groups=groups)
    try:
        with _ending() as ending:
            _watch(events, ending, output)
    finally:
        events.close()
    output.end()
    return int(output.malformed > 0)


def _watch(events: EventSocket, ending: socket.socket, output: Output) -> None:
    poll = select.poll()
    poll.register(events, select.POLLIN)
    poll.register(ending, select.POLLIN)
    out = sys.stdout.fileno()
    with contextlib.suppress(OSError):
        poll.register(out, 0)  # only tells when the reader has gone
    programs = Programs()
    while not output.is_full():
        for number, event in poll.poll(_LOOK_MS):
            if number == ending.fileno():
                return
            if number == out and event & (select.POLLERR | select.POLLNVAL):
                raise BrokenPipeError
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


def _groups(arguments: argparse.Namespace) -> list[int]:
    """What conntrack's -e asks for; everything without it."""
    groups = _GROUPS[arguments.what]
    words = (arguments.event_mask or "ALL").upper().split(",")
    wanted = []
    for word in words:
        if word != "ALL" and word not in groups:
            allowed = ", ".join(("ALL", *groups))
            problem = f"--event-mask {word.lower()!a} is not one of {allowed}"
            raise ControlError(problem, status=2)
        wanted += list(groups.values()) if word == "ALL" else [groups[word]]
    return sorted(set(wanted))
