from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REAL_DATA
from hypothesis import example, given
from hypothesis import strategies as st
from test_chat import ENDS, TEMPLATES, tokenizer_with
from test_engines import GREEDY, SAMPLED, load, make_model
from tokenizers import AddedToken

from toolrefine.chat import Chat
from toolrefine.config import EngineConfig, FileDataset, PromptConfig
from toolrefine.corpus import direct_corpus
from toolrefine.datasets import load_pool
from toolrefine.datasets.toolworld import generate
from toolrefine.engines import SamplingParams
from toolrefine.engines.constraint import Constraint
from toolrefine.engines.grammar import GRAMMARS, build_grammar
from toolrefine.engines.openai import OpenAIEngine
from toolrefine.engines.scoring import answer_ids
from toolrefine.engines.transformers import TransformersEngine
from toolrefine.errors import ConfigError
from toolrefine.formats import get_format
from toolrefine.nano import NANO_DIR
from toolrefine.refine import find_fault, in_another_order
from toolrefine.rollout import to_prompt
from toolrefine.types import Checkpoint, Completion, Message, Outcome, Prompt, Sample, Tool, ToolCall

pytestmark = pytest.mark.skipif(not find_spec("llguidance"), reason="toolrefine[grammar] is not installed")


def called(*calls: ToolCall) -> Completion:
    outcome = Outcome.CALLS if calls else Outcome.NO_CALL
    return Completion(text="", calls=calls, outcome=outcome, num_tokens=1, mean_logprob=None)


