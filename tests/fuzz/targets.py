"""What is fuzzed: each parser with its inputs, and what it owes for any bytes.

In: bytes. Out: a short word on what came of them (an answer, or the refusal that the
parser promises); anything else raises. A word that was never heard before tells that
the input found a new way through the parser.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgpack
from syncd import keys
from syncd.config import parse
from syncd.config_filter import FilterConfig
from syncd.daemon.commands import COMMANDS, read_request
from syncd.errors import ConfigError, ControlError, FrameError, RecordError
from syncd.flows import view
from syncd.flows.filter import RecordFilter
from syncd.flows.reader import RecordReader
from syncd.flows.record import EXPECTATION, merge
from syncd.link.stream import Connection
from syncd.replication.engine import ReplicationEngine
from syncd.replication.frame import Coder, Data
from syncd.replication.seal import ENFORCE, Sealer, Security
from syncd.replication.settings import Settings

_TESTS = Path(__file__).parents[1]
_DATA = _TESTS / "data"
_CORPUS = _DATA / "fuzz"
_NUMBERS = re.compile(r"[0-9]+|'[^']*'|\"[^\"]*\"|[0-9a-f]{8,}")
_KEY_ID, _SECRET = b"\1\2\3\4", bytes(range(32))
_SECURITY = Security(ENFORCE, {_KEY_ID: _SECRET}, _KEY_ID)
_ENGINE_LIFE = 300  # inputs
_REASONS = {"malformed", "version", "auth", "replay", "name", "peers", "mode"}


@dataclass(frozen=True, slots=True)
class Target:
    """One parser."""

    name: str
    check: Callable[[bytes], str]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...]
    share: int  # of the inputs

    @property
    def corpus_file(self) -> Path:
        """Where the inputs are that found something, one a line, as hex."""
        return _CORPUS / f"{self.name}.hex"

    def corpus(self) -> list[bytes]:
        """What there is to begin with."""
        kept: list[bytes] = []
        if self.corpus_file.exists():
            lines = self.corpus_file.read_text().splitlines()
            kept = [bytes.fromhex(line) for line in lines]
        return [*self.seeds, *kept]


def targets() -> dict[str, Target]:
    """All of them, by name."""
    found = (
        Target("frame", _frame, tuple(_datagrams()), _FIELDS, 30),
        Target("content", _content, tuple(_contents()), _FIELDS, 20),
        Target("seal", _Sealed(), tuple(_sealed()), _FIELDS, 5),
        Target("engine", _Engine(), tuple(_datagrams()), _FIELDS, 3),
        Target("record", _Record(), tuple(_messages()), _NETLINK, 25),
        Target("stream", _stream, tuple(_streams()), (b"\0\1", b"\xff\xff"), 5),
        Target("config", _config, tuple(_texts("conf", "*.toml")), _TOML, 3),
        Target("keys", _keys, tuple(_key_files()), (b"*", b"#", b"=", b"\n"), 4),
        Target("control", _control, tuple(_requests()), _JSON, 5),
    )
    return {target.name: target for target in found}


# Frames


def _recorded() -> Iterator[bytes]:
    for path in sorted((_DATA / "frames").glob("*/*.jsonl")):
        for line in path.read_text().splitlines():
            yield bytes.fromhex(json.loads(line)["hex"])


def _datagrams() -> Iterator[bytes]:
    yield from list(_recorded())[::4]
    node = _engine("fw1", 5)
    for beat in range(4):
        yield from (datagram for _, datagram in node.send(float(beat)))


def _contents() -> Iterator[bytes]:
    """Payloads that are not packed, so that changes reach what is in them."""
    coder = Coder()
    for datagram in _datagrams():
        payload = coder.unwrap(datagram).payload
        if payload[:1] == b"\1":
            payload = b"\0" + coder._decompress(payload[1:])
        yield payload


def _sealed() -> Iterator[bytes]:
    sealer = Sealer("fw1", 5, _SECURITY)
    for number, payload in enumerate(_contents(), 1):
        yield sealer.seal(number % 3, number, payload[:1200])


_WORDS_OF_FIELDS: tuple[object, ...] = (
    *("version", "order", "capabilities", "role", "claim", "owner", "floor"),
    *("reply", "flows", "expectations", "acks", "services", "digest", "compare"),
    *("fw1", "fw2", 1, -1, 1 << 63, [], {}, None, b"", 1.5, [0, 0], [1, 2, 3, 4]),
)
_FIELDS = tuple(cast(bytes, msgpack.packb(word)) for word in _WORDS_OF_FIELDS)
_coder = Coder()
_loop = asyncio.new_event_loop()  # a connection wants to know of one


def _word(error: Exception) -> str:
    return _NUMBERS.sub("_", str(error))[:120]


def _refused(error: FrameError) -> str:
    assert error.reason in _REASONS, error.reason
    return _word(error)


def _listed(problems: list[str], begin: str) -> str:
    assert problems
    for problem in problems:
        assert problem.startswith(begin), problem
        assert len(problem.splitlines()) == 1, problem
    return _NUMBERS.sub("_", problems[0])[:120]


def _frame(datagram: bytes) -> str:
    try:
        frame = _coder.unpack(datagram)
    except FrameError as error:
        return _refused(error)
    return type(frame.content).__name__


def _content(payload: bytes) -> str:
    try:
        content = _coder.content(payload)
    except FrameError as error:
        return _refused(error)
    if isinstance(content, Data):
        for part in (content.flows, content.flow_ends, content.expectations):
            assert all(type(item) is bytes for item in part)
        return f"data {bool(content.flows)}{bool(content.flow_ends)}"
    return type(content).__name__


class _Sealed:
    """Nothing is opened that was not sealed by who says so."""

    def __init__(self) -> None:
        self._known = frozenset(_sealed())
        self._begin()

    def _begin(self) -> None:
        self._sealer = Sealer("fw2", 6, _SECURITY)
        self._count = 0

    def __call__(self, datagram: bytes) -> str:
        self._count += 1
        if self._count > _ENGINE_LIFE:
            self._begin()
        try:
            envelope = _coder.unwrap(datagram)
            self._sealer.open(envelope, datagram)
        except FrameError as error:
            return _refused(error)
        assert datagram in self._known, "a frame was opened that nobody sealed"
        return "opened"


def _engine(name: str, epoch: int) -> ReplicationEngine:
    everything = RecordFilter(FilterConfig(), expectations=True)
    node = ReplicationEngine(name, epoch, Settings(), everything, 0.0)
    node.begin_dump(0.0)
    node.end_dump(0.0)
    return node


class _Engine:
    """An engine that lives on whatever it was told, and keeps to its limits."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._node = _engine("fw9", 7)
        self._count = 0
        self._now = 0.0

    def __call__(self, datagram: bytes) -> str:
        self._count += 1
        if self._count > _ENGINE_LIFE:
            self._begin()
        node = self._node
        self._now += 0.02
        reason = node.receive(datagram, 0, "10.0.0.2", self._now)
        assert reason is None or reason in _REASONS, reason
        node.tick(self._now)
        for _, answer in node.send(self._now):
            assert len(answer) <= Settings().frame_bytes
        assert len(node.take_messages()) <= 300
        assert len(node.peers) <= Settings().peer_limit + 16
        node.deadline()
        return str(reason)


