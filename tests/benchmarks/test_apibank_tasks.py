from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from hypothesis import given
from hypothesis import strategies as st
from strategies import SNIPPETS, calls_of_any_kind, values

from toolrefine.benchmarks.apibank import GO_ON, ApiBank, read_toolrl
from toolrefine.benchmarks.apibank.data import read_catalogue
from toolrefine.benchmarks.gold_calls import as_completion, as_declared
from toolrefine.benchmarks.task import Figure, Mode, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import PromptConfig
from toolrefine.errors import DataError, RequestError
from toolrefine.formats import get_format
from toolrefine.intervals import measure
from toolrefine.types import Completion, Outcome, Tool, ToolCall

APIBANK = REPO.parent / "shared" / "bench" / "apibank"

needs_data = pytest.mark.skipif(not APIBANK.exists(), reason=f"needs API-Bank in {APIBANK}")

COUNTS = {"level-1": 389, "level-2": 119, "toolrl-level-1": 399, "toolrl-level-2": 67, "toolrl-level-3": 131}
OUT_OF_REACH = {"level-1": 8, "level-2": 13, "toolrl-level-1": 8, "toolrl-level-2": 6, "toolrl-level-3": 0}

BOOK = {
    "hotel": {"type": "str", "description": "Which hotel."},
    "rooms": {"type": "int", "description": "How many rooms."},
    "guests": {"type": "list(str)", "description": "Who comes."},
    "pets": {"type": "bool", "description": "Whether pets come."},
}
GOLD = ToolCall(name="Book", arguments={"hotel": "Sea View", "rooms": 2, "guests": ["Ann", "Bo"], "pets": True})

SYSTEM = f"""Some words.

**Available Tools**
In your response, you can use the following tools:
1. Name: Book
Description: Books.
1. Nothing else.
Parameters: {BOOK}
2. Cancel: Cancels.
Parameters: {{}}

**Steps for Each Turn**
More words."""


SOURCE = f"""from apis import API
raise SystemExit("this file is read, not run")

class Book(API):
    description = "Books" \\
        " hotels."
    input_parameters = {BOOK}
    database = open("x")

class Other:
    pass
"""


def line(role: str, text: str = "", name: str = "", arguments: dict[str, str] | None = None, output: Any = None) -> str:
    if role != "API":
        return json.dumps({"role": role, "text": text})
    result = {"api_name": name, "input": arguments, "output": output, "exception": None}
    return json.dumps({"role": role, "api_name": name, "param_dict": arguments, "result": result})