class Reader:
    """Says what a grammar allows, byte by byte: nano's tokenizer has a token for each."""

    def __init__(self, engine: TransformersEngine) -> None:
        assert engine.constraint is not None
        self.constraint = engine.constraint

    def allows(self, grammar: str | None, text: str) -> bool:
        matcher = self.constraint.make_matcher(self.constraint.tokenizer, grammar, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        tokens = self.constraint.tokenizer.tokenize_bytes(text.encode())
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.fixture(scope="module")
def reader(tiny_model: Path) -> Reader:
    return Reader(load(tiny_model, constrain=True))


@pytest.mark.parametrize("family", ["Qwen3", "Gemma", "Mamba"])
def test_even_a_random_model_keeps_to_the_schemas(tmp_path: Path, samples: list[Sample], family: str) -> None:
    engine = load(make_model(tmp_path, family), constrain=True)
    prompts = [to_prompt(sample) for sample in samples[:8]]
    params = SamplingParams(temperature=1.0, max_new_tokens=60, seed=1)
    answers = [
        (prompt, answer)
        for prompt, group in zip(prompts, engine.sample(prompts, 4, params), strict=True)
        for answer in group
    ]
    ended = [pair for pair in answers if pair[1].outcome is not Outcome.TRUNCATED]
    assert len(ended) > 3
    assert all(find_fault(answer, prompt.tools) is None for prompt, answer in ended)


@pytest.mark.parametrize("max_batch_rows", [3, 64])
def test_completions_do_not_depend_on_the_batch(tiny_model: Path, samples: list[Sample], max_batch_rows: int) -> None:
    prompts = [to_prompt(sample) for sample in samples[:8]]
    together = load(tiny_model, constrain=True).sample(prompts, 4, SAMPLED)
    small = load(tiny_model, constrain=True, max_batch_rows=max_batch_rows).sample(prompts[::-1], 4, SAMPLED)[::-1]
    waves = load(tiny_model, constrain=True).sample(prompts, 4, SAMPLED, lambda *_: False)
    texts = [[c.text for c in group] for group in together]
    assert texts == [[c.text for c in group] for group in small] == [[c.text for c in group] for group in waves]


def test_log_probabilities_are_the_models_own(tiny_model: Path, samples: list[Sample]) -> None:
    engine, prompts = load(tiny_model, constrain=True), [to_prompt(sample) for sample in samples[:8]]
    answers = [group[0] for group in engine.sample(prompts, 1, GREEDY)]
    for answer, found in zip(answers, engine.score(prompts, answers), strict=True):
        if len(answer_ids(engine.chat, answer)) == answer.num_tokens:
            assert found == pytest.approx((answer.mean_logprob or 0.0) * answer.num_tokens, abs=1e-3)


def test_what_a_choice_holds_is_written_in_its_own_order(reader: Reader) -> None:
    schema = {"type": "object", "properties": {"b": {"enum": [{"y": 1, "x": 2}]}, "a": {"type": "integer"}}}
    guide = reader.constraint.guide([Tool(name="f", parameters=schema)])
    for token in reader.constraint.tokenizer.tokenize_bytes(b'[f(b={"y": 1, "x": 2}, a=3)]'):
        assert guide is not None and guide.bits[token // 8] >> token % 8 & 1
        guide = guide.after(token)


@pytest.mark.parametrize("decoder", ["ours", "generate"])
def test_an_answer_is_bent_where_it_would_be_another_without_the_constraint(decoder: str) -> None:
    engine = load(NANO_DIR)
    if decoder == "generate":
        engine.decoder = None
    prompts = [to_prompt(sample) for sample in generate("foundry", 24, 7)]
    params = SamplingParams(temperature=0.0, max_new_tokens=60)
    free = [group[0] for group in engine.sample(prompts, 1, params)]
    bound = [group[0] for group in engine.sample(prompts, 1, params.model_copy(update={"constrain": True}))]
    assert not any(answer.bent for answer in free)
    assert 4 < sum(answer.bent for answer in bound) < 20
    assert [answer.bent for answer in bound] == [
        answer.text != alone.text for answer, alone in zip(bound, free, strict=True)
    ]


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3_1", "llama3_2"])
def test_gold_answers_are_allowed_token_by_token(samples: list[Sample], name: str, is_special: bool) -> None:
    template = next((path.read_text() for path in TEMPLATES if path.stem == name), None)
    if template is None:
        pytest.skip("needs trl's templates")
    tokenizer = tokenizer_with(template)
    names = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    tags = [AddedToken(tag, special=is_special, normalized=False) for tag in names]
    tokenizer.add_tokens(tags, special_tokens=is_special)
    chat = Chat(tokenizer, PromptConfig(), tokenizer.convert_tokens_to_ids([*ENDS]))
    constraint = Constraint(chat, len(tokenizer))
    for sample in [sample for sample in samples if len(sample.target.tool_calls) == 1]:
        for direct in direct_corpus([sample], PromptConfig()):
            ids, start = chat.example_ids(direct)
            guide = constraint.guide(sample.tools)
            for token in ids[start:]:
                assert guide
                assert np.unpackbits(guide.bits, bitorder="little")[token], tokenizer.decode(ids[start:])
                guide = guide.after(token)


@pytest.mark.parametrize("format_name", GRAMMARS)
def test_gold_answers_are_allowed(reader: Reader, samples: list[Sample], format_name: str) -> None:
    for sample in samples:
        grammar = build_grammar(format_name, sample.tools)
        calls = sample.target.tool_calls
        text = get_format(format_name).render(calls) if calls else sample.target.content
        assert reader.allows(grammar, text), text


@pytest.mark.slow
@pytest.mark.parametrize("format_name", GRAMMARS)
def test_gold_answers_of_real_data_are_allowed(reader: Reader, format_name: str) -> None:
    path = REAL_DATA / "dev_new_tools.jsonl.gz"
    if not path.exists():
        pytest.skip("needs ../shared/data")
    pool = [sample for sample in load_pool([FileDataset(source=str(path))]) if sample.target.tool_calls]
    assert len(pool) > 200
    for sample in pool:
        text = get_format(format_name).render(sample.target.tool_calls)
        assert reader.allows(build_grammar(format_name, sample.tools), text), text


@pytest.mark.parametrize("format_name", GRAMMARS)
@pytest.mark.parametrize(
    ("arguments", "is_allowed"),
    [
        ({"when": "1", "how": 2, "kind": "a"}, True),
        ({"when": "it's \"\n", "how": -2.5, "kind": True, "more": [{"x": None}, {"x": 1}]}, True),
        ({"more": [], "kind": "a", "how": 0, "when": "1"}, True),
        ({"more": [], "kind": "a", "how": 0}, False),
        ({"when": "1", "how": 2}, False),
        ({"when": 1, "how": 2, "kind": "a"}, False),
        ({"when": "1", "how": "2", "kind": "a"}, False),
        ({"when": "1", "how": 2, "kind": "c"}, False),
        ({"when": "1", "how": 2, "kind": "a", "other": 1}, False),
        ({"when": "1", "how": 2, "kind": "a", "more": [{"y": 1}]}, False),
        ({"when": "1", "how": 2, "kind": "a", "more": [{"x": 1.5}]}, False),
        ({"when": "1", "how": 2, "kind": "a", "free": {"x": [{"y": "z"}, 1.5, None, True]}}, True),
    ],
)
def test_a_grammar_is_the_schema(reader: Reader, format_name: str, arguments: dict[str, Any], is_allowed: bool) -> None:
    tool = Tool(
        name="do.it",
        parameters={
            "type": "object",
            "properties": {
                "when": {"type": "string"},
                "how": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
                "kind": {"enum": ["a", "b's", True]},
                "more": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"x": {"type": ["integer", "null"]}},
                        "required": ["x"],
                    },
                },
                "free": {"type": "object"},
            },
            "required": ["when", "how", "kind"],
        },
    )
    call = ToolCall(name="do.it", arguments=arguments)
    assert (find_fault(called(call), [tool]) is None) is is_allowed
    grammar = build_grammar(format_name, [tool])
    wire = get_format(format_name)
    assert reader.allows(grammar, wire.render([call])) is is_allowed
    assert reader.allows(grammar, wire.render([call, call])) is is_allowed
    assert not reader.allows(grammar, wire.render([call.model_copy(update={"name": "do"})]))


