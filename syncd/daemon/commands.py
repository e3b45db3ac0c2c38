"""The commands of the control socket: which there are, which options each one takes.

A line of a client comes in, a checked `Request` goes out, or ControlError (status 2).
What the node has to implement to answer them is the protocol `Commands`.
"""

import json
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from syncd.errors import ControlError, RecordError
from syncd.flows import view
from syncd.flows.view import FILTERS, Printer, read_filters

Answer = dict[str, object]


class Commands(Protocol):
    """The daemon behind the control socket."""

    def answer(
        self, command: str, options: dict[str, object]
    ) -> AsyncGenerator[Answer, None]:
        """An async generator of answers; the last one has "ok" (and "error").

        It may raise ControlError instead. `options` are checked: all that are there
        are allowed, of the right type, and the mandatory ones are there. A command
        that changes something is run to its end even if the client has gone.
        """


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command."""

    rule: str  # What its value is, for the refusal.
    accepts: Callable[[object], bool]
    needed: bool = False  # Without it the command is refused.


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the control socket."""

    options: Mapping[str, Option]
    reads: bool = False  # Changes nothing, so it ends when its client has gone.
    streams: bool = False  # Has no end of its own, so its client may be slow to read.


@dataclass(frozen=True, slots=True)
class Request:
    """One checked line of a client."""

    command: str
    options: dict[str, object]
    reads: bool
    streams: bool
    timeout_s: float | None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256


def _is_seconds(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        number
        and isinstance(value, int | float)
        and math.isfinite(value)
        and 0 < value <= 86400
    )


def _is_filter(value: object) -> bool:
    return isinstance(value, str | int) and len(str(value)) <= 256


def _is_event_list(value: object) -> bool:
    return isinstance(value, str) and set(value.split(",")) <= EVENTS


def _one_of(*words: str, needed: bool = False) -> Option:
    rule = " or ".join(f'"{word}"' for word in words)
    return Option(rule, lambda value: value in words, needed)


_PEER: Final = Option("a node's name", _is_text)
_FINGERPRINT: Final = Option(
    "a configuration file's fingerprint", _is_text, needed=True
)
_TIMEOUT: Final = Option("seconds, more than 0 and at most 86400", _is_seconds)
_FLAG: Final = Option("true or false", lambda value: isinstance(value, bool))

EVENTS: Final = frozenset(("new", "update", "destroy"))
COMMANDS: Final[dict[str, Command]] = {
    "status": Command({"timeout": _TIMEOUT}, reads=True),
    "metrics": Command({"timeout": _TIMEOUT}, reads=True),
    "config": Command(
        {"fingerprint": _FINGERPRINT, "timeout": _TIMEOUT},
        reads=True,
    ),
    "verify": Command({"peer": _PEER, "timeout": _TIMEOUT}, reads=True),
    "show": Command(
        {
            "what": _one_of("flows", "expectations"),
            "table": _one_of("own", "peer", "kernel"),
            "peer": _PEER,
            "raw": _FLAG,
            "timeout": _TIMEOUT,
            **{name: Option(rule, _is_filter) for name, rule in FILTERS.items()},
        },
        reads=True,
    ),
    "watch": Command(
        {
            "what": _one_of("flows", "expectations"),
            "table": _one_of("own", "peer"),
            "peer": _PEER,
            "events": Option("new, update, destroy, with commas", _is_event_list),
            "timeout": _TIMEOUT,
        },
        reads=True,
        streams=True,
    ),
    "commit": Command({"peer": _PEER, "timeout": _TIMEOUT}),
    "flush": Command(
        {"table": _one_of("own", "peer", "kernel", needed=True), "timeout": _TIMEOUT}
    ),
    "resync": Command(
        {"what": _one_of("pull", "push", "kernel", needed=True), "timeout": _TIMEOUT}
    ),
    "keys": Command({"what": _one_of("list", "reload"), "timeout": _TIMEOUT}),
    "promote": Command({"timeout": _TIMEOUT}),
    "demote": Command({"timeout": _TIMEOUT}),
    "fault": Command({"timeout": _TIMEOUT}),
    "stop": Command({"timeout": _TIMEOUT}),
}


def read_request(line: bytes) -> Request:
    """Check one line of a client."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError("the request is not JSON", status=2) from error
    if not isinstance(value, dict):
        raise ControlError("the request is not a JSON object", status=2)
    options: dict[str, object] = dict(value)
    name = options.pop("command", None)
    command = COMMANDS.get(name) if isinstance(name, str) else None
    if command is None or not isinstance(name, str):
        allowed = ", ".join(COMMANDS)
        problem = f"command {_shown(name)} is not known, allowed: {allowed}"
        raise ControlError(problem, status=2)
    # A null is an option that is not given.
    options = {key: value for key, value in options.items() if value is not None}
    for key, value in options.items():
        option = command.options.get(key)
        if option is None:
            allowed = ", ".join(command.options)
            problem = f"{name}: option {_shown(key)} is not known, allowed: {allowed}"
            raise ControlError(problem, status=2)
        if not option.accepts(value):
            problem = f"{name}: {key} is {_shown(value)}, must be {option.rule}"
            raise ControlError(problem, status=2)
    for key, option in command.options.items():
        if option.needed and key not in options:
            raise ControlError(f"{name}: {key} must be given: {option.rule}", status=2)
    if name == "show":
        read_filters(options)
    timeout = options.get("timeout")
    return Request(
        name,
        options,
        command.reads,
        command.streams,
        float(timeout) if isinstance(timeout, int | float) else None,
    )


def refusal(error: ControlError) -> Answer:
    """The last answer of a command that cannot be carried out."""
    return {"ok": False, "error": str(error), "status": error.status}


def table_rows(
    bodies: Mapping[bytes, bytes], peer: str | None, options: Mapping[str, object]
) -> Iterator[Answer]:
    """The answers of `show` for one table, which may change while they are taken.

    Each is {"key", "body", "peer"} in hex with raw (the client filters), else the
    description of what passes the filters, with "peer".
    """
    printer = view.json_printer(read_filters(options))
    name = {} if peer is None else {"peer": peer}
    raw = options.get("raw") is True
    for key in tuple(bodies):
        body = bodies.get(key)
        if body is None:
            continue
        if raw:
            yield {"key": key.hex(), "body": body.hex(), **name}
            continue
        row = _described(printer, view.message_of(key, body))
        if row is not None:
            yield row | name


def message_rows(
    messages: Iterable[bytes], options: Mapping[str, object]
) -> Iterator[Answer]:
    """The answers of `show --table kernel`: one for each message of a dump."""
    printer = view.json_printer(read_filters(options))
    raw = options.get("raw") is True
    for message in messages:
        if raw:
            yield {"message": message.hex()}
            continue
        row = _described(printer, message)
        if row is not None:
            yield row


def _described(printer: Printer, message: bytes) -> Answer | None:
    try:
        line = printer.line(message)
    except RecordError as error:
        return {"kind": "malformed", "problem": str(error)}
    if line is None:
        return None
    described: Answer = json.loads(line)
    return described


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