def _stream(data: bytes) -> str:
    return _loop.run_until_complete(_take_stream(data))


async def _take_stream(data: bytes) -> str:
    owner = _Owner()
    connection = Connection(owner, "10.0.0.2", 1 << 16)
    for at in range(0, len(data), 700):
        if not owner.broken:
            connection.data_received(data[at : at + 700])
    return f"{min(owner.datagrams, 3)} {owner.broken}"


class _Owner:
    """Who the stream is for."""

    def __init__(self) -> None:
        self.datagrams = 0
        self.broken = False

    def arrived(self, connection: Connection, datagrams: list[bytes]) -> None:
        """Whole datagrams."""
        assert isinstance(connection, Connection)
        assert all(datagrams)
        self.datagrams += len(datagrams)

    def broke(self, connection: Connection) -> None:
        """Not a stream of datagrams."""
        assert isinstance(connection, Connection)
        self.broken = True

    def ended(self, connection: Connection) -> None:
        """Closed."""
        assert isinstance(connection, Connection)


def _streams() -> Iterator[bytes]:
    some = list(_datagrams())[:12]
    for count in (1, 3, 6):
        yield b"".join(len(one).to_bytes(4) + one for one in some[:count])


# Records

_NETLINK = (b"\x08\x00\x07\x00\0\0\0\1", b"\x04\x00\x01\x80", b"\x08\x00\x03\x00")