KIND = {"kind": {"enum": ["a", "b"]}}
X = {"properties": {"x": {"type": "integer"}}, "required": ["x"]}
Y = {"properties": {"y": {"type": "string"}}, "required": ["y"]}


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("format_name", GRAMMARS)
@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (
            {"properties": KIND, "required": ["kind"], "anyOf": [X, Y]},
            [{"x": 1, "kind": "a"}],
            [{"kind": "a"}, {"x": 1}],
        ),
        ({"properties": KIND, "oneOf": [X, Y]}, [{"x": 1}, {"y": "1", "kind": "b"}], [{}, {"x": "1"}]),
        ({"properties": KIND, "allOf": [X, Y]}, [{"y": "1", "x": 1}], [{"x": 1}, {"x": 1, "y": "1", "kind": "c"}]),
        (
            {"properties": {**KIND, **X["properties"]}, "anyOf": [{"required": ["x"]}, {"required": ["kind"]}]},
            [{"x": 1}],
            [{}],
        ),
        (
            {"anyOf": [{**X, "properties": {"kind": {"const": "a"}, **X["properties"]}}, Y]},
            [{"kind": "a", "x": 1}],
            [{"kind": "b", "x": 1}],
        ),
        ({"properties": KIND, "additionalProperties": True}, [{"more": 1}, {"kind": "a", "m": [None]}], [{"kind": 1}]),
        ({"properties": KIND, "additionalProperties": {}}, [{"more": 1}, {"m": 1, "kind": "a"}], [{"kind": 1}]),
        ({"properties": KIND, "additionalProperties": False}, [{"kind": "a"}, {}], [{"more": 1}]),
        (
            {"properties": KIND, "additionalProperties": {"type": "integer"}, "required": ["more", "kind"]},
            [{"more": 1, "kind": "a"}, {"m": 2, "kind": "a", "more": 1}],
            [{"kind": "a"}, {"kind": "a", "m": 1}],
        ),
        ({"required": ["more"]}, [{"more": [1]}, {"m": 1, "more": "a"}], [{}, {"m": 1}]),
        (
            {"properties": {"o": {"enum": ["\x7f", "\u00e9", "\U0001f600"]}}},
            [{"o": "\x7f"}, {"o": "\u00e9"}, {"o": "\U0001f600"}],
            [{"o": "e"}, {"o": "\u00e8"}],
        ),
        (
            {"properties": {"c": {"const": [None, {"x y": True, "z": ["it's", 1]}]}, "e": {"enum": [[], {}, [False]]}}},
            [{"c": [None, {"x y": True, "z": ["it's", 1]}]}, {"e": []}, {"e": {}}, {"e": [False]}],
            [{"c": [None]}, {"c": [None, {"x y": False, "z": ["it's", 1]}]}, {"e": [True]}],
        ),
        (
            {"properties": {"p": {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "number"}}}},
            [{"p": ["a", 1]}],
            [],
        ),
    ],
)
def test_branches_and_further_properties(
    reader: Reader,
    format_name: str,
    schema: dict[str, Any],
    right: list[dict[str, Any]],
    wrong: list[dict[str, Any]],
    is_nested: bool,
) -> None:
    schema = {"type": "object", **schema}
    nested = {"type": "object", "properties": {"inside": schema}, "required": ["inside"]}
    tool = Tool(name="f", parameters=nested if is_nested else schema)
    for arguments in (*right, *wrong):
        call = ToolCall(name="f", arguments={"inside": arguments} if is_nested else arguments)
        assert (find_fault(called(call), [tool]) is None) is (arguments in right)
        text = get_format(format_name).render([call])
        assert reader.allows(build_grammar(format_name, [tool]), text) is (arguments in right), text


