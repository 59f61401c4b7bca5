from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from hypothesis import given
from hypothesis import strategies as st
from strategies import calls_of_any_kind, values

from toolrefine.benchmarks.gold_calls import as_completion
from toolrefine.benchmarks.task import Task
from toolrefine.benchmarks.toolalpaca import ANY, ToolAlpaca
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.errors import DataError, RequestError
from toolrefine.formats import get_format
from toolrefine.intervals import measure
from toolrefine.types import Completion, Outcome, ToolCall

TOOLALPACA = REPO.parent / "shared" / "bench" / "toolalpaca"

needs_data = pytest.mark.skipif(not TOOLALPACA.exists(), reason=f"needs ToolAlpaca in {TOOLALPACA}")

FUNCTIONS = {
    "search": 'Find films.\nParameters: {"api_key": "Required. string. The key.", "title": "Required. string. Words."}'
    "\nOutput: Films.\n - Format: application/json",
    "cast": 'Parameters: {"filmId": "Required. integer. Which.", "roles": "Array[string]. Which roles.", '
    '"order": "string. One of: [age, name]. How to sort."}\nOutput: People.',
    "rate": 'Rate it.\nParameters: {"filmId": "integer. ", "stars": "number. How many.", "at": "string. When.", '
    '"tags": "Array[Object{id: integer. A tag., }. ]. Tags.", "langs": "string. Codes."}',
    "components": "The formats.",
}
REQUESTS: list[tuple[str, list[tuple[str, str]]]] = [
    ("Find Alien.", [("search", '{"api_key": "xyz", "title": "Alien"}')]),
    ("Who plays in Alien?", [("search", '{"title": "Alien"}'), ("cast", '{"filmId": ${filmId from search}}')]),
    ("Who is in it?", [("getDetails", '{"Question": "Which?"}'), ("cast", '{"filmId": 7}')]),
    ("Rate film 1.", [("rate", '{"filmId": 1, "stars": 5, "at": ${now}", "tags": [${some tag}]}')]),
    ("Find it.", [("search", '{"title": "Alien"}'), ("[Optional]rate", '{"filmId": 1}')]),
    ("Rate 1 and 2.", [("rate", '{"filmId": 1, "langs": "langs": ["en", "de"]}'), ("rate", '{"filmId": 2, "at": ""}')]),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    api = {
        "Name": "Films",
        "Description": "Not used.",
        "Authentication": {"api_key": "***"},
        "Function_Description": FUNCTIONS,
        "Instructions": [request for request, _ in REQUESTS],
        "Golden_Answers": [
            [{"Action": action, "Action_Input": given} for action, given in steps] for _, steps in REQUESTS
        ],
    }
    (tmp_path / "eval_real.json").write_text(json.dumps([api]))
    return tmp_path


def tasks_in(data: Path) -> list[Task]:
    return list(ToolAlpaca(data=data).load("real"))


def judge(task: Task, *calls: ToolCall) -> Verdict:
    return ToolAlpaca(data=None).judge(task, as_completion(calls))


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def test_its_files_are_those_of_the_categories(data: Path) -> None:
    assert ToolAlpaca(data=data, categories=["real"]).files == [data / "eval_real.json"]


def test_functions_become_typed_tools_without_the_keys_of_the_api(data: Path) -> None:
    task = tasks_in(data)[0]
    search, cast, rate = task.tools
    assert (task.id, task.messages[0].content) == ("real/Films/0", "Find Alien.")
    assert (search.description, cast.description, rate.description) == ("Find films.", "", "Rate it.")
    assert search.parameters["properties"] == {"title": {"type": "string", "description": "Words."}}
    assert cast.parameters["properties"]["filmId"] == {"type": "integer", "description": "Which."}
    assert cast.parameters["properties"]["roles"]["items"] == {"type": "string"}
    assert cast.parameters["properties"]["order"]["enum"] == ["age", "name"]
    assert cast.parameters["required"] == ["filmId"]
    assert rate.parameters["properties"]["tags"]["type"] == "array"


def test_gold_is_what_can_be_called_at_once(data: Path) -> None:
    assert [[(call["name"], call["arguments"]) for call in task.gold] for task in tasks_in(data)] == [
        [("search", {"title": "Alien"})],
        [("search", {"title": "Alien"})],
        [],
        [("rate", {"filmId": 1, "stars": 5, "at": ANY, "tags": ANY})],
        [("search", {"title": "Alien"})],
        [("rate", {"filmId": 1, "langs": "en,de"}), ("rate", {"filmId": 2})],
    ]


@pytest.mark.parametrize(
    ("number", "calls", "error"),
    [
        (0, [call("search", title="Alien")], ""),
        (0, [call("search", title="Alien", api_key="mine")], ""),
        (0, [call("search", title="alien")], "wrong_value"),
        (0, [call("cast", title="Alien")], "wrong_name"),
        (0, [], "missing_call"),
        (2, [], ""),
        (2, [call("cast", filmId=7)], "unexpected_call"),
        (3, [call("rate", filmId="1", stars=5.0, at="today", tags=[])], ""),
        (3, [call("rate", filmId=1, stars=5, at="today")], "missing_arg"),
        (5, [call("rate", filmId=2, langs=""), call("rate", filmId=1, langs=["en", "de"])], ""),
        (5, [call("rate", filmId=2)], "wrong_count"),
    ],
)
def test_all_calls_must_be_gold_s(data: Path, number: int, calls: list[ToolCall], error: str) -> None:
    verdict = judge(tasks_in(data)[number], *calls)
    assert (verdict.valid, verdict.error_type) == (not error, error)


def test_parts_of_the_f1_scores_are_counted_with_repetitions(data: Path) -> None:
    task = tasks_in(data)[5]
    assert judge(task, call("rate", filmId=1, langs="EN,DE"), call("search", title="x")).counts == {
        "lenient": 0,
        "name_right": 1,
        "name_given": 2,
        "name_gold": 2,
        "parameter_right": 1,
        "parameter_given": 3,
        "parameter_gold": 3,
    }


def test_an_answer_that_cannot_be_read_gives_nothing(data: Path) -> None:
    completion = as_completion([call("search", title="Alien")]).model_copy(update={"outcome": Outcome.TRUNCATED})
    verdict = ToolAlpaca(data=None).judge(tasks_in(data)[0], completion)
    assert (verdict.error_type, verdict.counts["name_given"]) == ("truncated", 0)


def test_f1_is_computed_over_all_requests_together(data: Path) -> None:
    counts = {
        "lenient": 1.0,
        **{"name_right": 3.0, "name_given": 4.0, "name_gold": 6.0},
        **{"parameter_right": 0.0, "parameter_given": 0.0, "parameter_gold": 0.0},
    }
    figures = ToolAlpaca(data=data).summarize({"real": measure([True, False])}, {"real": counts})
    assert {figure.name: figure.value for figure in figures} == {
        "real, name F1": 0.6,
        "real, parameter F1": None,
        "real, lenient": 0.5,
    }


@given(calls=calls_of_any_kind, arguments=st.dictionaries(st.sampled_from(["filmId", "at", "tags"]), values))
def test_judging_never_raises(calls: list[ToolCall], arguments: dict[str, Any]) -> None:
    task = Task(
        id="x",
        category="real",
        messages=(),
        gold=[call("rate", filmId=1, at=ANY).model_dump()],
        facts={"keys": ["key"]},
    )
    assert not judge(task, *calls, ToolCall(name="rate", arguments=arguments)).valid


def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(RequestError, match="no category 'fake'; there are real, simulated"):
        ToolAlpaca(data=None, categories=["fake"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Name": 7}, "not of ToolAlpaca: 0.Name"),
        ({"Instructions": []}, "not as many golden answers"),
        ({"Function_Description": {"f": "No parameters."}}, "the description of f cannot be read"),
        ({"Golden_Answers": [[{"Action": "f", "Action_Input": "{"}]] * len(REQUESTS)}, "Films, request 0"),
    ],
)
def test_unreadable_data_are_named(data: Path, change: dict[str, Any], message: str) -> None:
    path = data / "eval_real.json"
    [api] = json.loads(path.read_text())
    path.write_text(json.dumps([api | change]))
    with pytest.raises(DataError, match=message):
        tasks_in(data)


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="github"):
        tasks_in(tmp_path)


