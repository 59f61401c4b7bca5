from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.benchmarks.acebench.data import AGENT, ATOM, MULTI_TURN, NORMAL, SPECIAL
from toolrefine.benchmarks.acebench.prompts import SENTENCES, gold_text
from toolrefine.benchmarks.acebench.summary import build_figures
from toolrefine.benchmarks.acebench.tasks import AceBench, build_golds
from toolrefine.benchmarks.task import Benchmark, Task
from toolrefine.config import PromptConfig
from toolrefine.errors import DataError, RequestError
from toolrefine.formats import get_format
from toolrefine.intervals import measure
from toolrefine.types import Completion, Outcome, ToolCall

ACEBENCH = REPO.parent / "shared" / "bench" / "acebench"

needs_data = pytest.mark.skipif(not ACEBENCH.exists(), reason=f"needs ACEBench's data in {ACEBENCH}")

PLANT = {
    "name": "Garden.plant",
    "description": "Plants something.",
    "parameters": {
        "type": "dict",
        "properties": {"species": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["species"],
    },
}
DIG = {"name": "dig", "description": "Digs.", "arguments": {"type": "object", "properties": {}}, "tags": ["garden"]}


def completion(text: str = "", calls: Sequence[ToolCall] = (), outcome: Outcome | None = None) -> Completion:
    outcome = outcome or (Outcome.CALLS if calls else Outcome.NO_CALL)
    return Completion(text=text, calls=tuple(calls), outcome=outcome, num_tokens=5, mean_logprob=None)


def plant(species: str, **more: Any) -> ToolCall:
    return ToolCall(name="Garden.plant", arguments={"species": species, **more})


def write(folder: Path, category: str, rows: Sequence[dict[str, Any]]) -> None:
    """The rows of one category, each with its gold in it."""
    name = f"data_{category}.json"
    (folder / "possible_answer").mkdir(parents=True, exist_ok=True)
    questions = [{key: value for key, value in row.items() if key != "ground_truth"} for row in rows]
    answers = [{"id": row["id"], "ground_truth": row["ground_truth"]} for row in rows]
    for path, objects in ((folder / name, questions), (folder / "possible_answer" / name, answers)):
        path.write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in objects), encoding="utf-8")


