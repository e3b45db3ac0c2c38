"""What a person sees of flows and expectations: the door to it.

`describe` and `describe_message` give plain values, fit for JSON; a `Printer` makes the
lines that conntrack and the kernel print, a `Sieve` says which messages a command's
filters let pass. Rows of a table become messages by `message_of`.
"""

from syncd.flows.description import Description, describe, describe_message
from syncd.flows.printer import Printer, Sieve, message_of
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
    "line",
    "message_of",
    "read_filters",
]


def line(key: bytes, body: bytes) -> str:
    """A table's entry as `conntrack -L` prints it; RecordError if it is none."""
    wishes = Wishes(Clock(lambda: 0, lambda _: ()))  # a body tells no times
    return Printer("text", wishes).line(message_of(key, body)) or ""
