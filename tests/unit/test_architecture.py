"""The house rules a machine can check: who imports whom, sizes, names, leftovers.

In: the project's own source files. Out: one line per breach. Each rule is a function
from a `Source` to its breaches, and each is proven able to fail on a small example.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
FILE_LINES = 500
FUNCTION_LINES = 60

PURE = frozenset({"flows", "replication"})
IMPURE_MODULES = frozenset(
    {"asyncio", "os", "random", "secrets", "select", "selectors", "signal", "socket"}
    | {"subprocess", "threading", "time"}
)
# The only module of syncd that may import each of these.
HOMES = {
    "asyncio_dgram": "syncd/link/udp.py",
    "cryptography": "syncd/replication/seal.py",
    "msgpack": "syncd/replication/frame.py",
    "pyroute2": "syncd/kernel/host.py",
    "xxhash": "syncd/flows/hashing.py",
    "zstandard": "syncd/replication/frame.py",
}
BASE = frozenset(
    {
        *("syncd.errors", "syncd.config", "syncd.config_account"),
        *("syncd.config_filter", "syncd.config_link"),
    }
)
_READING = frozenset({"syncd.errors", "syncd.section", "syncd.fingerprint"})
# What a room may import besides itself; a name covers the modules below it.
DOORS = {
    "errors": frozenset[str](),
    "section": frozenset({"syncd.errors"}),
    "config_account": frozenset({"syncd.section"}),
    "config_filter": frozenset({"syncd.section"}),
    "config_link": frozenset({"syncd.errors", "syncd.section"}),
    "fingerprint": frozenset[str](),
    "config": _READING
    | {"syncd.config_account", "syncd.config_filter", "syncd.config_link"},
    "keys": frozenset({"syncd.errors"}),
    "flows": BASE,
    "replication": BASE | {"syncd.flows"},
    "kernel": BASE,
    "link": BASE,
    "build": frozenset[str](),
    "daemon": BASE
    | {"syncd.build", "syncd.flows", "syncd.replication", "syncd.kernel", "syncd.link"}
    | {"syncd.__version__", "syncd.keys"},
    "cli": BASE
    | {"syncd.build", "syncd.flows.view", "syncd.__version__", "syncd.keys"}
    | {"syncd.fingerprint"}
    # The kernel's tables and events need no daemon (docs/adr/0013).
    | {"syncd.kernel.events", "syncd.kernel.listing", "syncd.kernel.program"}
    | {"syncd.kernel.policies"},
    "__main__": frozenset({"syncd.cli"}),
    "__init__": frozenset[str](),
}
BANNED_WORDS = frozenset(
    {"do", "helper", "helpers", "info", "manager", "misc", "process", "util", "utils"}
)
# "handle" is banned as a noun: as the verb that begins a function's name it is not.
BANNED_NOUNS = frozenset({"handle", "handles"})
# The one exception: a conntrack *helper* (nf_conntrack_ftp and its like) is the
# kernel's word (CTA_HELP, `ct helper`), used where conntrack is spoken of.
SPEAK_CONNTRACK = (
    "syncd/config.py",
    *("syncd/flows/", "syncd/kernel/", "tests/", "scripts/"),
)
GIVEN_WORDS = {"helper": SPEAK_CONNTRACK, "helpers": SPEAK_CONNTRACK}


@dataclass(frozen=True)
class Source:
    """A Python file: where it is in the project, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def room(self) -> str:
        """`flows`, `cli`, ... or "" outside of syncd."""
        parts = Path(self.path).with_suffix("").parts
        return parts[1] if parts[0] == "syncd" else ""


