"""The two builds: which one runs, and what a build may be made of."""

import os
from pathlib import Path

from syncd import build
from syncd.flows import record

PROJECT = Path(__file__).resolve().parents[2]


def test_the_build_that_is_told_is_the_one_that_runs() -> None:
    pure = record.__file__.endswith(".py")
    assert build.name() == ("pure Python" if pure else "compiled")
    assert build.name() == os.environ.get("SYNCD_BUILD", "pure Python")


def test_the_source_tree_has_no_extension_modules() -> None:
    assert not list((PROJECT / "syncd").rglob("*.so"))
