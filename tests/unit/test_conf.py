"""Every file in `conf/` is loaded, and so is every key that it shows in a comment."""

import configparser
import re
from dataclasses import replace
from pathlib import Path

import pytest
from syncd.config import Config, load, parse

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(CONF.glob("*.toml"))


def test_the_unit_asks_for_one_capability_and_a_user() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign] # case counts here
    unit.read_string((CONF / "syncd.service").read_text())
    service = unit["Service"]
    assert service["AmbientCapabilities"] == "CAP_NET_ADMIN"
    assert service["CapabilityBoundingSet"] == "CAP_NET_ADMIN"
    assert service["User"] == "syncd"
    assert service["ExecStart"].endswith("/syncd run")
    assert "ProtectKernelTunables" not in service


def test_there_is_an_example() -> None:
    assert CONF / "syncd.toml" in FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_file_is_accepted(file: Path) -> None:
    config = load(str(file))
    assert config.links or config.accounting.wanted


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_keys_in_comments_are_accepted_too(file: Path) -> None:
    text = file.read_text()
    uncommented = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text)
    assert uncommented != text
    assert parse(uncommented, file.name).links == load(str(file)).links


def test_the_comments_of_the_example_show_the_defaults() -> None:
    text = (CONF / "syncd.toml").read_text()
    shown = parse(re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text), "conf")
    default = Config(node=shown.node, links=shown.links)
    assert shown.control == default.control
    assert shown.replication == default.replication
    assert shown.security == default.security
    assert shown.kernel == default.kernel
    assert shown.commit == default.commit
    places = replace(shown.accounting, json="", text="", ipfix="")
    assert places == default.accounting
