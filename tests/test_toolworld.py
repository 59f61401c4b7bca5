from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolrefine.datasets.toolworld import generate
from toolrefine.datasets.toolworld_domains import Domain, domain_names, get_domain
from toolrefine.errors import DataError
from toolrefine.matching import match, schema_violation
from toolrefine.rundir import to_line


def test_the_same_arguments_give_the_same_bytes() -> None:
    text = b"".join(map(to_line, generate("observatory", 200, 5, 0.2)))
    assert hashlib.sha256(text).hexdigest()[:16] == "1b578d2d66eddbc3"


def test_a_larger_size_extends_a_smaller_one() -> None:
    assert list(generate("dining", 5, 1)) == list(generate("dining", 9, 1))[:5]


def vocabulary(domain: Domain) -> dict[str, set[str]]:
    strings = {v for p in domain.parameters for v in (*p.values, *p.enum) if isinstance(v, str)}
    strings |= {v for p in domain.parameters for field in p.fields.values() for v in field if isinstance(v, str)}
    prefixes = {p.prefix for p in domain.parameters if p.prefix}
    names = {p.name for p in domain.parameters} | {f for p in domain.parameters for f in p.fields}
    return {"tools": {t.tool.name for t in domain.tools}, "parameters": names, "values": strings, "codes": prefixes}


def test_domains_share_no_tool_parameter_or_value() -> None:
    vocabularies = {name: vocabulary(get_domain(name)) for name in domain_names()}
    for (a, first), (b, second) in itertools.combinations(vocabularies.items(), 2):
        for kind in first:
            assert not first[kind] & second[kind], (a, b, kind)


@settings(max_examples=30, deadline=None)
@given(domain=st.sampled_from([*domain_names(), "spliced-1", "spliced-2"]), seed=st.integers(0, 10**6))
def test_correct_labels_fit_their_schemas_and_match_themselves(domain: str, seed: int) -> None:
    for sample in generate(domain, 10, seed):
        calls = sample.target.tool_calls
        assert schema_violation(calls, sample.tools) is None
        assert match(calls, calls, sample.tools).correct
        assert 1 <= len(sample.tools) <= 6
        assert len({tool.name for tool in sample.tools}) == len(sample.tools)
        assert calls or sample.target.content
        assert sample.messages[-1].role == "user"
        for message in sample.messages:
            assert schema_violation(message.tool_calls, sample.tools) is None


@settings(max_examples=30, deadline=None)
@given(domain=st.sampled_from(domain_names()), seed=st.integers(0, 10**6))
def test_wrong_labels_are_wrong(domain: str, seed: int) -> None:
    for right, wrong in zip(generate(domain, 10, seed), generate(domain, 10, seed, 1.0), strict=True):
        assert wrong.meta["label"].startswith("wrong:")
        assert not match(wrong.target.tool_calls, right.target.tool_calls, right.tools).correct
        assert wrong.messages == right.messages


def test_every_kind_of_sample_occurs() -> None:
    samples = list(generate("museum", 400, 0, 0.5))
    assert {sample.kind for sample in samples} == {"single", "parallel", "no_call"}
    assert {sample.meta["turns"] for sample in samples} >= {1, 2}
    hows = {"another_tool", "changed_value", "missing_value", "dropped_call", "needless_call"}
    assert {sample.meta["label"] for sample in samples} == {"ok", *(f"wrong:{how}" for how in hows)}


def test_the_share_of_wrong_labels_is_what_was_asked_for() -> None:
    wrong = sum(sample.meta["label"] != "ok" for sample in generate("office", 2000, 0, 0.2))
    assert 340 <= wrong <= 460


def test_an_unknown_domain_is_named() -> None:
    with pytest.raises(DataError, match="no domain 'nowhere'"):
        list(generate("nowhere", 1))
