"""TOML text comes in, frozen dataclasses go out, or `ConfigError` with every problem.

A problem is one line, `FILE:KEY: what is wrong, what is allowed`; links are counted
from one (`link[1].group`). TOML that cannot be read at all is `FILE:LINE: why`.
Every client command imports this module: nothing slow is imported here.
"""

import platform
import re
import tomllib
from dataclasses import dataclass, field, replace
from typing import Final

from syncd.config_account import AccountingConfig, read_accounting
from syncd.config_filter import FilterConfig, read_filter
from syncd.config_link import LinkConfig, read_links
from syncd.errors import ConfigError
from syncd.fingerprint import fingerprint
from syncd.section import MIB, Section, shown

ALL_MARKS: Final = (1 << 32) - 1
ALL_LABELS: Final = (1 << 128) - 1
DEFAULT_SOCKET: Final = "/run/syncd/syncd.sock"

_TOML_PLACE: Final = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of .*)\)$")
_FILE_LIMIT: Final = 1 * MIB
_MODES: Final = ("reliable", "refresh", "best-effort")
_SOCKET_LIMIT: Final = 107  # sockaddr_un holds 108 bytes with the closing NUL


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Who this node is."""

    name: str  # Unique in the cluster; by default the host name.


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Where clients reach the daemon."""

    socket: str = DEFAULT_SOCKET  # Path of the unix socket, created with mode 0600.


@dataclass(frozen=True, slots=True)
class ReplicationConfig:
    """How nodes agree."""

    mode: str = "reliable"  # Every change is acknowledged, a lost one is sent again.
    standby: str = "table"  # Where the backup keeps peers' flows, or "kernel".
    warm_timeout_s: int = 600  # Standby kernel: longest timer of a copy.
    expectations: bool | tuple[str, ...] = True  # All, none, or of these helpers.
    wildcard_expectations: str = "restrict"  # Those of any source: see security.md.
    hello_interval_s: float = 0.5  # Time between two signs of life.
    silence_s: float = 3.0  # A peer that is silent for this long counts as lost.
    link_hellos: int = 3  # Hello intervals without a word: the link is silent.
    link_hold_s: float = 5.0  # A link that failed has to be good for so long.
    peer_limit: int = 32  # Other nodes that are known at the same time.
    peer_flows_limit: int = 2_000_000  # Flows that are kept of one peer.
    forget_after_s: float = 86400.0  # A peer that is away for so long is forgotten.
    refresh_interval_s: float = 60.0  # Mode refresh: everything is told once in it.
    expire_s: float = 180.0  # Mode refresh: what is not told again in it has ended.
    slow_peer_s: float = 1.0  # One peer may hold the others up for so long.
    ready_timeout_s: float = 60.0  # Longest time to wait for proof before `ready`.
    window_frames: int = 256  # Frames that may be unacknowledged by a peer.
    beat_s: float = 0.01  # Longest time a change waits for others to travel with.


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """What protects the frames."""

    mode: str = "enforce"  # Frames are sealed, and no others are taken.
    key_file: str = "/etc/syncd/keys"  # Where the keys are kept.


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """How the kernel's events are received."""

    receive_buffer: int = 16 * MIB  # Bytes of the event socket's buffer.
    reliable_events: bool = False  # The kernel keeps and retries undelivered events.
    audit_interval_s: float = 60.0  # Between two comparisons with the kernel; 0: none.


@dataclass(frozen=True, slots=True)
class CommitConfig:
    """How peers' flows are put into the kernel."""

    timeout: int | None = None  # Seconds for every flow; None is an estimate of each.
    mark_mask: int = ALL_MARKS  # Bits of marks that are restored.
    labels: bool = True  # Restore labels at all?
    label_mask: int = ALL_LABELS  # Bits of labels that are restored, bit N for label N.