Rule = Callable[[Source], Iterator[str]]


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported; `from a import b` gives `a.b`."""
    package = Path(source.path).parent.parts
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def is_below(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


def doors(source: Source) -> Iterator[str]:
    """Rooms import only from the rooms before them."""
    if not source.room:
        return
    allowed = DOORS.get(source.room)
    if allowed is None:
        yield f"{source.path}: the room {source.room} is not on the plan"
        return
    for line, name in imported(source):
        if name == "syncd" or is_below(name, "syncd"):
            own = is_below(name, f"syncd.{source.room}")
            if not own and not any(is_below(name, door) for door in allowed):
                yield f"{source.path}:{line}: {source.room} may not import {name}"


def purity(source: Source) -> Iterator[str]:
    """The pure rooms get time and input as arguments, and know their types."""
    if source.room in PURE:
        for line, name in imported(source):
            if name.split(".")[0] in IMPURE_MODULES:
                yield f"{source.path}:{line}: a pure room may not import {name}"
            if name == "typing.Any":
                yield f"{source.path}:{line}: no Any in a pure room"


def homes(source: Source) -> Iterator[str]:
    """Each given dependency is imported in one module of syncd only."""
    if source.room:
        for line, name in imported(source):
            home = HOMES.get(name.split(".")[0])
            if home not in (None, source.path):
                yield f"{source.path}:{line}: {name} is imported in {home} only"


def late_imports(source: Source) -> Iterator[str]:
    """No import inside a function; only the command line loads a module by its name."""
    for outer in ast.walk(source.tree):
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(outer):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield f"{source.path}:{node.lineno}: import inside a function"
    if source.room and source.room != "cli":
        for line, name in imported(source):
            if name.split(".")[0] == "importlib":
                yield f"{source.path}:{line}: only cli loads a module by its name"


def star_imports(source: Source) -> Iterator[str]:
    for line, name in imported(source):
        if name.endswith(".*"):
            yield f"{source.path}:{line}: star import"


def sizes(source: Source) -> Iterator[str]:
    """A file fits in the head, a function on a screen."""
    lines = source.text.count("\n")
    if lines > FILE_LINES:
        yield f"{source.path}: {lines} lines, {FILE_LINES} are allowed"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            long = (node.end_lineno or node.lineno) - node.lineno + 1
            if long > FUNCTION_LINES:
                yield (
                    f"{source.path}:{node.lineno}: {node.name} has {long} lines, "
                    f"{FUNCTION_LINES} are allowed"
                )


def is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        makers = {"list", "dict", "set", "bytearray", "deque", "defaultdict", "Counter"}
        return value.func.id in makers
    displays = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    return isinstance(value, displays)


def module_state(source: Source) -> Iterator[str]:
    """No module-level mutable state: a container there is a constant, named as one."""
    if not source.room:
        return
    for node in source.tree.body:
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        for target in targets:
            if not isinstance(target, ast.Name) or not is_mutable(node.value):
                continue
            if not target.id.isupper() and target.id != "__all__":
                yield f"{source.path}:{node.lineno}: module state {target.id}"
    for inner in ast.walk(source.tree):
        if isinstance(inner, ast.Global):
            yield f"{source.path}:{inner.lineno}: global {', '.join(inner.names)}"


def defined(source: Source) -> Iterator[tuple[int, str, bool]]:
    """Line and name of everything the file names itself, and whether it is a verb."""
    yield 1, Path(source.path).stem, False
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, True
        elif isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, False
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, False
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, False


def words(name: str) -> list[str]:
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_")
    return [part for part in parts if part]


def names(source: Source) -> Iterator[str]:
    """A name says what a thing is; these words never do."""
    # A test's name is a sentence, and a sentence may use any word.
    for line, name, is_verb in defined(source):
        sentence = is_verb and name.startswith("test_")
        parts = [] if sentence else words(name)
        for position, word in enumerate(parts):
            given = source.path.startswith(GIVEN_WORDS.get(word, ()))
            noun = word in BANNED_NOUNS and not (is_verb and position == 0)
            if (word in BANNED_WORDS and not given) or noun:
                yield f"{source.path}:{line}: {name} contains the word {word}"


def package_files(source: Source) -> Iterator[str]:
    """`__init__.py` is empty; the package's own has the version, nothing else."""
    if Path(source.path).name == "__init__.py":
        for node in source.tree.body:
            docstring = isinstance(node, ast.Expr) and isinstance(
                node.value, ast.Constant
            )
            version = (
                source.path == "syncd/__init__.py"
                and isinstance(node, ast.Assign)
                and ast.unparse(node.targets[0]) == "__version__"
            )
            if not docstring and not version:
                yield f"{source.path}:{node.lineno}: code in __init__.py"


def ignores(source: Source) -> Iterator[str]:
    """`# type: ignore` carries a code and a reason."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        ignored = token.type == tokenize.COMMENT and "type: ignore" in token.string
        if ignored and not re.search(r"ignore\[[\w, -]+\]\W+\w", token.string):
            yield f"{source.path}:{token.start[0]}: type: ignore without a reason"


def leftovers(source: Source) -> Iterator[str]:
    """Nothing is left for later, and a licence line stands at most once."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if re.search(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", line):
            yield f"{source.path}:{number}: left for later"
    if source.text.count("SPDX-" + "License-Identifier") > 1:
        yield f"{source.path}: more than one licence line"


RULES: tuple[Rule, ...] = (
    doors,
    purity,
    homes,
    late_imports,
    star_imports,
    sizes,
    module_state,
    names,
    package_files,
    ignores,
    leftovers,
)


def is_python(file: Path) -> bool:
    if file.suffix:
        return file.suffix == ".py"
    with file.open("rb") as opened:
        first = opened.readline()
    return first.startswith(b"#!") and b"python" in first


