"""What `--json` prints keeps to the documented schema, docs/records.schema.json.

The schema is checked by the few rules of JSON Schema that it uses; a rule that is not
among them fails the test, so none is passed over.
"""

import json
import re
import time
from pathlib import Path

import pytest
from syncd.errors import RecordError
from syncd.flows import view

from tests.messages import Maker
from tests.unit.flows.recorded import recorded

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "records.schema.json").read_text()
)
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
TOLD = frozenset(("$schema", "title", "description", "$defs"))


def breaches(rule: dict[str, object], value: object, place: str = "$") -> list[str]:
    """Where and how the value breaks the rule."""
    found = []
    for name, wanted in rule.items():
        if name in TOLD:
            continue
        found += CHECKS[name](rule, wanted, value, place)
    return found


def reference(_: object, wanted: object, value: object, place: str) -> list[str]:
    name = str(wanted).removeprefix("#/$defs/")
    return breaches(SCHEMA["$defs"][name], value, place)


def one_of(_: object, wanted: object, value: object, place: str) -> list[str]:
    assert isinstance(wanted, list)
    all_found = [breaches(rule, value, place) for rule in wanted]
    passing = [found for found in all_found if not found]
    if len(passing) == 1:
        return []
    return min(all_found, key=len) or [f"{place}: more than one fits"]


def of_type(_: object, wanted: object, value: object, place: str) -> list[str]:
    fits = isinstance(value, TYPES[str(wanted)])
    if isinstance(value, bool) and wanted != "boolean":
        fits = False
    return [] if fits else [f"{place}: {value!r} is no {wanted}"]


def properties(_: object, wanted: object, value: object, place: str) -> list[str]:
    assert isinstance(wanted, dict)
    found = []
    for name, inner in value.items() if isinstance(value, dict) else ():
        if name in wanted:
            found += breaches(wanted[name], inner, f"{place}.{name}")
    return found


def no_more(rule: object, wanted: object, value: object, place: str) -> list[str]:
    assert wanted is False
    assert isinstance(rule, dict)
    known = rule["properties"]
    names = value if isinstance(value, dict) else ()
    return [f"{place}.{name} is not known" for name in names if name not in known]


def required(_: object, wanted: object, value: object, place: str) -> list[str]:
    assert isinstance(wanted, list)
    if not isinstance(value, dict):
        return []
    return [f"{place}.{name} is missing" for name in wanted if name not in value]


def items(_: object, wanted: object, value: object, place: str) -> list[str]:
    assert isinstance(wanted, dict)
    inside = value if isinstance(value, list) else []
    return [b for at, one in enumerate(inside) for b in breaches(wanted, one, place)]


def choice(_: object, wanted: object, value: object, place: str) -> list[str]:
    assert isinstance(wanted, list)
    return [] if value in wanted else [f"{place}: {value!r} is not one of {wanted}"]


def constant(_: object, wanted: object, value: object, place: str) -> list[str]:
    return [] if value == wanted else [f"{place}: {value!r} is not {wanted!r}"]


def least(_: object, wanted: object, value: object, place: str) -> list[str]:
    assert isinstance(wanted, int)
    low = isinstance(value, int) and value < wanted
    return [f"{place}: {value!r} is below {wanted}"] if low else []


def most(_: object, wanted: object, value: object, place: str) -> list[str]:
    assert isinstance(wanted, int)
    high = isinstance(value, int) and value > wanted
    return [f"{place}: {value!r} is above {wanted}"] if high else []


def pattern(_: object, wanted: object, value: object, place: str) -> list[str]:
    fits = not isinstance(value, str) or re.search(str(wanted), value)
    return [] if fits else [f"{place}: {value!r} is not like {wanted}"]


CHECKS = {
    "$ref": reference,
    "oneOf": one_of,
    "type": of_type,
    "properties": properties,
    "additionalProperties": no_more,
    "required": required,
    "items": items,
    "enum": choice,
    "const": constant,
    "minimum": least,
    "maximum": most,
    "pattern": pattern,
}


def test_what_was_recorded_keeps_to_the_schema() -> None:
    for one in recorded():
        described = json.loads(json.dumps(view.describe_message(one.message)))
        assert not breaches(SCHEMA, described), str(one)


def test_what_is_made_up_keeps_to_the_schema() -> None:
    maker, checked = Maker(11), 0
    for _ in range(600):
        try:
            described = view.describe_message(maker.message())
        except RecordError:  # a tuple of a protocol that the kernel tells otherwise
            continue
        assert not breaches(SCHEMA, json.loads(json.dumps(described)))
        checked += 1
    assert checked > 500


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"mark": -1}, "$.mark"),
        ({"mark": True}, "$.mark"),
        ({"kind": "flaw"}, "$.kind"),
        ({"status": ["FINE"]}, "$.status"),
        ({"orig": {"src": "10.0.0.1"}}, "$.orig.dst is missing"),
        ({"more": 1}, "$.more is not known"),
        ({"labels": "0"}, "$.labels"),
        ({"event": "changed"}, "$.event"),
    ],
)
def test_a_breach_is_found(change: dict[str, object], place: str) -> None:
    flow = view.describe_message(Maker(12).flow())
    (found, *_) = breaches(SCHEMA, {**flow, **change})
    assert found.startswith(place)


def test_events_and_rows_of_peers_are_in_the_schema() -> None:
    flow = view.describe_message(Maker(12).flow())
    more = {"event": "new", "time": time.time(), "portid": 7, "program": "conntrack"}
    assert not breaches(SCHEMA, {**flow, **more, "peer": "fw2"})