@dataclass(frozen=True, slots=True)
class Config:
    """All that one daemon is told."""

    node: NodeConfig
    links: tuple[LinkConfig, ...]  # In order of preference; none: accounting only.
    control: ControlConfig = ControlConfig()
    replication: ReplicationConfig = ReplicationConfig()
    security: SecurityConfig = SecurityConfig()
    kernel: KernelConfig = KernelConfig()
    commit: CommitConfig = CommitConfig()
    filter: FilterConfig = field(default_factory=FilterConfig)
    accounting: AccountingConfig = field(default_factory=AccountingConfig)
    fingerprint: str = ""  # Of the file it was read from.
    path: str = ""  # Of that file, when a daemon runs with it: absolute.


def load(path: str) -> Config:
    """Read and check the file; an unreadable one is a `ConfigError` too."""
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        problem = f"{path}: cannot be read: {reason}"
        if isinstance(error, FileNotFoundError):
            problem += ", write it (docs/configuration.md) or give --config FILE"
        raise ConfigError([problem]) from error
    if len(data) > _FILE_LIMIT:
        raise ConfigError([f"{path}: is larger than 1 MiB, not a configuration"])
    try:
        config = parse(data.decode(), path)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8 text"]) from error
    return replace(config, fingerprint=fingerprint(data))


def parse(text: str, file: str, host: str | None = None) -> Config:
    """Check TOML text; `file` is the name that problems begin with."""
    host = platform.node() if host is None else host
    try:
        data: dict[str, object] = tomllib.loads(text)
    except ValueError as error:  # also an integer too long for int()
        raise ConfigError([_toml_problem(text, file, str(error))]) from error
    except RecursionError as error:
        raise ConfigError([f"{file}: is nested too deeply"]) from error
    problems: list[str] = []
    root = Section(data, "", problems)
    accounting = read_accounting(root)
    config = Config(
        node=_node(root.section("node"), host),
        control=_control(root.section("control")),
        links=read_links(root, needed="accounting" not in root),
        replication=_replication(root.section("replication")),
        security=_security(root.section("security")),
        kernel=_kernel(root.section("kernel"), reliable=accounting.wanted),
        commit=_commit(root.section("commit")),
        filter=read_filter(root.section("filter")),
        accounting=accounting,
    )
    root.finish()
    if problems:
        raise ConfigError([f"{file}:{problem}" for problem in problems])
    return config


def _node(section: Section, host: str) -> NodeConfig:
    rule = "1 to 64 printable characters without spaces"
    if "name" not in section and not _is_name(host):
        section.refuse("name", f"must be given: the host name is not {rule}")
    name = section.text("name", host, rule, _is_name)
    section.finish()
    return NodeConfig(name)


def _control(section: Section) -> ControlConfig:
    rule = f"an absolute path of at most {_SOCKET_LIMIT} bytes"
    path = section.text("socket", DEFAULT_SOCKET, rule, _is_socket_path)
    section.finish()
    return ControlConfig(path)