def _messages() -> Iterator[bytes]:
    for path in sorted((_DATA / "ctnetlink").glob("*.jsonl")):
        for line in path.read_text().splitlines()[::3]:
            if "hex" in (said := json.loads(line)):
                yield bytes.fromhex(said["hex"])


class _Record:
    """By layouts and by a walk alike, and what was read can be shown and merged."""

    def __init__(self) -> None:
        self._learned = RecordReader(by_layouts=True)
        self._learned.read(list(_messages()))

    def __call__(self, message: bytes) -> str:
        try:
            walked = [RecordReader().read_one(message)]
            word = "record"
        except RecordError as error:
            walked, word = [], _word(error)
        assert self._learned.read([message]) == walked
        for kind, key, body, _, _ in walked:
            if key[6] != EXPECTATION:
                merged, mask = merge(body, body)
                assert merge(merged, merged) == (merged, mask)
            word = f"{kind} {_shown(key, body)}"
        return word


def _shown(key: bytes, body: bytes) -> str:
    try:
        description = view.describe(key, body)
        assert view.line(key, body).isprintable()
    except RecordError as error:
        return _word(error)
    json.dumps(description)
    return "shown"


# Texts

_TOML = tuple(
    word.encode()
    for word in (
        *("\n", '"', "[", "]", "[[link]]", "=", "{", "}", ",", "#", "true", "-1"),
        *("1e400", "nan", "0x", "\n[node]\n", "name", "type", "peers", "mode", '"""'),
        *("group", "port", "accept", "ignore", "key_file", "9" * 40, "\0", "\u2028"),
    )
)


def _texts(folder: str, pattern: str) -> Iterator[bytes]:
    for path in sorted((_TESTS.parent / folder).rglob(pattern)):
        yield path.read_bytes()
    yield b'[[link]]\ntype = "unicast"\nlocal = "10.0.0.1"\npeers = ["10.0.0.2"]\n'


def _config(data: bytes) -> str:
    try:
        parse(data.decode(errors="replace"), "f.toml", "host")
    except ConfigError as error:
        return _listed(error.problems, "f.toml:")
    return "taken"


def _key_files() -> Iterator[bytes]:
    first, second = bytes(range(32)).hex(), bytes(range(1, 33)).hex()
    yield f"{first}\n".encode()
    yield f"# keys\n* {first} # old\n{second} new one\n".encode()
    yield b"*AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"


def _keys(data: bytes) -> str:
    try:
        ring = keys.parse(data.decode(errors="replace"), "keys")
    except ConfigError as error:
        return _listed(error.problems, "keys:")
    assert ring.keys
    return f"{len(ring.keys)} keys"


_JSON = tuple(
    word.encode()
    for word in (
        *('"command"', '"what"', "null", "{", "}", "[", "]", ":", ",", "1e999", "NaN"),
        *("[" * 200, "true", "-0", '"\\ud800"', '"table"', '"own"', '"timeout"', "9e9"),
    )
)


def _requests() -> Iterator[bytes]:
    for name, command in COMMANDS.items():
        yield json.dumps({"command": name}).encode()
        for option in command.options:
            for value in ("own", 3, True, "10.0.0.0/8", "pull", "tcp"):
                yield json.dumps({"command": name, option: value}).encode()


def _control(line: bytes) -> str:
    try:
        request = read_request(line)
    except ControlError as error:
        return f"{error.status} {_listed([str(error)], '')}"
    known = COMMANDS[request.command].options
    assert all(known[key].accepts(value) for key, value in request.options.items())
    return request.command