SEARCH = line(
    "API",
    name="ToolSearcher",
    arguments={"keywords": "book hotel"},
    output={"name": "Book", "description": "Books.", "input_parameters": BOOK, "output_parameters": {}},
)
BOOKING = line(
    "API",
    name="Book",
    arguments={"hotel": "Sea View", "rooms": "2", "guests": "['Ann', 'Bo']", "pets": "True"},
    output="success",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """API-Bank in the small, with descriptions in source files as the official repository has them."""
    first = tmp_path / "lv1-lv2-samples" / "level-1-given-desc"
    second = tmp_path / "lv1-lv2-samples" / "level-2-toolsearcher"
    for folder in (first, second, tmp_path / "apis"):
        folder.mkdir(parents=True)
    turns = [
        line("User", "Book it."),
        line("AI", "For two?"),
        line("User", "Yes."),
        line("AI", "Wait."),
        line("AI", "So."),
    ]
    (first / "Book-level-1-1.jsonl").write_text("\n".join([*turns, BOOKING, line("AI", "Done."), BOOKING, ""]))
    (first / "Empty-level-1-1.jsonl").write_text("")
    (second / "Book-level-3-1.jsonl").write_text("\n".join([line("User", "Book it."), SEARCH, BOOKING]))
    (tmp_path / "apis" / "book.py").write_text(SOURCE)
    row = {"system": SYSTEM, "user": "<user>Book it.</user>", "other": {"id": 0}}
    answer = {"name": "Book", "parameters": {**GOLD.arguments, "rooms": "2"}}
    (tmp_path / "toolrl_level1.json").write_text(json.dumps([row | {"answer": [answer]}]))
    (tmp_path / "toolrl_level2.json").write_text(json.dumps([row | {"answer": answer}]))
    return tmp_path


def judge(data: Path, *calls: ToolCall, category: str = "level-1") -> Verdict:
    benchmark = ApiBank(data=data)
    return benchmark.judge(next(iter(benchmark.load(category))), as_completion(calls))


def booked(**changes: Any) -> ToolCall:
    return ToolCall(name="Book", arguments=GOLD.arguments | changes)


def test_every_call_of_a_dialogue_is_a_task_with_the_turns_before_it(data: Path) -> None:
    first, second = ApiBank(data=data).load("level-1")
    assert (first.id, second.id) == ("level-1/Book-level-1-1/0", "level-1/Book-level-1-1/1")
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [message.content for message in first.messages[-2:]] == ["Wait.\nSo.", GO_ON]
    assert first.gold == GOLD.model_dump()
    call, result, said, ask = second.messages[-4:]
    assert call.content == "Wait.\nSo."
    assert call.tool_calls == (GOLD,)
    assert (result.role, result.content, result.tool_call_id) == ("tool", "success", "call_0")
    assert (said.content, ask.content) == ("Done.", GO_ON)


def test_descriptions_come_from_official_sources_which_are_not_run(data: Path) -> None:
    assert list(read_catalogue(data)) == ["Book"]
    [tool] = next(iter(ApiBank(data=data).load("level-1"))).tools
    assert tool.description == "Books hotels."
    assert tool.parameters["properties"]["guests"]["type"] == "array"
    assert "required" not in tool.parameters


def test_its_files_are_those_of_the_categories(data: Path) -> None:
    def names(*categories: str) -> set[str]:
        return {path.name for path in ApiBank(data, categories=categories).files}

    assert names("level-2") == {"book.py", "toolrl_level1.json", "Book-level-3-1.jsonl"}
    assert names("level-1") == {"book.py", "toolrl_level1.json", "Book-level-1-1.jsonl", "Empty-level-1-1.jsonl"}
    assert names() == {*names("level-1"), *names("level-2"), "toolrl_level2.json"}


def test_without_sources_descriptions_come_from_toolrl(data: Path) -> None:
    (data / "apis" / "book.py").unlink()
    assert next(iter(ApiBank(data=data).load("level-1"))).tools[0].description == "Books.\n1. Nothing else."


def test_level_2_shows_the_searcher_and_what_it_has_found(data: Path) -> None:
    search, call = ApiBank(data=data).load("level-2")
    assert [tool.name for tool in search.tools] == ["ToolSearcher"]
    assert [tool.name for tool in call.tools] == ["ToolSearcher", "Book"]
    assert "input_parameters" in call.messages[-1].content


def test_a_search_with_other_words_is_right_only_leniently(data: Path) -> None:
    search = judge(data, ToolCall(name="ToolSearcher", arguments={"keywords": "hotel"}), category="level-2")
    assert not search.valid
    assert search.counts == {"name": 1, "lenient": 1, "searches": 1, "right_searches": 0}
    assert judge(data, ToolCall(name="ToolSearcher"), category="level-2").counts["lenient"] == 0


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (booked(), ""),
        (booked(rooms="2", guests="['Ann', 'Bo']", pets="True"), ""),
        (booked(rooms=2.0), ""),
        (booked(rooms=3), "wrong_value"),
        (booked(rooms="two"), "wrong_type"),
        (booked(hotel="sea view"), "wrong_value"),
        (booked(hotel=7), "wrong_value"),
        (booked(pets=1), "wrong_type"),
        (booked(stars=5), "extra_arg"),
        (ToolCall(name="Book"), "missing_arg"),
        (ToolCall(name="Cancel", arguments=GOLD.arguments), "wrong_name"),
    ],
)
def test_names_and_values_must_be_equal_as_the_tool_declares_them(data: Path, call: ToolCall, error: str) -> None:
    verdict = judge(data, call)
    assert (verdict.valid, verdict.error_type) == (not error, error)


def test_letter_case_is_overlooked_only_leniently(data: Path) -> None:
    assert judge(data, booked(hotel="sea view")).counts == {
        "name": 1,
        "lenient": 1,
        "searches": 0,
        "right_searches": 0,
    }


def test_a_second_call_is_wrong(data: Path) -> None:
    verdict = judge(data, GOLD, GOLD)
    assert (verdict.error_type, verdict.counts["name"]) == ("wrong_count", 0)


