"""The arguments of `show` and `watch`, and hints for what is misspelt.

`Parser` is argparse's with one word more: what was probably meant.
"""

import argparse
import importlib
import re
from collections.abc import Sequence
from typing import Final, NoReturn

_FILTERS: Final = (
    ("family", "ipv4 or ipv6"),
    ("proto", "protocol, by name or number"),
    ("src", "source: address or network"),
    ("dst", "destination: address or network"),
    ("sport", "source port"),
    ("dport", "destination port"),
    ("reply-src", "source of the replies"),
    ("reply-dst", "destination of the replies"),
    ("state", "of TCP, SCTP or DCCP, such as ESTABLISHED"),
    ("status", "bits that are set, !BIT: not set; ASSURED,!SEEN_REPLY"),
    ("mark", "VALUE or VALUE/MASK"),
    ("zone", "zone of both directions"),
    ("orig-zone", "zone of the original direction"),
    ("reply-zone", "zone of the replies"),
    ("label", "labels that are set, by name or bit"),
)
_CHOICE: Final = re.compile(r"invalid choice: '([^']*)'")
_BYTES: Final = re.compile(r"(\d{1,10}) ?(|B|KiB|MiB|GiB)")
_FACTORS: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

SHOW_EXAMPLES: Final = """\
examples:
  syncd show                                  this node's flows
  syncd show --table kernel --proto tcp --dport 443 --state ESTABLISHED
  syncd show --peer fw2 --src 10.0.0.0/8      what fw2 told
  syncd show expectations --table kernel
  syncd show --table kernel --output extended,id,labels
  syncd show --table kernel --output save > flows; conntrack -R flows
  syncd show --json --any-nat | jq .reply.dst

The kernel's table needs no daemon. docs/operation.md tells more.
"""
WATCH_EXAMPLES: Final = """\
examples:
  syncd watch                                 every event of this kernel's flows
  syncd watch --event-mask new,destroy --proto udp --dport 53
  syncd watch --output extended,timestamp,id
  syncd watch expectations --json --count 10
  syncd watch --peer fw2                      what changes in fw2's table here

The events come from the kernel, and no daemon is needed; with --table own or peer the
daemon tells the changes of its tables. docs/operation.md tells more.
"""
TIMEOUTS_EXAMPLES: Final = """\
examples:
  syncd timeouts defaults                     of all protocols
  syncd timeouts default-set inet tcp established 7200
  syncd timeouts add voip inet udp unreplied 60 replied 600
  syncd timeouts set voip replied 900
  syncd timeouts list --json

Words and output are those of nfct(8). A rule puts a policy into force, as in
"nft add rule ... ct timeout set" or "iptables -j CT --timeout voip".
"""


class Parser(argparse.ArgumentParser):
    """Says in short what is wrong, and what was probably meant."""

    _words: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override] # argparse has overloads of it
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's; what is parsed is kept for a hint."""
        self._words = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """The mistake and a hint; exit status 2."""
        hint = self._option_hint()
        found = _CHOICE.search(message)
        if found is not None and not hint:
            words = re.findall(r"'([^']*)'", message[found.end() :])
            hint = _hint(found[1], words)
        self.exit(2, f"{self.prog}: {message}{hint}; {self.prog} --help tells more\n")

    def refuse(self, extra: list[str]) -> NoReturn:
        """What nothing takes: an option that does not exist, or a word too many."""
        self.error(f"unrecognized arguments: {' '.join(extra)}")

    def _option_hint(self) -> str:
        """A misspelt option confuses all that follows, so it is named first."""
        known = self._option_string_actions
        for word in self._words:
            name = word.partition("=")[0]
            if name.startswith("--") and name not in known:
                return _hint(name, list(known))
        return ""


def add_show(parser: argparse.ArgumentParser) -> None:
    """What `show` takes besides the common options."""
    _add_what(parser)
    _add_table(parser, "own")
    _add_output(parser, "entries")
    _add_filters(parser)


