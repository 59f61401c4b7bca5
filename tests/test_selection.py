from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import CorpusConfig, PromptConfig, SelectionConfig
from toolrefine.corpus import build_corpus, direct_corpus
from toolrefine.difficulty import mean_pass_at_k, pass_at_k, tally
from toolrefine.intervals import paired, wilson
from toolrefine.matching import score
from toolrefine.selection import find_suspects, select
from toolrefine.types import Completion, Group, Message, Outcome, Reason, Sample, Score, Tool, ToolCall

USER = Message(role="user", content="x")


def answer(value: int | None) -> Completion:
    calls = () if value is None else (ToolCall(name="f", arguments={"a": value}),)
    return Completion(
        text=f"[f(a={value})]",
        calls=calls,
        outcome=Outcome.MALFORMED if value is None else Outcome.CALLS,
        num_tokens=3,
        mean_logprob=-0.1,
    )


def message(arguments: dict[str, Any]) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="f", arguments=arguments),))


def sample(number: int) -> Sample:
    return Sample(id=f"s{number}", messages=(USER,), tools=(), target=message({"a": 0}))


def group(number: int, values: list[int | None]) -> Group:
    scores = [Score(correct=v == 0, reason=Reason.OK if v == 0 else Reason.WRONG_VALUE) for v in values]
    return Group(sample_id=f"s{number}", completions=tuple(map(answer, values)), scores=tuple(scores))


def make(*rows: list[int | None]) -> tuple[list[Sample], list[Group]]:
    return [sample(i) for i in range(len(rows))], [group(i, row) for i, row in enumerate(rows)]