def test_an_answer_that_was_cut_off_is_wrong(data: Path) -> None:
    benchmark = ApiBank(data=data)
    completion = as_completion([GOLD]).model_copy(update={"outcome": Outcome.TRUNCATED})
    verdict = benchmark.judge(next(iter(benchmark.load("level-1"))), completion)
    assert (verdict.error_type, verdict.counts["name"]) == ("truncated", 0)


@pytest.mark.parametrize("category", ["toolrl-level-1", "toolrl-level-2"])
def test_toolrl_gives_tools_to_the_template_or_its_own_system_message(data: Path, category: str) -> None:
    [task] = ApiBank(data=data).load(category)
    assert [tool.name for tool in task.tools] == ["Book", "Cancel"]
    assert [message.role for message in task.messages] == ["user"]
    [as_text] = ApiBank(data=data, mode="prompt").load(category)
    assert as_text.tools == ()
    assert [message.content for message in as_text.messages] == [SYSTEM, "<user>Book it.</user>"]
    assert as_text.gold == task.gold == GOLD.model_dump()


def test_prompt_mode_does_without_the_tools_of_the_template() -> None:
    config = PromptConfig(refine="Again.")
    assert ApiBank(data=None).prompt(config) == config
    assert ApiBank(data=None, mode="prompt").prompt(config) == PromptConfig(style="system", refine="Again.")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<think> So. </think>\n<tool_call>\nCALL\n</tool_call>\n<response> Done. </response>", ""),
        ("<tool_call>CALL</tool_call>", ""),
        ("<tool_call>\nCALL\nCALL\n</tool_call>", "wrong_count"),
        ("<tool_call>\nCALL", "malformed"),
        ("<tool_call>\nBook()\n</tool_call>", "malformed"),
        ("<tool_call></tool_call>", "missing_call"),
        ("CALL", "missing_call"),
        ("", "missing_call"),
    ],
)
def test_answers_to_toolrl_s_system_message_are_read_from_the_text(data: Path, text: str, error: str) -> None:
    benchmark = ApiBank(data=data, mode="prompt")
    [task] = benchmark.load("toolrl-level-1")
    text = text.replace("CALL", json.dumps({"name": GOLD.name, "parameters": GOLD.arguments}))
    assert benchmark.judge(task, completed(text)).error_type == error


def completed(text: str) -> Completion:
    """As an engine under style = system hands it over."""
    parsed = get_format("pythonic").parse(text)
    return Completion(text=text, calls=parsed.calls, outcome=parsed.outcome, num_tokens=1, mean_logprob=None)


@given(text=st.lists(st.sampled_from([*SNIPPETS, '"parameters":{', '{"name":"Book"']) | st.text()).map("".join))
def test_reading_toolrl_s_format_never_raises(text: str) -> None:
    assert read_toolrl(completed(text)).outcome in Outcome


GOLD_TASK = Task(
    id="x",
    category="level-1",
    messages=(),
    tools=(
        Tool(
            name="Book",
            parameters={"type": "object", "properties": {"rooms": {"type": "integer"}, "a": {"type": "string"}}},
        ),
    ),
    gold=GOLD.model_dump(),
)


@given(calls=calls_of_any_kind, arguments=st.dictionaries(st.sampled_from(["rooms", "a", "b"]), values))
def test_judging_never_raises(calls: list[ToolCall], arguments: dict[str, Any]) -> None:
    hostile = [*calls, ToolCall(name="Book", arguments=arguments)]
    assert not ApiBank(data=None).judge(GOLD_TASK, as_completion(hostile)).valid


@given(value=values)
def test_values_of_no_declared_type_stay_as_they_are(value: Any) -> None:
    call = ToolCall(name="f", arguments={"a": value})
    assert as_declared([call], []) == (call,)


def test_figures_are_shares_of_all_tasks_and_name_what_was_not_run(data: Path) -> None:
    benchmark = ApiBank(data=data)
    accuracies = {"level-2": measure([True, False, False, True]), "toolrl-level-1": measure([True])}
    counts = {
        "level-2": {"name": 4.0, "lenient": 3.0, "searches": 2.0, "right_searches": 1.0},
        "toolrl-level-1": {"name": 1.0, "lenient": 1.0, "searches": 0.0, "right_searches": 0.0},
    }
    figures = {figure.name: figure for figure in benchmark.summarize(accuracies, counts)}
    assert figures["level-2, lenient"].value == 0.75
    assert figures["level-2, name only"].value == 1.0
    assert figures["level-2 without ToolSearcher"].value == 0.5
    assert figures["toolrl, all calls"] == Figure(
        name="toolrl, all calls",
        value=None,
        of=("toolrl-level-1", "toolrl-level-2", "toolrl-level-3"),
        missing=("toolrl-level-2", "toolrl-level-3"),
    )
    assert benchmark.summarize({}, {}) == ()


