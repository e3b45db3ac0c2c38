"""Words of the command line go in, an exit status and short lines come out."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from syncd import __version__
from syncd.cli.main import main

LEAST = """
[node]
name = "fw1"
[control]
socket = "{socket}"
[[link]]
interface = "eth2"
group = "225.0.0.50"
[security]
mode = "off"
"""
Output = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "syncd.toml"
    file.write_text(LEAST.format(socket=tmp_path / "s"))
    return file


def exit_status(*words: str) -> object:
    """The status, also when argparse gives it."""
    try:
        return main(list(words))
    except SystemExit as end:
        return end.code


def test_a_good_configuration_is_answered_by_silence(
    config: Path, capsys: Output
) -> None:
    assert main(["check-config", str(config)]) == 0
    assert main(["check-config", "--config", str(config)]) == 0
    assert main(["-c", str(config), "check-config"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_every_problem_of_a_configuration_is_a_line(
    config: Path, capsys: Output
) -> None:
    config.write_text(config.read_text() + "[kernle]\n[commit]\ntimeout = 0\n")
    assert main(["check-config", str(config)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        f"{config}:commit.timeout:",
        f"{config}:kernle:",
    ]
    assert main(["check-config", str(config), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"ok": False, "problems": lines}


def test_no_daemon_is_status_3(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "s"
    for words in (["status"], ["show", "flows"], ["commit"], ["stop"]):
        assert main([*words, "--socket", str(path)]) == 3
        lines = capsys.readouterr().err.splitlines()
        assert lines == [
            f"syncd: no daemon answers at {path} (No such file or directory),"
            ' is "syncd run" running?'
        ]


def test_a_socket_that_nobody_serves_is_status_3(
    tmp_path: Path, capsys: Output
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert main(["--socket", str(path), "status"]) == 3
    assert "Connection refused" in capsys.readouterr().err


def test_the_socket_is_found_through_the_configuration(
    config: Path, capsys: Output
) -> None:
    assert main(["status", "-c", str(config)]) == 3
    assert str(config.parent / "s") in capsys.readouterr().err


def test_this_nodes_key_file_is_checked_but_not_that_of_another_file(
    config: Path, tmp_path: Path, capsys: Output
) -> None:
    keys = tmp_path / "keys"
    text = config.read_text().replace('mode = "off"', f'key_file = "{keys}"')
    config.write_text(text)
    assert main(["check-config", str(config)]) == 0
    assert main(["check-config", "--config", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{keys}: no key file: copy it from")
    assert main(["keygen", "--config", str(config)]) == 0
    capsys.readouterr()
    assert main(["check-config", "--config", str(config)]) == 0
    keys.chmod(0o644)
    assert main(["check-config", "--config", str(config)]) == 2
    assert f"chmod 600 {keys}" in capsys.readouterr().err


def test_a_missing_configuration_is_to_be_written(
    tmp_path: Path, capsys: Output
) -> None:
    for words in (["check-config"], ["run"]):
        assert main([*words, "-c", str(tmp_path / "none.toml")]) == 2
        assert "write it (docs/configuration.md)" in capsys.readouterr().err


def test_a_peer_that_is_named_belongs_to_the_peer_table(capsys: Output) -> None:
    words = ["show", "--socket", "/none", "--peer", "fw2"]
    for table in ("own", "kernel"):
        assert main([*words, "--table", table]) == 2
        assert "goes with --table peer" in capsys.readouterr().err
    assert main(words) == 3  # asks the daemon


def test_a_configuration_that_is_not_there_gets_a_hint(
    tmp_path: Path, capsys: Output
) -> None:
    assert main(["status", "-c", str(tmp_path / "none.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("give --config FILE or --socket PATH")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("nonsense", "'nonsense' is not one of text, xml, save, json, proc"),
        ("xml,json", "json and xml exclude each other"),
        ("save,id", "save has no id: use save alone"),
    ],
)
def test_an_output_that_is_not_there_is_refused(
    output: str, reason: str, capsys: Output
) -> None:
    for command in ("show", "watch"):
        assert main([command, "--socket", "/nowhere", "--output", output]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["shwo"], "show"),
        (["show", "flosw"], "flows"),
        (["show", "--tble", "kernel"], "--table"),
        (["watch", "--event-maks=new"], "--event-mask"),
        (["show", "--table", "kernle"], "kernel"),
    ],
)
def test_what_is_misspelt_gets_a_hint(
    words: list[str], meant: str, capsys: Output
) -> None:
    assert exit_status(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"(did you mean {meant}?)" in line


@pytest.mark.parametrize("command", ["show", "watch"])
def test_a_help_has_examples(command: str, capsys: Output) -> None:
    assert exit_status(command, "--help") == 0
    assert f"\nexamples:\n  syncd {command} " in capsys.readouterr().out


def test_a_filter_is_checked_before_the_daemon_is_asked(capsys: Output) -> None:
    assert main(["show", "--socket", "/nowhere", "--src", "x"]) == 2
    assert capsys.readouterr().err.startswith("syncd: --src: 'x' is not an address")


@pytest.mark.parametrize(
    "words",
    [
        *([], ["nonsense"], ["flush"], ["flush", "all"], ["resync"]),
        *(["status", "--timeout", "0"], ["status", "--timeout", "x"]),
        *(["status", "--timeout", "nan"], ["status", "extra"], ["show", "links"]),
        *(["status", "--js"], ["commit", "--peer"]),
    ],
)
def test_wrong_usage_is_status_2(words: list[str], capsys: Output) -> None:
    assert exit_status(*words) == 2
    assert "syncd" in capsys.readouterr().err


def test_the_version_is_told_before_and_after_the_command(capsys: Output) -> None:
    for words in (["--version"], ["status", "--version"]):
        assert exit_status(*words) == 0
        assert capsys.readouterr().out.startswith(f"syncd {__version__} (")


def test_every_command_has_a_help(capsys: Output) -> None:
    assert exit_status("--help") == 0
    text = capsys.readouterr().out
    for command in (
        *("run", "check-config", "status", "commit", "flush", "resync", "promote"),
        *("demote", "fault", "verify", "show", "watch", "stop"),
    ):
        assert f"    {command} " in text
        assert exit_status(command, "-h") == 0
        assert "--timeout" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "kernel_too"),
    [("show", True), ("watch --table own", True), ("status --json", False)],
)
def test_where_nothing_is_configured_one_line_says_what_to_give(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
    words: str,
    kernel_too: bool,
) -> None:
    file = tmp_path / "none.toml"
    monkeypatch.setattr("syncd.cli.main._DEFAULT_CONFIG", str(file))
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"syncd: no daemon is configured here, there is no {file}: ")
    assert "--config FILE or --socket PATH" in line
    assert line.endswith("--table kernel") == kernel_too


def test_a_path_that_no_socket_can_have_is_one_line(capsys: Output) -> None:
    for path in ("/" + "x" * 200, "a\0b"):
        assert main(["status", "--socket", path]) in (1, 3)
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_output_that_cannot_be_written_is_one_line(config: Path) -> None:
    words = [sys.executable, "-m", "syncd", "check-config", "--json", str(config)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        b"syncd: standard output: No space left on device\n",
    )


def test_closed_streams_are_no_surprise(config: Path) -> None:
    command = f"{sys.executable} -m syncd check-config --json {config}"
    for closing, status, said in (
        (">&-", 1, "syncd: standard output: Bad file descriptor\n"),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
        ("<&- >&- 2>&-", 1, ""),
    ):
        words = ["sh", "-c", f"{command} {closing}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (status, said), closing
        assert done.stdout.startswith("{") == (status == 0)


def test_a_client_loads_only_what_it_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from syncd.cli.main import main;"
        f" main(['status', '--socket', {str(tmp_path / 's')!r}]);"
        " print(*sorted(sys.modules))"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "syncd.cli.status" in loaded
    assert not loaded & {
        *("asyncio", "msgpack", "pyroute2", "zstandard", "tomllib", "dataclasses"),
        *("syncd.config", "syncd.flows.view", "syncd.daemon", "ipaddress", "logging"),
    }
