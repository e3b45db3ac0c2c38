"""What a person sees of flows and expectations: the door to it.

A `Printer` makes the lines that conntrack and the kernel print, and JSON; a `Sieve`
says which messages a command's filters let pass. Rows of a table become messages by
`message_of`, its changes events by `event_of`. `describe`, `describe_message` and
`line` are about one record alone.
"""

import json

from syncd.errors import RecordError
from syncd.flows.printer import Printer, Sieve, event_of, message_of
from syncd.flows.text import Clock, Wishes
from syncd.flows.wanted import FILTERS, Filters, read_filters
from syncd.flows.xml import HEADER as XML_HEADER

__all__ = [
    "FILTERS",
    "XML_HEADER",
    "Clock",
    "Description",
    "Filters",
    "Printer",
    "Sieve",
    "Wishes",
    "describe",
    "describe_message",
    "event_of",
    "json_printer",
    "line",
    "message_of",
    "read_filters",
]

Description = dict[str, object]
_TIMELESS = Wishes(Clock(lambda: 0, lambda _: ()))  # a body tells no times


def line(key: bytes, body: bytes) -> str:
    """A table's entry as `conntrack -L` prints it; RecordError if it is none."""
    return Printer("text", _TIMELESS).line(message_of(key, body)) or ""


def name_of(key: bytes, body: bytes) -> str:
    """A record as a person knows it, whatever it is."""
    try:
        return line(key, body)
    except RecordError:
        return key.hex() or "no key"


def describe(key: bytes, body: bytes) -> Description:
    """What a table's entry says; `key` and `body` as `flows.record` makes them."""
    return describe_message(message_of(key, body))


def describe_message(message: bytes) -> Description:
    """What a whole netlink message says; RecordError if it is none."""
    described = json.loads(Printer("json", _TIMELESS).line(message) or "{}")
    assert isinstance(described, dict)
    return described


def json_printer(filters: Filters | None = None) -> Printer:
    """For programs: one object a line, of those that are wanted."""
    return Printer("json", _TIMELESS, filters)