@cache
def project_sources() -> tuple[Source, ...]:
    return tuple(
        Source(file.relative_to(PROJECT).as_posix(), file.read_text(encoding="utf-8"))
        for top in ("syncd", "tests", "scripts")
        for file in sorted((PROJECT / top).rglob("*"))
        if file.is_file() and is_python(file)
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_of_the_project_keeps_the_rule(rule: Rule) -> None:
    breaches = [breach for source in project_sources() for breach in rule(source)]
    assert not breaches, "\n".join(breaches)


def test_the_rules_see_every_room() -> None:
    seen = {source.room for source in project_sources()}
    assert {"errors", "config", *PURE, "kernel", "link", "daemon", "cli", ""} <= seen


LONG_FUNCTION = "def f() -> None:\n" + "    pass\n" * FUNCTION_LINES

BREACHES: tuple[tuple[Rule, str, str], ...] = (
    (doors, "syncd/flows/a.py", "from syncd.replication import frame"),
    (doors, "syncd/flows/a.py", "from syncd.replication.frame import Frame"),
    (doors, "syncd/flows/a.py", "from ..replication import frame"),
    (doors, "syncd/replication/a.py", "import syncd.kernel.events"),
    (doors, "syncd/replication/a.py", "def f() -> None:\n    import syncd.link.udp"),
    (doors, "syncd/kernel/a.py", "from syncd.flows.record import Record"),
    (doors, "syncd/kernel/a.py", "from syncd import link"),
    (doors, "syncd/link/a.py", "from syncd.kernel.host import Host"),
    (doors, "syncd/errors.py", "from syncd.config import Config"),
    (doors, "syncd/config.py", "from syncd import flows"),
    (doors, "syncd/cli/a.py", "from syncd.flows.record import Record"),
    (doors, "syncd/cli/a.py", "from syncd.flows import viewpoint"),
    (doors, "syncd/cli/a.py", "from syncd.daemon import node"),
    (doors, "syncd/daemon/a.py", "from syncd.cli.main import main"),
    (doors, "syncd/attic/a.py", ""),
    (purity, "syncd/flows/a.py", "import time"),
    (purity, "syncd/flows/a.py", "import os.path"),
    (purity, "syncd/replication/a.py", "from asyncio import Queue"),
    (purity, "syncd/replication/a.py", "from typing import Any"),
    (homes, "syncd/replication/inbox.py", "import msgpack"),
    (homes, "syncd/daemon/node.py", "from pyroute2 import IPRoute"),
    (late_imports, "syncd/cli/a.py", "def f() -> None:\n    import json"),
    (late_imports, "tests/a.py", "async def f() -> None:\n    from a import b"),
    (late_imports, "syncd/daemon/a.py", "import importlib"),
    (star_imports, "scripts/a", "from a import *"),
    (sizes, "syncd/a.py", "\n" * (FILE_LINES + 1)),
    (sizes, "scripts/a", LONG_FUNCTION),
    (sizes, "tests/a.py", "async " + LONG_FUNCTION),
    (module_state, "syncd/flows/a.py", "seen = {}"),
    (module_state, "syncd/flows/a.py", "seen: dict[str, int] = dict()"),
    (module_state, "syncd/link/a.py", "def f() -> None:\n    global seen"),
    (names, "syncd/flows/utils.py", ""),
    (names, "syncd/flows/a.py", "class FlowManager: ..."),
    (names, "syncd/flows/a.py", "def process_frame() -> None: ..."),
    (names, "syncd/flows/a.py", "def f(flow_info: int) -> None: ..."),
    (names, "syncd/flows/a.py", "class A:\n def f(self) -> None:\n  self.handle = 1"),
    (names, "syncd/link/a.py", "def helper() -> None: ..."),
    (names, "tests/test_utils.py", ""),
    (package_files, "syncd/flows/__init__.py", "from syncd.flows import nla"),
    (package_files, "syncd/flows/__init__.py", "__version__ = '1'"),
    (ignores, "syncd/a.py", "a = 1  # type: " + "ignore"),
    (ignores, "syncd/a.py", "a = 1  # type: " + "ignore[attr-defined]"),
    (leftovers, "tests/a.py", "# TO" + "DO: later"),
    (leftovers, "syncd/a.py", ("# SPDX-License-" + "Identifier: a\n") * 2),
)

ALLOWED: tuple[tuple[Rule, str, str], ...] = (
    (doors, "syncd/replication/a.py", "from syncd.flows.table import Table"),
    (doors, "syncd/cli/a.py", "from syncd.flows import view"),
    (doors, "syncd/cli/a.py", "from syncd.flows.view import line"),
    (doors, "syncd/cli/a.py", "from syncd import __version__"),
    (doors, "tests/a.py", "from syncd.replication import frame"),
    (purity, "syncd/kernel/a.py", "import time"),
    (purity, "syncd/flows/a.py", "from dataclasses import dataclass"),
    (homes, "syncd/replication/frame.py", "import msgpack"),
    (homes, "tests/a.py", "import pyroute2"),
    (late_imports, "syncd/cli/a.py", "import importlib"),
    (sizes, "syncd/a.py", "\n" * FILE_LINES),
    (module_state, "syncd/flows/a.py", "NAMES = {}\n_SIZES: dict[int, int] = {}"),
    (names, "syncd/flows/a.py", "def handle_frame(helper: str) -> None: ..."),
    (names, "tests/a.py", "def test_a_helper_may_do_it() -> None: ..."),
    (package_files, "syncd/__init__.py", '"""Text."""\n__version__ = "1"'),
    (ignores, "syncd/a.py", "a = 1  # type: " + "ignore[misc]  # untyped library"),
)


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES)
def test_a_breach_is_seen(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_what_is_allowed_is_not_a_breach(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))


def test_every_rule_is_proven_able_to_fail() -> None:
    assert {rule for rule, _, _ in BREACHES} == set(RULES)