@given(n=st.integers(1, 9), data=st.data())
def test_pass_at_k_counts_the_subsets_with_a_success(n: int, data: Any) -> None:
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([1] * correct + [0] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


@pytest.mark.parametrize("arguments", [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_what_makes_no_sense(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be between"):
        pass_at_k(*arguments)


def test_pass_at_1_is_the_mean_pass_rate() -> None:
    _, groups = make([0, 1], [0, 0], [1, 1])
    assert mean_pass_at_k([*map(tally, groups)], 1) == pytest.approx(0.5)


def test_pass_at_k_of_waves_looks_at_the_first_completions() -> None:
    _, groups = make([0], [1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0])
    tallies = [*map(tally, groups)]
    assert [mean_pass_at_k(tallies, k) for k in (1, 2, 4)] == pytest.approx([0.2, 0.4, 0.8])
    with pytest.raises(ValueError, match="fewer than k = 8"):
        mean_pass_at_k(tallies, 8)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SelectionConfig(), ["s0", "s1"]),
        (SelectionConfig(policy="frontier"), ["s1"]),
        (SelectionConfig(policy="frontier", mastered_rate=0.5), []),
        (SelectionConfig(policy="unsuspected"), ["s0", "s1", "s3"]),
        (SelectionConfig(policy="unsuspected", suspect_agreement=0.75), ["s0", "s1", "s2", "s3"]),
        (SelectionConfig(policy="all"), ["s0", "s1", "s2", "s3", "s4"]),
    ],
)
def test_policies(config: SelectionConfig, expected: list[str]) -> None:
    pool, groups = make([0, 0], [0, 1], [1, 2], [None, None], [1, 1])
    selected = select(pool, groups[::-1], config)
    assert [s.sample_id for s in selected] == expected


@pytest.mark.parametrize(("min_solvable", "num_selected"), [(0.0, 2), (0.5, 2), (0.51, 4), (1.0, 4)])
def test_everything_is_taken_where_too_little_is_solvable(min_solvable: float, num_selected: int) -> None:
    pool, groups = make([0, 1], [1, 1], [0, 0], [1, None])
    assert len(select(pool, groups, SelectionConfig(min_solvable=min_solvable))) == num_selected


def test_a_missing_group_is_an_error() -> None:
    pool, groups = make([0], [0])
    with pytest.raises(ValueError, match="s1"):
        select(pool, groups[:1], SelectionConfig())


def test_suspects_are_never_given_and_contradicted_with_one_voice() -> None:
    pool, groups = make([1, 1, 1, 2], [0, 0, 0, 0], [1, 1, 2, 2], [None] * 4, [3, 3, 3, 3], [1, 1, 1, 0])
    suspects = find_suspects(pool, groups, SelectionConfig(suspect_agreement=0.75))
    assert [(s.sample_id, s.agreement) for s in suspects] == [("s4", 1.0), ("s0", 0.75)]
    assert suspects[1].answer.tool_calls[0].arguments == {"a": 1}


def test_suspects_are_also_labels_that_the_model_finds_far_less_likely_than_its_own_answer() -> None:
    pool, groups = make([1, 2, 3, 3, 4], [1, 2, 3, 4, None], [1, 2, 3, 4, 5], [1, 1, 1, 1, 0], [2, 2, 2, 2, 2])
    doubts = [9.9, 10.0, 30.0, None, 1.0]
    groups = [
        each.model_copy(update={"doubt": doubt, "rival_logprob": None if doubt is None else -4.0})
        for each, doubt in zip(groups, doubts, strict=True)
    ]
    suspects = find_suspects(pool, groups, SelectionConfig())
    assert [(s.sample_id, s.doubt) for s in suspects] == [("s4", 1.0), ("s2", 30.0), ("s1", 10.0)]
    selected = select(pool, groups, SelectionConfig(policy="unsuspected", suspect_doubt=20))
    assert [s.sample_id for s in selected] == ["s0", "s1", "s3"]
    unbelieved = find_suspects(pool, groups, SelectionConfig(suspect_min_logprob=-3.9))
    assert [s.sample_id for s in unbelieved] == ["s4"]


groups_of_values = st.lists(
    st.lists(st.sampled_from([0, 0, 1, 2, None]), min_size=3, max_size=3), min_size=1, max_size=20
)


@given(
    rows=groups_of_values, share=st.sampled_from([0.0, 0.3, 0.5, 1.0]), most=st.integers(0, 3), seed=st.integers(0, 9)
)
def test_the_corpus(rows: list[list[int | None]], share: float, most: int, seed: int) -> None:
    pool, groups = make(*rows)
    selected = select(pool, groups, SelectionConfig(policy="all"))
    config = CorpusConfig(refine_per_sample=most, right_draft_share=share)
    corpus = build_corpus(pool, selected, groups, config, PromptConfig(), seed=seed)
    direct = [e for e in corpus if e.kind == "direct"]
    refine = [e for e in corpus if e.kind == "refine"]
    assert [e.sample_id for e in direct] == [s.id for s in pool]
    assert len({e.id for e in corpus}) == len(corpus)
    assert all(sum(e.sample_id == s.id for e in refine) <= most for s in pool)
    assert abs(sum(bool(e.draft_correct) for e in refine) - share * len(refine)) <= 1
    for example in refine:
        conversation = example.messages
        assert conversation[0] == USER
        assert (conversation[1].tool_calls == example.target.tool_calls) == example.draft_correct
        assert conversation[2] == Message(role="user", content=PromptConfig().refine)
    assert corpus == build_corpus(pool, selected, groups, config, PromptConfig(), seed=seed)


def test_a_greedy_draft_takes_the_place_of_the_sampled_ones() -> None:
    pool, groups = make([0, 1, 2], [0, 1, 2], [0, 1, 2])
    greedy = group(9, [0, 5, None])
    groups = [
        each.model_copy(update={"greedy": draft, "greedy_score": verdict})
        for each, draft, verdict in zip(groups, greedy.completions, greedy.scores, strict=True)
    ]
    selected = select(pool, groups, SelectionConfig(policy="all"))
    config = CorpusConfig(refine_per_sample=3, right_draft_share=0.3, drafts="greedy")
    corpus = build_corpus(pool, selected, groups, config, PromptConfig(), seed=0)
    shown = {e.sample_id: (e.messages[1].content or e.messages[1].tool_calls, e.draft_correct) for e in corpus[1::2]}
    assert shown == {
        "s0": (message({"a": 0}).tool_calls, True),
        "s1": (message({"a": 5}).tool_calls, False),
        "s2": ("[f(a=None)]", False),
    }


@pytest.mark.parametrize(
    ("arguments", "learned"),
    [
        ({"a": 0}, {"a": 0}),
        ({"a": 0.0}, {"a": 0}),
        ({"a": 5}, {"a": 5}),
        ({"a": 0, "unit": "C"}, {"a": 0, "unit": "C"}),
        ({"a": 1}, {"a": 0}),
    ],
)
def test_a_right_draft_is_left_alone_however_it_says_it(arguments: dict[str, Any], learned: dict[str, Any]) -> None:
    parameters = {"type": "object", "properties": {"a": {}, "unit": {"default": "C"}}}
    tools = (Tool(name="f", parameters=parameters),)
    one = sample(0).model_copy(update={"tools": tools, "alternatives": ({"a": (5,)},)})
    draft = answer(0).model_copy(update={"calls": (ToolCall(name="f", arguments=arguments),)})
    verdict = score(draft, one)
    drafts = Group(sample_id=one.id, completions=(draft,), scores=(verdict,))
    selected = select([one], [drafts], SelectionConfig(policy="all"))
    config = CorpusConfig(right_draft_share=float(verdict.correct))
    direct, refine = build_corpus([one], selected, [drafts], config, PromptConfig(), seed=0)
    assert direct.target == one.target
    assert refine.draft_correct == (arguments != {"a": 1})
    # As text, since 0 == 0.0 in Python.
    assert refine.target.model_dump_json() == message(learned).model_dump_json()


def test_an_empty_target_gets_words() -> None:
    silent = sample(0).model_copy(update={"target": Message(role="assistant")})
    (example,) = direct_corpus([silent], PromptConfig(no_call_text="Nothing fits."))
    assert example.target.content == "Nothing fits."


def test_replies_of_their_own_are_learned_on_request_only() -> None:
    talking = sample(0).model_copy(update={"target": Message(role="assistant", content="Sorry, I sell no trains.")})
    for own_replies, wanted in ((True, "Sorry, I sell no trains."), (False, "Nothing fits.")):
        (example,) = direct_corpus([talking], PromptConfig(no_call_text="Nothing fits.", own_replies=own_replies))
        assert example.target.content == wanted


def test_wilson_agrees_with_published_values() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I, method 3
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(0, 20) == (0.0, pytest.approx(0.1611, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)


@given(verdicts=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_intervals(verdicts: list[tuple[bool, bool]]) -> None:
    before, after = [a for a, _ in verdicts], [b for _, b in verdicts]
    result, reverse = paired(before, after), paired(after, before)
    assert result.difference == pytest.approx((sum(after) - sum(before)) / len(verdicts))
    assert -1 <= result.low < result.high <= 1
    assert result.low == pytest.approx(-reverse.high)
    assert (result.fixed, result.broken) == (reverse.broken, reverse.fixed)


def test_a_paired_interval_narrows_with_n() -> None:
    def width(n: int) -> float:
        result = paired([True] * n, [True] * (n - n // 10) + [False] * (n // 10))
        return result.high - result.low

    assert width(4000) == pytest.approx(width(1000) / 2, rel=0.05)
    assert math.isfinite(width(10))
