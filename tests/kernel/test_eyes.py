"""`show` and `watch` beside the real tools: the library, conntrack and the kernel.

Byte for byte, but for numbers that move while two programs run one after the other:
the seconds that are left, and the time at which an event was printed.
"""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from syncd.flows import view

from tests.kernel import library
from tests.kernel.populace import Populace
from tests.lab import Lab, inside, run_in, stop, sysctl
from tests.messages import Maker

pytestmark = pytest.mark.kernel

PROJECT = Path(__file__).parents[2]
SYNCD = (sys.executable, "-m", "syncd")
_CLOCK_REALTIME_COARSE = 5  # what time() of the C library reads
LABELS = {0: "zero", 2: "two", 7: "with space", 9: "nine-9", 16: "hex"}
LABEL_FILE = """\
# comment
0 zero
2  two
3
7\twith space
8 bad_name
9 nine-9
2 again
0x10 hex
11 zero
"""
TRACKING = """
table inet tracking {
  chain input { type filter hook input priority 0; ct state new counter; }
  chain output { type filter hook output priority 0; ct label set 5; }
  chain source { type nat hook postrouting priority 100; }
  chain target { type nat hook prerouting priority -100; }
}
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_lines_are_those_of_conntracks_library(seed: int, tmp_path: Path) -> None:
    labels = tmp_path / "connlabel.conf"
    labels.write_text(LABEL_FILE)
    clock = view.Clock(
        lambda: time.clock_gettime_ns(_CLOCK_REALTIME_COARSE), time.localtime
    )
    maker = Maker(seed)
    combinations = list(itertools.product(("text", "xml"), range(64)))
    printers = {}
    for number in range(3000):
        output, bits = combinations[number % len(combinations)]
        extended, stamp, ident, ktimestamp, events, named = (
            bool(bits >> bit & 1) for bit in range(6)
        )
        if (output, bits) not in printers:
            wishes = view.Wishes(
                clock,
                events=events,
                extended=extended,
                ident=ident,
                timestamp=stamp,
                ktimestamp=ktimestamp,
                labels=LABELS if named else None,
            )
            judge = library.Library(str(labels) if named else None)
            printers[output, bits] = view.Printer(output, wishes), judge
        printer, judge = printers[output, bits]
        data = maker.message()
        event = event_of(data) if events else ""
        for _ in range(3):  # a second may end between the two
            line = printer.line(data)
            told = judge.line(data, event, bits & 15, is_xml=output == "xml")
            if line == told:
                break
        assert line == told, data.hex()


def event_of(message: bytes) -> str:
    if message[4]:
        return "destroy"
    return "new" if message[7] & 6 else "update"


@pytest.fixture
def namespace(lab: Lab) -> str:
    made = lab.namespace("eyes")
    lab.rules(made, TRACKING)
    for name in ("acct", "timestamp"):
        sysctl(made, f"net/netfilter/nf_conntrack_{name}", 1)
    return made


@pytest.fixture
def populace(namespace: str) -> Iterator[Populace]:
    made = Populace(namespace, 1)
    try:
        yield made
    finally:
        made.close()


def ours(namespace: str, *words: str) -> list[str]:
    """What our client prints; errors are in the exception."""
    with inside(namespace):
        done = subprocess.run(
            [*SYNCD, *words], capture_output=True, text=True, check=False, cwd=PROJECT
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# What moves: the seconds left, and the age of a flow.
MOVING = re.compile(
    r"(?<=delta-time=)\d+|(?<=<deltatime>)\d+|(?<=<timeout>)\d+|(?<=-t )\d+"
    r"|^(?P<head>(?:ipv[46] +\d+ )?[a-z0-9]+ +\d+ )\d+(?= )|^\d+(?= proto=|  *l3proto)"
)


MOMENT = re.compile(r"^\[\d{8,}\.\d{1,6} *\]\t|<when>.*</when>")


def still(line: str) -> str:
    line = MOMENT.sub("", line)
    return MOVING.sub(lambda found: f"{found.groupdict().get('head') or ''}N", line)


VARIANTS = (
    *("", "extended", "id", "ktimestamp", "labels", "xml", "save", "timestamp"),
    *("extended,id,ktimestamp", "xml,extended,id,ktimestamp", "xml,timestamp"),
)


def test_a_listing_is_conntracks_to_the_byte(
    namespace: str, populace: Populace
) -> None:
    assert populace.add(4000) > 3000
    for variant in VARIANTS:
        words = ["-o", variant] if variant else []
        theirs = run_in(namespace, "conntrack", "-L", *words).splitlines()
        shown = ours(namespace, "show", "--table", "kernel", *words)
        assert len(shown) > 3000
        assert sorted(map(still, shown)) == sorted(map(still, theirs)), variant


FILTERS = (
    *(("-p", "tcp"), ("-f", "ipv6"), ("-p", "tcp", "--state", "ESTABLISHED")),
    *(("-s", "0.0.0.0/1"), ("-d", "8000::/1"), ("-m", "0x1/0x3"), ("-w", "3")),
    *(("--orig-zone", "3"), ("--reply-zone", "3"), ("-u", "ASSURED")),
    *(("-u", "UNREPLIED"), ("-u", "SEEN_REPLY"), ("-p", "132"), ("-p", "udplite")),
    *(("-p", "sctp", "--state", "ESTABLISHED"), ("-p", "udp", "--any-nat")),
    *(("-p", "tcp", "--src-nat"), ("-p", "tcp", "--src-nat", "--dst-nat")),
)
OURS = {
    "-p": "--proto",
    "-f": "--family",
    "-s": "--src",
    "-d": "--dst",
    "-m": "--mark",
    "-w": "--zone",
    "-u": "--status",
}


def test_filters_are_conntracks(namespace: str, populace: Populace) -> None:
    assert populace.add(1500) > 1000
    for words in FILTERS:
        theirs = run_in(namespace, "conntrack", "-L", *words).splitlines()
        named = [OURS.get(word, word) for word in words]
        shown = ours(namespace, "show", "--table", "kernel", *named)
        assert shown, words
        assert sorted(map(still, shown)) == sorted(map(still, theirs)), words


def test_the_kernels_own_list_is_read_and_written_alike(
    namespace: str, populace: Populace
) -> None:
    assert populace.add(1500) > 1000
    text = run_in(namespace, "cat", "/proc/net/nf_conntrack")
    theirs = re.sub(r"timeout=\d+, stream_timeout=\d+ ", "", text).splitlines()
    shown = ours(namespace, "show", "--table", "kernel", "--output", "proc")
    assert sorted(map(still, shown)) == sorted(map(still, theirs))


def test_expectations_are_conntracks_and_the_kernels(
    namespace: str, populace: Populace
) -> None:
    assert populace.expect(150) > 100
    for variant in ("", "xml", "id", "timestamp", "xml,timestamp", "labels,ktimestamp"):
        words = ["-o", variant] if variant else []
        theirs = []
        for family in ("ipv4", "ipv6"):
            text = run_in(namespace, "conntrack", "-L", "expect", "-f", family, *words)
            theirs += text.splitlines()
        shown = ours(namespace, "show", "expectations", "--table", "kernel", *words)
        assert set(map(still, shown)) == set(map(still, theirs)), variant
        assert len(shown) > 100
    text = run_in(namespace, "cat", "/proc/net/nf_conntrack_expect")
    shown = ours(namespace, "show", "expectations", "--table", "kernel", "-o", "proc")
    assert sorted(map(still, shown)) == sorted(map(still, text.splitlines()))


def test_what_is_saved_loads_back(
    namespace: str, populace: Populace, tmp_path: Path
) -> None:
    populace.add(400)
    words = ("show", "--table", "kernel", "--output", "save")
    # What conntrack cannot read of its own: DCCP from a kernel that has forgotten it,
    # and a state of SCTP that it does not know.
    odd = re.compile(r" -p dccp$| --state \(null\)")
    saved = [line for line in ours(namespace, *words) if not odd.search(line)]
    assert len(saved) > 250
    file = tmp_path / "saved"
    file.write_text("".join(f"{line}\n" for line in saved))
    rows = run_in(namespace, "conntrack", "-L", "-o", "save").splitlines()
    theirs = "".join(f"{line}\n" for line in rows if not odd.search(line))
    run_in(namespace, "conntrack", "-F")
    run_in(namespace, "conntrack", "-R", str(file))
    by_us = sorted(map(still, ours(namespace, *words)))
    run_in(namespace, "conntrack", "-F")
    run_in(namespace, "conntrack", "-R", "-", stdin=theirs)
    assert by_us == sorted(map(still, ours(namespace, *words)))
    assert len(by_us) > 200


def listeners(namespace: str) -> int:
    """Sockets of netfilter that listen to groups."""
    rows = run_in(namespace, "cat", "/proc/net/netlink").splitlines()[1:]
    return sum(row.split()[1] == "12" and int(row.split()[3], 16) > 0 for row in rows)


class Watching:
    """Programs that watch the same events, each with a file of its own."""

    def __init__(self, namespace: str, path: Path, *commands: tuple[str, ...]) -> None:
        self._namespace = namespace
        self._files = [path / f"watching-{at}" for at in range(len(commands))]
        self._commands = commands
        self.children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Watching":
        with inside(self._namespace):
            for file, command in zip(self._files, self._commands, strict=True):
                with file.open("wb") as output:
                    child = subprocess.Popen(
                        command, stdout=output, stderr=subprocess.DEVNULL, cwd=PROJECT
                    )
                self.children.append(child)
        deadline = time.monotonic() + 20
        while listeners(self._namespace) < len(self.children):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            stop(child)

    def lines(self) -> list[list[str]]:
        """What each printed until now, without the moment of printing."""
        time.sleep(0.3)
        for child in self.children:
            stop(child)
        return [
            [MOMENT.sub("T", line) for line in file.read_text().splitlines()]
            for file in self._files
        ]


@pytest.mark.parametrize(
    "variant", ["", "extended,id,timestamp", "xml,ktimestamp", "save", "labels,id"]
)
def test_an_event_stream_is_conntracks(
    namespace: str, populace: Populace, variant: str, tmp_path: Path
) -> None:
    words = ("-o", variant) if variant else ()
    both = (("conntrack", "-E", *words), (*SYNCD, "watch", *words))
    with Watching(namespace, tmp_path, *both) as watching:
        for _ in range(6):
            populace.add(60)  # more at once would be too many for conntrack's buffer
            time.sleep(0.05)
        with contextlib.suppress(RuntimeError):  # it stumbles over zones by direction
            run_in(namespace, "conntrack", "-U", "-p", "tcp", "--mark", "77")
        time.sleep(0.1)
        run_in(namespace, "conntrack", "-D", "-p", "udp")
        theirs, shown = watching.lines()
    assert len(theirs) > 400
    assert any("[USERSPACE] portid=" in line for line in shown)
    if "xml" not in variant:
        assert any(re.search(r" progname=python[\d.]*$", line) for line in shown)
    # A program may end before both have looked for its name.
    ended = re.compile(r" progname=conntrack$")
    assert [ended.sub("", line) for line in shown] == [
        ended.sub("", line) for line in theirs
    ]


def test_expectation_events_are_conntracks(
    namespace: str, populace: Populace, tmp_path: Path
) -> None:
    words = ("-o", "timestamp")
    both = (
        ("conntrack", "-E", "expect", *words),
        (*SYNCD, "watch", "expectations", *words),
    )
    with Watching(namespace, tmp_path, *both) as watching:
        populace.expect(40)
        run_in(namespace, "conntrack", "-F", "expect")
        theirs, shown = watching.lines()
    assert len(theirs) > 50
    assert shown == theirs


def test_a_count_ends_a_listing_and_a_watch(
    namespace: str, populace: Populace, tmp_path: Path
) -> None:
    populace.add(300)
    assert len(ours(namespace, "show", "--table", "kernel", "--count", "7")) == 7
    command = (*SYNCD, "watch", "--json", "--count", "5", "--event-mask", "destroy")
    with Watching(namespace, tmp_path, command) as watching:
        populace.add(100)  # older ones may report nothing: nobody listened
        run_in(namespace, "conntrack", "-F")
        assert watching.children[0].wait(10) == 0
        (lines,) = watching.lines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["destroy"] * 5


def test_a_reader_that_has_enough_ends_it_quietly(
    namespace: str, populace: Populace
) -> None:
    populace.add(3000)
    for words in (("show", "--table", "kernel"), ("watch",)):
        with inside(namespace):
            child = subprocess.Popen(
                [*SYNCD, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=PROJECT,
            )
        assert child.stdout is not None
        assert child.stderr is not None
        if words[0] == "show":
            child.stdout.readline()
        child.stdout.close()
        assert child.wait(20) == 141
        assert child.stderr.read() == b""
        child.stderr.close()


def test_events_that_were_lost_are_told(namespace: str, populace: Populace) -> None:
    with inside(namespace):
        child = subprocess.Popen(
            [*SYNCD, "watch", "--buffer-size", "4 KiB"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=PROJECT,
        )
    assert child.stderr is not None
    deadline = time.monotonic() + 20
    while not listeners(namespace) and time.monotonic() < deadline:
        time.sleep(0.01)
    populace.add(3000)
    said = child.stderr.readline().decode()
    stop(child)
    child.stderr.close()
    assert re.match(r"syncd: warning: \d+ events were lost, the socket's buffer", said)


def test_on_a_terminal_the_words_are_the_same(
    namespace: str, populace: Populace
) -> None:
    populace.add(200)
    plain = ours(namespace, "show", "--table", "kernel")
    master, terminal = os.openpty()
    with inside(namespace), open(terminal, "wb") as output:
        child = subprocess.Popen(
            [*SYNCD, "show", "--table", "kernel"],
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TERM": "xterm"},
            cwd=PROJECT,
        )
    text = b""
    with contextlib.suppress(OSError):  # EIO: the last one has closed the terminal
        while data := os.read(master, 65536):
            text += data
    os.close(master)
    assert child.wait(10) == 0
    assert b"\x1b[32m" in text
    shown = re.sub(r"\x1b\[\d+m", "", text.decode()).splitlines()
    assert [still(" ".join(line.split())) for line in shown] == [
        still(" ".join(line.split())) for line in plain
    ]