@needs_data
@pytest.mark.parametrize(("category", "num_tasks", "num_calls"), [("real", 114, 143), ("simulated", 100, 118)])
def test_golds_are_right_as_calls_and_as_text(category: str, num_tasks: int, num_calls: int) -> None:
    benchmark = ToolAlpaca(data=TOOLALPACA)
    tasks = [Task.model_validate_json(task.model_dump_json()) for task in benchmark.load(category)]
    assert len({task.id for task in tasks}) == len(tasks) == num_tasks
    verdicts = []
    counts: Counter[str] = Counter()
    for task in tasks:
        text = get_format("pythonic").render([ToolCall.model_validate(call) for call in task.gold])
        parsed = get_format("pythonic").parse(text)
        completion = Completion(text=text, calls=parsed.calls, outcome=parsed.outcome, num_tokens=1, mean_logprob=None)
        verdicts.append(benchmark.judge(task, completion))
        counts.update(verdicts[-1].counts)
    assert all(verdict.valid for verdict in verdicts)
    assert counts["name_gold"] == num_calls
    figures = benchmark.summarize({category: measure([verdict.valid for verdict in verdicts])}, {category: counts})
    assert [figure.value for figure in figures] == [1.0, 1.0, 1.0]


@needs_data
def test_golds_out_of_reach_call_what_the_api_does_not_have() -> None:
    benchmark = ToolAlpaca(data=TOOLALPACA)
    tasks = [task for category in benchmark.categories for task in benchmark.load(category)]
    aviation = tuple(f"real/AviationAPI/{number}" for number in range(5, 11))
    assert benchmark.wrong_golds(tasks) == (*aviation, "simulated/AniAPI/1")


@needs_data
def test_steps_that_wait_for_others_are_left_out_of_the_simulated_set_only() -> None:
    benchmark = ToolAlpaca(data=TOOLALPACA)
    real, simulated = (list(benchmark.load(category)) for category in benchmark.categories)
    assert all(len(task.gold) == len(task.facts["golden_answer"]) for task in real)
    assert sum(len(task.gold) < len(task.facts["golden_answer"]) for task in simulated) == 24
    assert sum(not task.gold for task in simulated) == 8
    assert sum(ANY in call["arguments"].values() for task in simulated for call in task.gold) == 10