@pytest.mark.parametrize(
    ("name", "arguments", "required"),
    [("f(x)", ["a"], []), ("f", ["a", "user id"], ["user id"]), ("f", ["a["], ["a["])],
)
def test_what_a_format_cannot_write_is_no_call(
    reader: Reader, name: str, arguments: list[str], required: list[str]
) -> None:
    properties = {argument: {"type": "integer"} for argument in arguments}
    odd = Tool(name=name, parameters={"type": "object", "properties": properties, "required": required})
    plain = Tool(name="g", parameters={"type": "object", "properties": properties})
    grammar = build_grammar("pythonic", [odd, plain])
    assert build_grammar("pythonic", [odd]) is None
    assert build_grammar("hermes", [odd])
    old = {name: {"type": "integer", "required": name in required} for name in arguments}
    assert build_grammar("pythonic", [Tool(name=name, parameters={"type": "object", "properties": old})]) is None
    assert reader.allows(grammar, "[g()]")
    assert not any(reader.allows(grammar, text) for text in (f"[{name}(a=1)]", "[g(user id=1)]", "[g(a[=1)]"))


def test_a_long_enum_is_quick_and_tools_are_compiled_once(reader: Reader) -> None:
    zones = [f"Region/City{number}" for number in range(5_000)]
    tool = Tool(name="f", parameters={"type": "object", "properties": {"zone": {"type": "string", "enum": zones}}})
    assert reader.allows(build_grammar("pythonic", [tool]), f'[f(zone="{zones[-1]}")]')
    assert reader.constraint.guide([tool]) is reader.constraint.guide([tool])


def test_shuffled_tools_share_their_grammar(reader: Reader, samples: list[Sample]) -> None:
    several = next(sample for sample in samples if len(sample.tools) > 2)
    prompt = to_prompt(several)
    again = in_another_order(prompt.model_copy(update={"id": f"{prompt.id}/round-1"}))
    assert again.tools != prompt.tools
    assert reader.constraint.guide(again.tools) is reader.constraint.guide(prompt.tools)


@given(text=st.text(st.sampled_from("f(a=1)[]{}\"'<> ,.ab"), min_size=1, max_size=12))
@pytest.mark.parametrize("format_name", GRAMMARS)
def test_whatever_is_allowed_has_no_fault(reader: Reader, format_name: str, text: str) -> None:
    tool = Tool(name="f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
    if reader.allows(build_grammar(format_name, [tool]), text):
        parsed = get_format(format_name).parse(text, tools=[tool])
        assert parsed.outcome in (Outcome.CALLS, Outcome.NO_CALL)
        assert find_fault(called(*parsed.calls), [tool]) is None


@given(
    schema=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "properties", "required", "enum", "items", "anyOf", "const", "object", '"']),
                inner | st.sampled_from(["string", "object", "array", ["integer", "null"]]),
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
@example(schema={"required": True})
@example(schema={"enum": ["\x7f", "\u00e9", "\U0001f600"]})
@pytest.mark.parametrize("format_name", GRAMMARS)
def test_any_schema_makes_a_grammar(format_name: str, schema: Any) -> None:
    import llguidance

    # A pythonic argument of an odd name may be left out, but not where its schema says required = true, as old ones do.
    name, argument = ("odd name", "b") if format_name == "pythonic" else ('odd "name"\n', 'b" \\')
    tool = Tool(name=name, parameters={"type": "object", "properties": {"a": schema, argument: schema}})
    grammar = build_grammar(format_name, [tool])
    assert grammar
    assert not llguidance.LLMatcher.validate_grammar(grammar)


def test_a_prompt_without_tools_is_free(tiny_model: Path) -> None:
    prompt = Prompt(id="p", messages=(Message(role="user", content="hello"),), tools=())
    free, constrained = load(tiny_model), load(tiny_model, constrain=True)
    assert free.sample([prompt], 2, SAMPLED) == constrained.sample([prompt], 2, SAMPLED)


def test_other_formats_and_servers_are_refused(tiny_model: Path) -> None:
    prompt = PromptConfig(style="system", format="glm4")
    with pytest.raises(ConfigError, match=r"glm4 .* only pythonic, hermes"):
        TransformersEngine.load(Checkpoint(model=str(tiny_model)), EngineConfig(constrain=True), prompt)
    with pytest.raises(ConfigError, match="this process only"):
        OpenAIEngine.load(
            Checkpoint(model=str(tiny_model)), EngineConfig(kind="openai", constrain=True), PromptConfig()
        )
