"""Settings and rights, read from files that look like /proc."""

from pathlib import Path

import pytest
from syncd.errors import KernelError
from syncd.kernel.host import (
    check_rights,
    prepare_events,
    read_setting,
    table_count,
    table_limit,
)


def settings(root: Path, **values: object) -> Path:
    for name, value in values.items():
        (root / f"nf_conntrack_{name}").write_text(f"{value}\n")
    return root


def test_limits_are_read_as_numbers(tmp_path: Path) -> None:
    root = settings(tmp_path, max=4096, count=17)
    assert (table_limit(root), table_count(root)) == (4096, 17)


def test_a_setting_that_is_absent_or_odd_is_none_and_a_limit_zero(
    tmp_path: Path,
) -> None:
    root = settings(tmp_path, tcp_be_liberal="maybe")
    assert read_setting("nf_conntrack_tcp_be_liberal", root) is None
    assert read_setting("nf_conntrack_tcp_loose", root) is None
    assert table_limit(root) == table_count(root) == 0


@pytest.mark.parametrize("before", [0, 1, 2])
def test_events_are_switched_on_for_good(tmp_path: Path, before: int) -> None:
    root = settings(tmp_path, events=before)
    assert prepare_events(root) == []
    assert read_setting("nf_conntrack_events", root) == 1


def test_without_conntrack_the_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="load the module nf_conntrack"):
        prepare_events(tmp_path)


def test_a_process_without_net_admin_is_told_which_capability(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tsyncd\nCapEff:\t0000000000000000\n")
    with pytest.raises(KernelError, match="CAP_NET_ADMIN"):
        check_rights(status)
