"""The build hook: annotated sources come in, extension modules for the wheel go out.

`SYNCD_COMPILE` says what to do: `require` fails loudly where it cannot compile, `off`
never compiles; without it, or with `auto`, a wheel is compiled where Cython and a C
compiler with Python.h are there, else it is pure Python, and one line says which. The
rule: the source tree stays free of extension modules, so that none can go stale in
front of an edited source; an editable installation is always pure Python.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# What every event, and every flow of a commit, passes.
MODULES = (
    *("flows/nla", "flows/record", "flows/reader", "flows/table", "flows/zones"),
    *("flows/digest", "flows/likeness", "flows/rollcall", "flows/doubts"),
    *("flows/own", "flows/filter", "flows/masquerade", "flows/batch"),
    *("flows/young", "flows/admission", "flows/restore", "flows/commit"),
    *("flows/triage", "flows/planted", "flows/planting", "flows/closing"),
    *("replication/frame", "replication/outbox", "replication/standby"),
    "replication/told",
)
_CYTHON = (3, 0)  # the first that knows pure Python mode with .pxd files as used here
_DIRECTIVES = (*("language_level=3", "annotation_typing=False", "binding=True"),)
_WAYS = ("auto", "require", "off")


class CompileHook(BuildHookInterface[Any]):
    """Adds the extension modules to a wheel."""

    _folder: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        way = os.environ.get("SYNCD_COMPILE") or "auto"
        if way not in _WAYS:
            raise SystemExit(f"SYNCD_COMPILE={way}: must be one of {', '.join(_WAYS)}")
        if self.target_name != "wheel" or version == "editable":
            return
        reason = "SYNCD_COMPILE=off" if way == "off" else obstacle()
        if not reason:
            self._folder = tempfile.mkdtemp(prefix="syncd-build-")
            try:
                built = compile_modules(Path(self.root), Path(self._folder))
            except CompileError as error:
                reason = str(error)
            else:
                build_data["force_include"].update(built)
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
                self.app.display_info(f"syncd: compiled {len(built)} modules")
                return
        if way == "require":
            raise SystemExit(f"SYNCD_COMPILE=require, but: {reason}")
        self.app.display_warning(f"syncd: not compiled, pure Python: {reason}")

    def finalize(
        self,
        version: str,  # noqa: ARG002 - given by hatchling
        build_data: dict[str, Any],  # noqa: ARG002
        artifact_path: str,  # noqa: ARG002
    ) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class CompileError(Exception):
    """Cython or the C compiler refused a module."""


def obstacle() -> str:
    """Why this machine cannot compile; "" if it can."""
    try:
        found = metadata.version("Cython")
    except metadata.PackageNotFoundError:
        return "there is no Cython; install Cython 3"
    if tuple(int(part) for part in found.split(".")[:2]) < _CYTHON:
        return f"Cython {found} is too old; install Cython 3"
    if shutil.which(compiler()[0]) is None:
        return f"there is no C compiler ({compiler()[0]}); install gcc"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "there is no Python.h; install python3-dev"
    return ""


def compiler() -> list[str]:
    """The C compiler: $CC, else that which made this Python, else gcc."""
    if words := shlex.split(os.environ.get("CC") or ""):
        return words
    words = shlex.split(sysconfig.get_config_var("CC") or "")[:1]
    return words if words and shutil.which(words[0]) else ["gcc"]


def compile_modules(root: Path, folder: Path) -> dict[str, str]:
    """Compile all modules into `folder`; file -> its place in the wheel."""
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))

    def build(name: str) -> tuple[str, str]:
        c_file = folder / f"{name.replace('/', '.')}.c"
        extension = c_file.with_suffix(suffix)
        run(root, *cython(name, c_file))
        run(root, *compiler(), *flags(), "-o", str(extension), str(c_file))
        return str(extension), f"syncd/{name}{suffix}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(pool.map(build, MODULES))


def cython(name: str, c_file: Path) -> list[str]:
    words = [sys.executable, "-m", "cython", "--module-name"]
    words += [f"syncd.{name.replace('/', '.')}"]
    for directive in _DIRECTIVES:
        words += ["-X", directive]
    return [*words, "-o", str(c_file), f"syncd/{name}.py"]


def flags() -> list[str]:
    include = sysconfig.get_path("include")
    words = ["-O2", "-fwrapv", "-fno-strict-aliasing", "-fPIC", "-shared", "-DNDEBUG"]
    words += [*shlex.split(os.environ.get("CFLAGS", "")), f"-I{include}"]
    return [*words, *shlex.split(os.environ.get("LDFLAGS", ""))]


def run(root: Path, *words: str) -> None:
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise CompileError(f"{words[-1]}: {Path(words[0]).name} failed\n{said}")