def add_watch(parser: argparse.ArgumentParser) -> None:
    """What `watch` takes besides the common options."""
    _add_what(parser)
    _add_table(parser, "kernel")
    parser.add_argument(
        "--event-mask",
        *("-e",),
        metavar="KINDS",
        help="only these: new, updates, destroy, separated by commas",
    )
    parser.add_argument(
        "--buffer-size",
        *("-b",),
        metavar="SIZE",
        type=_size,
        default=16 << 20,
        help="of the socket that the kernel's events wait in, default 16 MiB",
    )
    _add_output(parser, "events")
    _add_filters(parser)


def add_timeouts(
    timeouts: argparse.ArgumentParser, common: argparse.ArgumentParser
) -> None:
    """The actions of `timeouts` and what each takes."""
    actions = timeouts.add_subparsers(dest="action", metavar="ACTION", required=True)
    seconds = ("seconds", "STATE SECONDS")
    family, protocol = ("family", "inet|inet6"), ("protocol", "PROTOCOL")
    name = ("name", "NAME")
    for action, text, wanted in (
        ("list", "all policies", ()),
        ("get", "one policy", (name,)),
        ("add", "make a policy", (name, family, protocol, seconds)),
        ("set", "change some states of a policy", (name, seconds)),
        ("delete", "delete a policy that no rule refers to", (name,)),
        ("flush", "delete all policies", ()),
        ("defaults", "the defaults of all protocols", ()),
        ("default-get", "the defaults of a protocol", (family, protocol)),
        (
            "default-set",
            "change some of the defaults of a protocol",
            (family, protocol, seconds),
        ),
    ):
        parser = actions.add_parser(
            action, help=text, description=text, parents=[common], allow_abbrev=False
        )
        for place, shown in wanted:
            count = "+" if place == "seconds" else None
            parser.add_argument(place, metavar=shown, nargs=count)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", choices=("flows", "expectations"), default="flows"
    )


def _add_table(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--table",
        choices=("own", "peer", "kernel"),
        help=f"default: {default}, and peer with --peer",
    )
    parser.add_argument("--peer", metavar="NODE", help="what this one peer told")


def _add_output(parser: argparse.ArgumentParser, what: str) -> None:
    group = parser.add_argument_group("output, as of conntrack(8)")
    group.add_argument(
        "--output",
        *("-o",),
        metavar="WORDS",
        default="text",
        help="text, xml, save, json or proc (as /proc/net/nf_conntrack); "
        "with any of the following, separated by commas",
    )
    for name, text in (
        ("extended", "begin with the address family"),
        ("id", "show the kernel's id of a flow"),
        ("timestamp", "show when an event was printed"),
        ("ktimestamp", "show when a flow began and ended"),
        ("labels", "show labels, by the names of /etc/xtables/connlabel.conf"),
    ):
        group.add_argument(f"--{name}", action="store_true", help=text)
    group.add_argument(
        "--count", metavar="N", type=_count, help=f"stop after so many {what}"
    )
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="default: on a terminal, unless NO_COLOR is set",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    filters = parser.add_argument_group(
        "filters, as of conntrack(8): all that are given have to pass"
    )
    for name, text in _FILTERS:
        filters.add_argument(f"--{name}", metavar="VALUE", help=text)
    for name, text in (
        ("any-nat", "translated: source or destination"),
        ("src-nat", "source translated, to this address if one is given"),
        ("dst-nat", "destination translated"),
    ):
        filters.add_argument(
            f"--{name}", metavar="ADDRESS[:PORT]", nargs="?", const=True, help=text
        )


def _hint(word: str, known: list[str]) -> str:
    # The one use of difflib, which costs as much to load as all the rest.
    likely = importlib.import_module("difflib").get_close_matches(word, known, 1)
    return f" (did you mean {likely[0]}?)" if likely else ""


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text[:20]) < 1 << 63:
        return int(text)
    raise argparse.ArgumentTypeError("must be a number of at least 1")


def _size(text: str) -> int:
    found = _BYTES.fullmatch(text)
    size = 0 if found is None else int(found[1]) * _FACTORS[found[2]]
    if 4096 <= size <= 1 << 30:
        return size
    raise argparse.ArgumentTypeError('must be a size such as "16 MiB", 4 KiB to 1 GiB')
