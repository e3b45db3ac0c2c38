"""The documents are held against the code: snippets, keys, defaults, words, links."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
from syncd import config, config_filter, config_link
from syncd.cli import main
from syncd.config import Config, load, parse

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
BASE = '[[link]]\ninterface = "eth2"\ngroup = "225.0.0.50"\n[security]\nmode = "off"\n'
SNIPPETS = [
    pytest.param(found, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, found in enumerate(
        re.findall(r"(?ms)^```toml\n(.*?)^```", document.read_text()), 1
    )
]
CONFIGURATION = (PROJECT / "docs/configuration.md").read_text()
OPERATION = (PROJECT / "docs/operation.md").read_text()
README = (PROJECT / "README.md").read_text()
SECTIONS = {
    "node": config.NodeConfig,
    "control": config.ControlConfig,
    "link": config_link.LinkConfig,
    "replication": config.ReplicationConfig,
    "security": config.SecurityConfig,
    "kernel": config.KernelConfig,
    "commit": config.CommitConfig,
    "filter": config_filter.FilterConfig,
}


def section_of(name: str) -> str:
    """The text of the configuration's chapter of one table."""
    found = re.search(rf"(?ms)^## \[+{name}\]+\n(.*?)(?=^## |\Z)", CONFIGURATION)
    assert found is not None, name
    return found[1]


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_is_a_configuration_or_a_part_of_one(snippet: str) -> None:
    whole = "link" in tomllib.loads(snippet)
    parsed = parse(snippet if whole else BASE + snippet, "snippet", host="fw1")
    assert parsed.links


def test_the_configuration_of_the_containers_is_accepted() -> None:
    file = PROJECT / "conf/compose/syncd.toml"
    assert load(str(file)).links[0].interface == "eth2"


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_has_its_row(name: str) -> None:
    keys = [field.name for field in dataclasses.fields(SECTIONS[name])]
    rows = re.findall(r"(?m)^\| `(\w+)` \|", section_of(name))
    assert sorted(rows) == sorted(keys)


@pytest.mark.parametrize("name", ["control", "link", "replication", "kernel", "commit"])
def test_the_defaults_in_the_rows_are_those_of_the_code(name: str) -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \| `([^`]+)` \|", section_of(name))
    assert rows
    shown = "".join(f"{key} = {value}\n" for key, value in rows)
    if name == "link":
        text = BASE.replace("[[link]]\n", f"[[link]]\n{shown}")
    else:
        text = f"{BASE}[{name}]\n{shown}"
    assert without_links(parse(text, "rows", "fw1")) == without_links(
        parse(BASE, "base", "fw1")
    )


def without_links(parsed: Config) -> object:
    """Configurations to compare; a link's defaults are compared by value."""
    return dataclasses.asdict(parsed)


@pytest.mark.parametrize("text", [README, OPERATION], ids=["readme", "operation"])
def test_every_command_that_there_is_is_documented(text: str) -> None:
    commands = {"run", "check-config", *main._CLIENTS}
    assert not [name for name in commands if not re.search(rf"`[^`]*\b{name}\b", text)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    lost = [target for target in targets if not (document.parent / target).exists()]
    assert not lost


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    paths = r"`((?:scripts|conf|docs|tests|syncd)/[\w./-]+)`"
    named = re.findall(paths, document.read_text())
    lost = [
        name
        for name in named
        if not (PROJECT / name).exists() and not (PROJECT / f"{name}.py").exists()
    ]
    assert not lost