def row(category: str, number: str, gold: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{category}_{number}",
        "question": "user: Plant roses!\nsystem: How many?\nuser: Three.\n",
        "function": [PLANT, DIG],
        "ground_truth": gold,
        **more,
    }


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ACEBench of our own, English and Chinese."""
    data = tmp_path_factory.mktemp("garden") / "data_all"
    roses = {"Garden.plant": {"species": "rose", "count": 3}}
    for language in ("en", "zh"):
        folder = data / f"data_{language}"
        write(folder, "normal_atom_bool", [row("normal_atom_bool", "0", roses, time="Today is Monday.")])
        write(
            folder,
            "normal_preference",
            [row("normal_preference", "0", [{"dig": {}}, roses], profile="{'favourite': 'roses'}")],
        )
        repeated = {"Garden.plant_1": {"species": "rose"}, "Garden.plant_2": {"species": "lily"}}
        write(
            folder,
            "normal_multi_turn_user_switch",
            [row("normal_multi_turn_user_switch", turn, repeated) for turn in ("0_0", "0_1", "1_0", "2_0", "2_1")],
        )
        write(folder, "special_incomplete", [row("special_incomplete", "0", {"Garden.plant": ["species", "count"]})])
        write(folder, "special_error_param", [row("special_error_param", "0", {"count": ["-5"], "species": ["ro#se"]})])
        write(folder, "special_irrelevant", [row("special_irrelevant", "0", SENTENCES["special_irrelevant"])])
    return data


@pytest.fixture(scope="module")
def tasks(garden: Path) -> dict[str, Task]:
    bench = AceBench(data=garden)
    return {task.id: task for name in bench.categories if has(garden, name) for task in bench.load(name)}


def has(garden: Path, category: str) -> bool:
    language, name = category.split("/")
    return (garden / f"data_{language}" / f"data_{name}.json").exists()


def test_it_is_a_benchmark(garden: Path) -> None:
    bench: Benchmark = AceBench(data=garden)
    assert bench.name == "acebench"
    assert {*bench.files} == {*garden.rglob("*.json")}
    assert bench.prompt(PromptConfig(style="system")) == PromptConfig(style="system")
    assert bench.categories == tuple(f"{language}/{name}" for language in ("en", "zh") for name in (*NORMAL, *SPECIAL))
    assert set(bench.not_run) == {f"{language}/{name}" for language in ("en", "zh") for name in AGENT}


@pytest.mark.parametrize(
    ("wanted", "categories", "not_run"),
    [
        (["en"], [f"en/{name}" for name in (*NORMAL, *SPECIAL)], [f"en/{name}" for name in AGENT]),
        (["zh/normal"], [f"zh/{name}" for name in NORMAL], []),
        (["special"], [f"{language}/{name}" for language in ("en", "zh") for name in SPECIAL], []),
        (["en/atom"], [f"en/{name}" for name in sorted(ATOM, key=NORMAL.index)], []),
        (["en/multi_turn"], [f"en/{name}" for name in MULTI_TURN], ["en/agent_multi_turn"]),
        (["zh/special_irrelevant", "en/normal_atom_bool"], ["en/normal_atom_bool", "zh/special_irrelevant"], []),
    ],
)
def test_words_of_a_category_stand_for_all_that_have_them(
    garden: Path, wanted: list[str], categories: list[str], not_run: list[str]
) -> None:
    bench = AceBench(data=garden, categories=wanted)
    assert list(bench.categories) == categories
    assert sorted(bench.not_run) == sorted(not_run)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("nonsense", "no category 'nonsense'; there are en/normal_single_turn_single_function"),
        ("fr/normal", "no category 'fr/normal'"),
        ("en/norm", "no category"),
        ("", "no category"),
        ("zh/agent", "zh/agent_multi_turn cannot be run: needs ACEBench's own environments"),
    ],
)
def test_an_unknown_category_is_refused(garden: Path, wanted: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        AceBench(data=garden, categories=["en", wanted])


def test_data_may_be_the_folder_above_and_have_one_language(garden: Path, tmp_path: Path) -> None:
    assert AceBench(data=garden.parent).categories == AceBench(data=garden).categories
    (tmp_path / "data_zh").mkdir()
    assert {name[:3] for name in AceBench(data=tmp_path).categories} == {"zh/"}


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(DataError, match="git clone"):
            AceBench(data=data)
    (tmp_path / "data_en").mkdir()
    with pytest.raises(DataError, match=r"data_normal_atom_bool\.json"):
        list(AceBench(data=tmp_path).load("en/normal_atom_bool"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("data_normal_atom_bool.json", "{", "data_normal_atom_bool.json"),
        ("data_normal_atom_bool.json", "[]", "not one JSON object a line"),
        ("data_normal_atom_bool.json", '{"id": "a", "function": []}', "row 1 has no question"),
        ("data_normal_atom_bool.json", '{"id": "a", "question": "", "function": [{}]}', "function without a name"),
        ("possible_answer/data_normal_atom_bool.json", '{"id": "a"}', "row 1 has no ground_truth"),
        ("possible_answer/data_normal_atom_bool.json", '{"id": "a", "ground_truth": {}}', "its ids are not those"),
    ],
)
def test_broken_data_are_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    write(tmp_path / "data_en", "normal_atom_bool", [row("normal_atom_bool", "0", {"dig": {}})])
    (tmp_path / "data_en" / file).write_text(text)
    with pytest.raises(DataError, match=message):
        list(AceBench(data=tmp_path).load("en/normal_atom_bool"))


def test_a_question_is_asked_with_what_belongs_to_it(tasks: dict[str, Task]) -> None:
    system, user = tasks["en/normal_atom_bool_0"].messages
    assert (system.role, user.role) == ("system", "user")
    assert system.content.endswith("Today is Monday.")
    assert user.content.endswith("user: Plant roses!\nsystem: How many?\nuser: Three.")
    assert "{'favourite': 'roses'}" in tasks["en/normal_preference_0"].messages[0].content
    assert "profile" not in system.content
    first, second = tasks["en/normal_atom_bool_0"].tools
    assert first.parameters["type"] == "object"
    assert second.name == "dig"
    assert second.parameters["properties"] == {}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "phrase", ["There is incorrect value", "Missing necessary parameters", "the limitations of the function"]
)
def test_special_tasks_name_the_words_that_are_scored(tasks: dict[str, Task], language: str, phrase: str) -> None:
    for name in SPECIAL:
        assert phrase in tasks[f"{language}/{name}_0"].messages[0].content
    assert phrase not in tasks[f"{language}/normal_atom_bool_0"].messages[0].content


def test_two_documents_with_one_name_are_one_tool(tmp_path: Path) -> None:
    twin = {**PLANT, "description": "Another."}
    write(tmp_path / "data_en", "normal_atom_bool", [row("normal_atom_bool", "0", {}, function=[PLANT, twin])])
    (task,) = AceBench(data=tmp_path).load("en/normal_atom_bool")
    assert [tool.description for tool in task.tools] == ["Plants something."]


def test_normal_tasks_are_judged_by_their_calls(garden: Path, tasks: dict[str, Task]) -> None:
    bench = AceBench(data=garden)
    task = tasks["zh/normal_atom_bool_0"]
    assert bench.judge(task, completion(calls=[plant("a red Rose")])).valid
    assert bench.judge(task, completion(calls=[plant("lily")])).error_type == "value_error:string"
    for outcome in (Outcome.NO_CALL, Outcome.MALFORMED, Outcome.TRUNCATED):
        verdict = bench.judge(task, completion("[Garden.plant(species='rose')]", [plant("rose")], outcome))
        assert verdict.error_type == "wrong_output_format"
    either = tasks["en/normal_preference_0"]
    assert bench.judge(either, completion(calls=[plant("rose", count=3)])).valid
    assert bench.judge(either, completion(calls=[ToolCall(name="Garden.plant")])).error_type == "function_mismatch"


def test_special_tasks_are_judged_by_their_words(garden: Path, tasks: dict[str, Task]) -> None:
    bench = AceBench(data=garden)
    task = tasks["zh/special_incomplete_0"]
    right = "Missing necessary parameters (species, count) for the api (Garden.plant)"
    assert bench.judge(task, completion(right)).valid
    assert bench.judge(task, completion(f'["{right}"]', outcome=Outcome.MALFORMED)).valid
    assert bench.judge(task, completion(f"<think>Which?</think>{right}")).valid
    assert not bench.judge(task, completion(f"<think>{right}</think>Which roses?")).valid
    assert not bench.judge(task, completion(f"<think>{right}", outcome=Outcome.TRUNCATED)).valid
    assert not bench.judge(task, completion("[Garden.plant(species='rose')]", [plant("rose")])).valid


def test_gold_answers_are_right(garden: Path, tasks: dict[str, Task]) -> None:
    bench = AceBench(data=garden)
    assert bench.wrong_golds(list(tasks.values())) == ()
    (gold,) = build_golds(tasks["en/normal_multi_turn_user_switch_0_0"])
    assert [call.name for call in gold.calls] == ["Garden.plant", "Garden.plant"]
    broken = tasks["en/normal_atom_bool_0"].model_copy(update={"gold": {"Garden.plant": {"count": 3}}})
    assert bench.wrong_golds([broken, tasks["en/normal_preference_0"]]) == ("en/normal_atom_bool_0",)


def test_of_several_golds_each_is_one_sentence() -> None:
    assert gold_text({"a": ["x"], "b": ["y", "z"]}, "special_error_param") == (
        "There is incorrect value (x) for the parameters (a) in the conversation history. "
        "There is incorrect value (y, z) for the parameters (b) in the conversation history."
    )


def summary_of(bench: AceBench, tasks: Sequence[Task], right: set[str]) -> dict[str, float | None]:
    """The figures where the tasks in right are answered by their gold, the others not at all."""
    verdicts = {
        task.id: bench.judge(task, next(build_golds(task)) if task.id in right else completion()) for task in tasks
    }
    names = dict.fromkeys(task.category for task in tasks)
    accuracies = {name: measure(verdicts[t.id].valid for t in tasks if t.category == name) for name in names}
    counts = {name: Counter[str]() for name in names}
    for task in tasks:
        counts[task.category].update(verdicts[task.id].counts)
    return {figure.name: figure.value for figure in bench.summarize(accuracies, counts)}


def test_a_conversation_is_right_where_all_its_turns_are(garden: Path, tasks: dict[str, Task]) -> None:
    category = "en/normal_multi_turn_user_switch"
    asked = [task for task in tasks.values() if task.category == category]
    assert len(asked) == 5
    figures = summary_of(AceBench(data=garden), asked, {f"{category}_{turn}" for turn in ("0_0", "1_0", "2_0", "2_1")})
    assert figures[category] == pytest.approx(2 / 3)
    assert figures["en/normal"] is None
    assert "zh/normal" not in figures


def test_the_summary_weighs_the_groups() -> None:
    shares = dict.fromkeys(NORMAL, 10) | dict.fromkeys(ATOM, 4) | {"special_incomplete": 9}
    names = [f"zh/{name}" for name in (*NORMAL, *SPECIAL)]
    accuracies = {name: measure([True] * (n := shares.get(name[3:], 0)) + [False] * (10 - n)) for name in names}
    figures = {figure.name: figure for figure in build_figures(accuracies, {})}
    assert figures["zh/atom"].value == pytest.approx(0.4)
    assert figures["zh/single_turn"].value == figures["zh/multi_turn"].value == 1.0
    assert figures["zh/normal"].value == pytest.approx((6 + 6 * 0.4) / 12)
    assert figures["zh/special"].value == pytest.approx(0.3)
    assert (figures["zh/agent"].value, figures["zh/overall"].value) == (None, None)
    assert figures["zh/overall"].missing == ("zh/agent",)
    assert figures["zh/overall"].of == ("zh/normal", "zh/special", "zh/agent")
    together = (0.578 * 0.7 + 0.2676 * 0.3) / (0.578 + 0.2676)
    assert figures["zh/overall of normal and special"].value == pytest.approx(together)
    assert not any(name.startswith("en/") for name in figures)


arguments = st.dictionaries(
    st.sampled_from(["species", "count", "其他"]), st.none() | st.booleans() | st.integers() | st.text() | st.just([[]])
)
calls = st.lists(st.builds(ToolCall, name=st.sampled_from(["Garden.plant", "dig"]) | st.text(), arguments=arguments))


@given(st.data(), st.text() | st.sampled_from([*SENTENCES.values(), "</think>", "<think>"]), calls)
def test_judging_never_raises(
    garden: Path, tasks: dict[str, Task], data: st.DataObject, text: str, calls: list[ToolCall]
) -> None:
    task = tasks[data.draw(st.sampled_from(sorted(tasks)))]
    outcome = data.draw(st.sampled_from(Outcome))
    verdict = AceBench(data=garden).judge(task, completion(text, calls, outcome))
    assert verdict.valid == (not verdict.error_type)


@needs_data
def test_golds_of_the_published_data_are_right_but_for_eight() -> None:
    bench = AceBench(data=ACEBENCH)
    published = [task for category in bench.categories for task in bench.load(category)]
    assert len({task.id for task in published}) == 1940
    assert Counter(task.category[:9] for task in published) == {
        "en/normal": 823,
        "zh/normal": 817,
        "en/specia": 150,
        "zh/specia": 150,
    }
    assert bench.wrong_golds(published) == (
        "en/normal_single_turn_parallel_function_42",
        "en/normal_preference_40",
        "zh/normal_single_turn_parallel_function_45",
        "zh/normal_single_turn_parallel_function_80",
        "zh/normal_similar_api_2",
        "zh/normal_similar_api_22",
        "zh/normal_atom_list_28",
        "zh/normal_atom_object_short_1",
    )
    figures = summary_of(bench, published, {task.id for task in published} - {"zh/normal_multi_turn_user_adjust_0_1"})
    assert figures["zh/normal_multi_turn_user_adjust"] == pytest.approx(49 / 50)
    assert figures["en/special"] == figures["zh/special"] == 1.0


@needs_data
def test_golds_of_the_published_data_survive_being_written_and_read() -> None:
    bench, pythonic = AceBench(data=ACEBENCH, categories=["normal"]), get_format("pythonic")
    for category in bench.categories:
        for task in bench.load(category):
            for gold in build_golds(task):
                parsed = pythonic.parse(pythonic.render(gold.calls), tools=task.tools)
                assert bench.judge(task, completion(calls=parsed.calls)) == bench.judge(task, gold), task.id
