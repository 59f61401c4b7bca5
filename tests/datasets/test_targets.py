from __future__ import annotations

import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import FileDataset
from toolrefine.datasets.targets import KINDS, Policy, Verdict, check_target
from toolrefine.matching import schema_violation
from toolrefine.types import Message, Sample, Tool, ToolCall, ViolationKind

PROPERTIES: dict[str, Any] = {
    "count": {"type": "integer"},
    "ratio": {"type": "number"},
    "wet": {"type": "boolean"},
    "plant": {"type": "string"},
    "unit": {"type": "string", "enum": ["litre", "Gallon", "cup", "CUP"]},
    "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "days": {"type": "array", "items": {"type": "integer"}},
    "pot": {"type": "object", "properties": {"depth": {"type": ["number", "null"]}}},
}


def sample(*arguments: dict[str, Any], required: tuple[str, ...] = (), name: str = "water") -> Sample:
    tool = Tool(name="water", parameters={"type": "object", "properties": PROPERTIES, "required": list(required)})
    calls = tuple(ToolCall(name=name, arguments=item) for item in arguments)
    return Sample(id="s", messages=(), tools=(tool,), target=Message(role="assistant", tool_calls=calls))


def arguments_of(verdict: Verdict) -> dict[str, Any]:
    assert verdict.sample is not None
    return verdict.sample.target.tool_calls[0].arguments


FAULTS: list[tuple[ViolationKind, Sample]] = [
    ("unknown_tool", sample({}, name="burn")),
    ("unknown_argument", sample({"colour": "red"})),
    ("missing_argument", sample({}, required=("plant",))),
    ("wrong_type", sample({"plant": ["fern"]})),
    ("wrong_type", sample({"pot": {"depth": "x"}})),
    ("wrong_type", sample({"days": ["Monday"]})),
    ("outside_enum", sample({"unit": " must be of type string is unknown."})),
]


@pytest.mark.parametrize(("kind", "bad"), FAULTS)
def test_what_cannot_be_repaired_is_quarantined_under_its_kind(kind: ViolationKind, bad: Sample) -> None:
    policies: tuple[Policy, ...] = ("quarantine", "repair")
    for policy in policies:
        verdict = check_target(bad, policy)
        assert (verdict.sample, verdict.outcomes) == (None, {kind: "quarantined"})
        assert verdict.reason.startswith(f"{kind}: the target of sample s is invalid: ")


@pytest.mark.parametrize(("kind", "bad"), FAULTS)
def test_what_is_kept_stays_as_it_is(kind: ViolationKind, bad: Sample) -> None:
    assert check_target(bad, "keep") == Verdict(bad, {kind: "kept"})
    assert check_target(bad, {kind: "keep"}) == Verdict(bad, {kind: "kept"})


@pytest.mark.parametrize(
    ("kind", "name", "value", "mended"),
    [
        ("wrong_type", "count", "5", 5),
        ("wrong_type", "count", "-12", -12),
        ("wrong_type", "count", "5.0", 5),
        ("wrong_type", "ratio", "2.50", 2.5),
        ("wrong_type", "ratio", "3", 3),
        ("wrong_type", "wet", "true", True),
        ("wrong_type", "wet", "False", False),
        ("wrong_type", "plant", 5, "5"),
        ("wrong_type", "plant", 0.5, "0.5"),
        ("wrong_type", "size", "7", 7),
        ("wrong_type", "days", ["1", 2], [1, 2]),
        ("wrong_type", "pot", {"depth": "1.5"}, {"depth": 1.5}),
        ("outside_enum", "unit", "LITRE", "litre"),
        ("outside_enum", "unit", "gallon", "Gallon"),
    ],
)
def test_what_can_be_repaired_is(kind: ViolationKind, name: str, value: Any, mended: Any) -> None:
    verdict = check_target(sample({name: value}), {kind: "repair"})
    assert verdict.outcomes == {kind: "repaired"}
    assert arguments_of(verdict) == {name: mended}
    assert type(arguments_of(verdict)[name]) is type(mended)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", "007"),
        ("count", "5.5"),
        ("count", 5.5),
        ("count", "1_000"),
        ("count", "٣"),
        ("count", " 5"),
        ("count", True),
        ("count", "9" * 5000),
        ("ratio", "1e5"),
        ("ratio", "NaN"),
        ("ratio", "0.12345678901234567"),
        ("wet", "yes"),
        ("wet", 1),
        ("plant", True),
        ("plant", None),
        ("unit", "Cup"),
        ("unit", "litres"),
        ("days", "1"),
    ],
)
def test_what_would_lose_or_guess_something_is_not_repaired(name: str, value: Any) -> None:
    assert check_target(sample({name: value}), "repair").sample is None


def test_repair_writes_whole_numbers_without_a_fraction() -> None:
    verdict = check_target(sample({"count": 5.0, "ratio": 5.0}), "repair")
    assert verdict.outcomes == {}
    assert [type(value) for value in arguments_of(verdict).values()] == [int, float]


def test_no_fault_hides_behind_one_of_another_kind() -> None:
    bad = sample({"count": "5", "unit": "LITRE", "colour": "red"}, {}, required=("count",))
    kept = check_target(bad, "keep")
    assert kept.outcomes.keys() == {"wrong_type", "outside_enum", "unknown_argument", "missing_argument"}
    verdict = check_target(bad, {"unknown_argument": "keep", "missing_argument": "keep", "wrong_type": "repair"})
    assert (verdict.sample, verdict.outcomes) == (None, {"outside_enum": "quarantined"})
    policies: dict[ViolationKind, Policy] = {kind: "keep" if kind == "unknown_argument" else "repair" for kind in KINDS}
    verdict = check_target(bad, policies)
    assert verdict.outcomes == {"missing_argument": "quarantined"}


def test_parallel_calls_are_all_repaired() -> None:
    verdict = check_target(sample({"count": "1"}, {"count": 2}, {"count": "3"}), "repair")
    assert verdict.sample is not None
    assert [call.arguments for call in verdict.sample.target.tool_calls] == [{"count": n} for n in (1, 2, 3)]


@given(
    st.dictionaries(
        st.sampled_from([*PROPERTIES, "other"]),
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text("0123456789.-eLITRlitr"),
    )
)
def test_what_repair_lets_through_is_valid_and_the_rest_is_quarantined(arguments: dict[str, Any]) -> None:
    verdict = check_target(sample(arguments), "repair")
    if verdict.sample is None:
        assert set(verdict.outcomes.values()) == {"quarantined"}
    else:
        assert schema_violation(verdict.sample.target.tool_calls, verdict.sample.tools) is None


def test_the_config_knows_the_same_kinds_and_policies() -> None:
    _, by_kind = typing.get_args(FileDataset.model_fields["invalid_targets"].annotation)
    kinds, policies = typing.get_args(by_kind)
    assert typing.get_args(kinds) == KINDS
    assert typing.get_args(policies) == typing.get_args(Policy)
