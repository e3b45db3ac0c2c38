"""connlabel.conf is read as libnetfilter_conntrack reads it."""

from pathlib import Path

import pytest
from syncd.cli.labels import read_labels


def test_names_of_bits_are_read_and_what_is_odd_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "connlabel.conf"
    file.write_text(
        "# comment\n0 zero\n2  two\n3\n7\twith space \n8 bad_name\n9 nine-9\n"
        "2 again\n0x10 hex\n11 zero\n010 octal\n1024 far\nx y\n\n"
    )
    assert read_labels(str(file)) == {
        0: "zero",
        2: "two",
        7: "with space",
        9: "nine-9",
        16: "hex",
        8: "octal",
    }


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_labels(str(tmp_path / "none"))
