"""One TOML table is read key by key; every problem is kept, nothing is raised."""

from syncd.section import Section, shown


def section(**data: object) -> tuple[Section, list[str]]:
    problems: list[str] = []
    return Section(data, "part", problems), problems


def test_a_refused_value_is_replaced_by_the_default() -> None:
    part, problems = section(port=70000, flag="yes", size="1 PiB", wait=[])
    assert part.whole("port", 7, 1, 65535) == 7
    assert part.flag("flag", default=True) is True
    assert part.size("size", 65536) == 65536
    assert part.seconds("wait", 0.5, 0, 1) == 0.5
    assert [problem.split(":")[0] for problem in problems] == [
        *("part.port", "part.flag", "part.size", "part.wait"),
    ]


def test_what_is_not_given_is_the_default_and_no_problem() -> None:
    part, problems = section()
    assert part.word("mode", "a", ("a", "b")) == "a"
    assert part.text("name", "x", "a name", str.islower) == "x"
    assert part.items("list", "words", str) == ()
    part.finish()
    assert problems == []


def test_what_nobody_took_is_unknown() -> None:
    part, problems = section(nmae="x", other=1)
    part.text("name", "y", "a name", str.islower)
    part.finish()
    assert problems == [
        'part.nmae: is not known, did you mean "name"? allowed: name',
        "part.other: is not known, allowed: name",
    ]


def test_a_value_is_shown_on_one_short_line() -> None:
    assert shown("a\nb") == '"a\\nb"'
    assert shown(value=True) == "true"
    assert len(shown("x" * 500)) == 60
