"""scripts/syncd-failover: its two forms of call, and whose exit status it returns."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "syncd-failover"
SYNCD = Path(sys.executable).with_name("syncd")


def call(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    config = directory / "syncd.toml"
    config.write_text(
        f'[control]\nsocket = "{directory}/none.sock"\n[[link]]\ntype = "multicast"\n'
        'interface = "lo"\ngroup = "225.0.0.50"\n[security]\nmode = "off"\n'
    )
    return subprocess.run(
        [SCRIPT, "--config", config, "--gate", directory / "no-gate", *words],
        capture_output=True,
        text=True,
        check=False,
        env={
            "SYNCD": str(SYNCD),
            "SYNCD_FAILOVER_LOCK": str(directory / "lock"),
            "PATH": "/usr/bin:/bin",
        },
    )


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        ("primary", "promote"),
        ("backup", "demote"),
        ("fault", "fault"),
        ("GROUP firewall MASTER 0", "promote"),
        ("INSTANCE lan STOP 100", "demote"),
    ],
)
def test_a_missing_daemon_is_said_and_is_status_3(
    tmp_path: Path, words: str, verb: str
) -> None:
    done = call(tmp_path, *words.split())
    assert done.returncode == 3, done.stderr
    assert f"syncd {verb}: failed, status 3" in done.stderr
    assert "no syncd daemon answers" in done.stderr


@pytest.mark.parametrize(
    "words", ["", "leader", "GROUP firewall", "backup one two", "--what backup"]
)
def test_wrong_usage_is_status_2(tmp_path: Path, words: str) -> None:
    done = call(tmp_path, *words.split())
    assert done.returncode == 2
    assert "primary|backup|fault" in done.stderr


def test_news_that_change_no_role_are_passed_over(tmp_path: Path) -> None:
    done = call(tmp_path, "INSTANCE", "lan", "MASTER_RX_LOWER_PRI", "100")
    assert (done.returncode, done.stderr) == (0, "")