def _replication(section: Section) -> ReplicationConfig:
    default = ReplicationConfig()
    helpers: bool | tuple[str, ...] = True
    if isinstance(section.take("expectations"), list):
        helpers = section.items("expectations", "names of helpers", _helper)
    else:
        value = section.take("expectations")
        helpers = value if isinstance(value, bool) else True
        if value is not None and not isinstance(value, bool):
            rule = 'true, false or a list of helpers such as ["ftp"]'
            section.refuse("expectations", f"is {shown(value)}, must be {rule}")
    result = ReplicationConfig(
        mode=section.word("mode", "reliable", _MODES),
        standby=section.word("standby", "table", ("table", "kernel")),
        warm_timeout_s=section.whole(
            "warm_timeout_s", default.warm_timeout_s, 60, 86400
        ),
        expectations=helpers,
        wildcard_expectations=section.word(
            "wildcard_expectations",
            default.wildcard_expectations,
            ("restrict", "accept", "refuse"),
        ),
        hello_interval_s=section.seconds(
            "hello_interval_s", default.hello_interval_s, 0.05, 60
        ),
        silence_s=section.seconds("silence_s", default.silence_s, 0.2, 600),
        link_hellos=section.whole("link_hellos", default.link_hellos, 1, 100),
        link_hold_s=section.seconds("link_hold_s", default.link_hold_s, 0, 3600),
        peer_limit=section.whole("peer_limit", default.peer_limit, 1, 64),
        peer_flows_limit=section.whole(
            "peer_flows_limit", default.peer_flows_limit, 1, 100_000_000
        ),
        refresh_interval_s=section.seconds(
            "refresh_interval_s", default.refresh_interval_s, 1, 3600
        ),
        expire_s=section.seconds("expire_s", default.expire_s, 2, 86400),
        slow_peer_s=section.seconds("slow_peer_s", default.slow_peer_s, 0.1, 60),
        forget_after_s=section.seconds(
            "forget_after_s", default.forget_after_s, 60, 31_536_000
        ),
        ready_timeout_s=section.seconds(
            "ready_timeout_s", default.ready_timeout_s, 0, 86400
        ),
        window_frames=section.whole("window_frames", default.window_frames, 4, 65536),
        beat_s=section.seconds("beat_s", default.beat_s, 0.001, 1),
    )
    if result.expire_s < 2 * result.refresh_interval_s:
        section.refuse("expire_s", "must be at least twice refresh_interval_s")
    if result.silence_s < 2 * result.hello_interval_s:
        section.refuse("silence_s", "must be at least twice hello_interval_s")
    section.finish()
    return result


def _security(section: Section) -> SecurityConfig:
    mode = section.word("mode", "enforce", ("enforce", "permissive", "off"))
    rule = "an absolute path"
    key_file = section.text(
        "key_file", SecurityConfig().key_file, rule, lambda path: path[:1] == "/"
    )
    section.finish()
    return SecurityConfig(mode, key_file)


def _kernel(section: Section, *, reliable: bool) -> KernelConfig:
    """Who keeps accounts misses no end, unless that is not wanted."""
    size = section.size("receive_buffer", 16 * MIB)
    reliable = section.flag("reliable_events", default=reliable)
    default_s = KernelConfig().audit_interval_s
    audit_s = section.seconds("audit_interval_s", default_s, 0, 86400)
    section.finish()
    return KernelConfig(size, reliable, audit_s)


def _commit(section: Section) -> CommitConfig:
    timeout = None
    if section.take("timeout") not in (None, "estimate"):
        value = section.take("timeout")
        if isinstance(value, int) and value is not True and 1 <= value <= 8_589_934:
            timeout = value  # the kernel clips what is larger
        else:
            rule = '"estimate" or whole seconds from 1 to 8589934'
            section.refuse("timeout", f"is {shown(value)}, must be {rule}")
    mark_mask = section.whole("mark_mask", ALL_MARKS, 0, ALL_MARKS)
    rule = 'hexadecimal digits such as "0x00ff", bit N for label N, at most 32'
    label_mask = section.text("label_mask", f"{ALL_LABELS:#x}", rule, _is_label_mask)
    labels = section.flag("labels", default=True)
    section.finish()
    return CommitConfig(timeout, mark_mask, labels, int(label_mask, 16))


def _helper(value: object) -> str | None:
    valid = isinstance(value, str) and value.isascii() and value.isprintable()
    return value if valid and isinstance(value, str) and 1 <= len(value) <= 15 else None


def _is_name(value: str) -> bool:
    return 1 <= len(value) <= 64 and value.isprintable() and " " not in value


def _is_label_mask(value: str) -> bool:
    return re.fullmatch(r"(0x)?[0-9a-fA-F]{1,32}", value) is not None


def _is_socket_path(value: str) -> bool:
    return (
        value[:1] == "/"
        and "\0" not in value
        and len(value.encode(errors="replace")) <= _SOCKET_LIMIT
    )


def _toml_problem(text: str, file: str, message: str) -> str:
    match = _TOML_PLACE.search(message)
    line = match[1] if match else None
    place = f"{file}:{line or text.count(chr(10)) + 1}" if match else file
    return f"{place}: is not TOML: {_TOML_PLACE.sub('', message)}"