def test_categories_keep_the_benchmark_s_order() -> None:
    assert ApiBank(data=None, categories=["toolrl-level-1", "level-1"]).categories == ("level-1", "toolrl-level-1")
    with pytest.raises(RequestError, match="no category 'level-3'; there are level-1, level-2, toolrl-level-1"):
        ApiBank(data=None, categories=["level-3"])


def test_categories_without_files_are_run_only_where_asked_for(data: Path) -> None:
    benchmark = ApiBank(data=data)
    assert benchmark.categories == ("level-1", "level-2", "toolrl-level-1", "toolrl-level-2")
    assert "https://github.com/qiancheng0/ToolRL" in benchmark.not_run["toolrl-level-3"]
    assert ApiBank(data=data, categories=["toolrl-level-3"]).not_run == {}
    assert ApiBank(data=data / "apis").categories == tuple(COUNTS)


@pytest.mark.parametrize("category", COUNTS)
def test_missing_data_say_how_to_get_them(tmp_path: Path, category: str) -> None:
    with pytest.raises(DataError, match="github"):
        next(iter(ApiBank(data=tmp_path, categories=[category]).load(category)))


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("lv1-lv2-samples/level-1-given-desc/Book-level-1-1.jsonl", "level-1"),
        ("apis/book.py", "level-1"),
        ("toolrl_level1.json", "toolrl-level-1"),
    ],
)
def test_unreadable_data_are_named(data: Path, path: str, category: str) -> None:
    (data / path).write_text('{"role": ')
    with pytest.raises(DataError, match=Path(path).name):
        list(ApiBank(data=data).load(category))


def test_an_api_without_description_is_an_error(data: Path) -> None:
    (data / "apis" / "book.py").write_text("")
    with pytest.raises(DataError, match="Book-level-1-1: no description of Book"):
        list(ApiBank(data=data).load("level-1"))


@needs_data
@pytest.mark.parametrize("mode", ["tools", "prompt"])
@pytest.mark.parametrize("category", COUNTS)
def test_golds_are_right_as_calls_and_as_text(category: str, mode: Mode) -> None:
    benchmark = ApiBank(data=APIBANK, mode=mode)
    tasks = [Task.model_validate_json(task.model_dump_json()) for task in benchmark.load(category)]
    assert len({task.id for task in tasks}) == len(tasks) == COUNTS[category]
    for task in tasks:
        gold = ToolCall.model_validate(task.gold)
        text = get_format("pythonic").render([gold])
        if not task.tools:
            call = json.dumps({"name": gold.name, "parameters": gold.arguments})
            text = f"<think>Hm.</think>\n<tool_call>\n{call}\n</tool_call>"
        verdict = benchmark.judge(task, completed(text))
        assert verdict.valid
        assert verdict.counts["lenient"] == verdict.counts["name"] == 1
    assert len(benchmark.wrong_golds(tasks)) == OUT_OF_REACH[category]


@needs_data
def test_a_level_1_dialogue_shows_all_tools_it_calls() -> None:
    tasks = list(ApiBank(data=APIBANK).load("level-1"))
    assert len({task.id.split("/")[1] for task in tasks}) == 212  # of 214: one has no turns and one no calls
    assert all(task.gold["name"] in {tool.name for tool in task.tools} for task in tasks)
    assert Counter(message.role for message in tasks[0].messages) == {"system": 1, "user": 4, "assistant": 3}


@needs_data
@pytest.mark.parametrize("style", ["template", "system"])
def test_a_chat_template_takes_every_conversation(style: Any) -> None:
    from transformers import AutoTokenizer

    from toolrefine.chat import Chat
    from toolrefine.nano import NANO_DIR

    chat = Chat(AutoTokenizer.from_pretrained(NANO_DIR), PromptConfig(style=style))
    benchmark = ApiBank(data=APIBANK)
    for category in benchmark.categories:
        for task in [*benchmark.load(category)][:40]:
            assert task.messages[-1].role in ("user", "tool")
            assert chat.prompt_text(task.messages, task.tools)
