"""The two builds: which one runs, and what a build may be made of."""

import ast
import os
import re
from pathlib import Path

import pytest
from syncd import build
from syncd.flows import record

PROJECT = Path(__file__).resolve().parents[2]


def test_the_build_that_is_told_is_the_one_that_runs() -> None:
    pure = record.__file__.endswith(".py")
    assert build.name() == ("pure Python" if pure else "compiled")
    assert build.name() == os.environ.get("SYNCD_BUILD", "pure Python")


def test_the_source_tree_has_no_extension_modules() -> None:
    assert not list((PROJECT / "syncd").rglob("*.so"))


def test_what_has_c_types_is_compiled() -> None:
    text = (PROJECT / "scripts" / "hatch_build.py").read_text()
    for file in (PROJECT / "syncd").rglob("*.pxd"):
        name = file.relative_to(PROJECT / "syncd").with_suffix("").as_posix()
        if "cpdef inline" in file.read_text():
            continue  # others include it
        assert f'"{name}"' in text, f"{name}: add it to MODULES in hatch_build.py"


def declared(text: str) -> dict[str, set[str]]:
    """The attributes that a .pxd declares, by class."""
    found: dict[str, set[str]] = {}
    for block in re.split(r"(?m)^(?=\S)", text):
        if opened := re.match(r"cdef class (\w+)", block):
            lines = re.findall(r"(?m)^    cdef (?:public |readonly )?(.+)$", block)
            attributes = [line for line in lines if "(" not in line]
            found[opened[1]] = {
                name.strip().split()[-1].split("[")[0]
                for line in attributes
                for name in line.split(",")
            }
    return found


@pytest.mark.parametrize(
    "file", sorted((PROJECT / "syncd").rglob("*.pxd")), ids=lambda file: file.stem
)
def test_what_a_class_holds_is_declared_for_the_compiler_too(file: Path) -> None:
    module = ast.parse(file.with_suffix(".py").read_text())
    slots = {
        outer.name: set(ast.literal_eval(node.value))
        for outer in module.body
        if isinstance(outer, ast.ClassDef)
        for node in outer.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__"
    }
    for name, attributes in declared(file.read_text()).items():
        assert attributes == slots[name], f"{file}: {name}"
