from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from bfcl_answers import MODES, completion, played, single
from bfcl_prompts import GOLDEN as PROMPTS
from bfcl_prompts import fingerprint
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.benchmarks.answers import Answer
from toolrefine.benchmarks.bfcl.data import BfclData, find_bfcl
from toolrefine.benchmarks.bfcl.export import STAND_INS, export_results
from toolrefine.benchmarks.bfcl.summary import LIVE, MULTI_TURN, NON_LIVE, WEIGHTS_V4, summarize
from toolrefine.benchmarks.bfcl.tasks import CATEGORIES, NOT_RUN, Bfcl
from toolrefine.benchmarks.task import Mode, Task
from toolrefine.config import PromptConfig
from toolrefine.errors import DataError, RequestError
from toolrefine.intervals import Accuracy, measure
from toolrefine.matching import schema_violation
from toolrefine.types import Completion, Refinement, StopReason, ToolCall

SCORES = Path(__file__).parent / "golden" / "bfcl_score.json.gz"
COUNTS = dict(
    zip((*NON_LIVE, *LIVE), (400, 100, 50, 200, 200, 200, 240, 258, 1053, 16, 24, 884, 16), strict=True),
)
BROKEN = {"live_simple_106-63-0", "live_simple_112-68-0", "live_multiple_862-181-3", "live_multiple_964-207-0"}
UNSAYABLE = {f"simple_java_{number}" for number in (35, 36, 65, 78, 83, 85, 86, 89, 90, 91)}
"""Arrays of strings without quotes."""


def installed() -> BfclData | None:
    """BFCL's data, of the folder named in BFCL_DATA or the installed package."""
    named = os.environ.get("BFCL_DATA")
    try:
        return find_bfcl(Path(named) if named else None)
    except DataError:
        return None


INSTALLED = installed()
needs_data = pytest.mark.skipif(not INSTALLED, reason="needs bfcl-eval, installed or with BFCL_DATA naming its folder")


def open_bfcl(mode: Mode, *categories: str) -> Bfcl:
    assert INSTALLED
    return Bfcl(data=INSTALLED.root, mode=mode, categories=categories or ["single_turn"])


def load_all(benchmark: Bfcl) -> list[Task]:
    return [task for category in benchmark.categories for task in benchmark.load(category)]


PLANT = {
    "name": "garden.plant",
    "description": "Plant.",
    "parameters": {"type": "dict", "properties": {"bed": {"type": "any", "description": "Bed."}}, "required": ["bed"]},
}
JAVA_PLANT = {
    "name": "Garden.plant",
    "description": "Plant.",
    "parameters": {
        "type": "dict",
        "properties": {
            "bed": {"type": "any", "description": "Bed."},
            "rows": {"type": "ArrayList", "items": {"type": "long"}, "description": "Rows."},
        },
        "required": ["bed"],
    },
}
JAVASCRIPT_PLANT = {
    "name": "plant",
    "description": "Plant.",
    "parameters": {
        "type": "dict",
        "properties": {
            "rows": {"type": "array", "items": {"type": "Bigint"}, "description": "Rows."},
            "when": {"type": "dict", "properties": {"day": {"type": "String"}}, "description": "When."},
        },
        "required": [],
    },
}
PROMPT_TEXTS = """
PROMPT_STYLE_TEMPLATES = {"classic": {
    "persona": "A gardener. ", "task": "Plant.", "tool_call_no_tag": "Write {output_format}.{param_types}",
    "multiturn_behavior": "Go on.", "available_tools": "Tools in {format}: {functions}",
}}
OUTPUT_FORMAT_MAPPING = {"python": "[f(a=1)]"}
PARAM_TYPE_MAPPING = {"python": ""}
_PLAINTEXT_SYSTEM_PROMPT_TEMPLATE = (
    "{persona}{task} {tool_call_format} {multiturn_behavior} {available_tools}"
)
MAPPING = {"plaintext": _PLAINTEXT_SYSTEM_PROMPT_TEMPLATE}
"""
HINT_TEXTS = """
raise SystemExit("nobody runs this")
def _get_language_specific_hint(category):
    if category == "java":
        return " (Java)"
    elif category == "javascript":
        return " (JS)"
    else:
        return " (Python)"

def _func_doc_language_specific_pre_processing(functions, category):
    for value in functions:
        if category == "java":
            if value["type"] == "any":
                value["description"] += " Any."
            else:
                value["description"] += f" Type {value['type']} as text."
            if "items" in value:
                value["description"] += f" Items: {value['items']['type']}."
        else:
            if value["type"] == "any":
                value["description"] += " Any in JS."
            else:
                value["description"] += f" JS {value['type']} as text."
            value["description"] += f" JS items: {value['items']['type']}."
            value["description"] += f" Entries: {value['properties']}"
    return functions
"""
ROWS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "simple_python": (PLANT, [{"role": "user", "content": "Plant bed 7."}]),
    "simple_java": (JAVA_PLANT, [{"role": "user", "content": "Plant."}]),
    "simple_javascript": (JAVASCRIPT_PLANT, [{"role": "user", "content": "Plant."}]),
    "live_irrelevance": (PLANT, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sing."}]),
    "live_relevance": (PLANT, [{"role": "user", "content": "Plant."}]),
}
GOLDS: dict[str, dict[str, Any]] = {
    "simple_python": {"garden.plant": {"bed": [7]}},
    "simple_java": {"Garden.plant": {"bed": ["b"], "rows": [[1, 2]]}},
    "simple_javascript": {"plant": {"rows": [[1, 2]], "when": [{"day": ["May 3"]}]}},
}


def write_package(folder: Path) -> Path:
    """A package bfcl_eval with a few questions and texts of its own."""
    for name, text in {"constants/default_prompts.py": PROMPT_TEXTS, "utils.py": HINT_TEXTS}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "data" / "possible_answer").mkdir(parents=True)
    for category, (function, messages) in ROWS.items():
        row = {"id": f"{category}_0", "question": [messages], "function": [function]}
        (folder / "data" / f"BFCL_v4_{category}.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for category, gold in GOLDS.items():
        text = json.dumps({"id": f"{category}_0", "ground_truth": [gold]})
        (folder / "data" / "possible_answer" / f"BFCL_v4_{category}.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("site-packages") / "bfcl_eval")


def only_task(package: Path, mode: Mode, category: str) -> tuple[Bfcl, Task]:
    benchmark = Bfcl(data=package, mode=mode, categories=[category])
    [task] = benchmark.load(category)
    return benchmark, task


@pytest.mark.parametrize("place", ["", "data", ".."])
def test_the_package_its_data_or_the_folder_around_it_can_be_named(package: Path, place: str) -> None:
    assert find_bfcl(package / place).root == package.resolve()


def test_its_files_are_questions_and_answers(package: Path) -> None:
    names = {path.name for path in Bfcl(data=package).files}
    assert "BFCL_v4_simple_python.json" in names
    assert all(path.is_file() for path in Bfcl(data=package).files)


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pip install --no-deps bfcl-eval"):
        Bfcl(data=tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data/BFCL_v4_simple_python.json", "{]", "simple_python"),
        ("data/BFCL_v4_simple_python.json", '{"id": "simple_python_0"}', "simple_python_0: KeyError 'function'"),
        ("data/BFCL_v4_simple_python.json", "[]", "not one JSON object a line"),
        ("data/possible_answer/BFCL_v4_simple_python.json", "", "0 answers for 1 questions"),
        ("data/possible_answer/BFCL_v4_simple_python.json", "{}", "a row without 'ground_truth'"),
        ("data/possible_answer/BFCL_v4_simple_python.json", '{"ground_truth": []}', "LookupError no gold calls"),
        ("data/possible_answer/BFCL_v4_simple_python.json", '{"ground_truth": [{"dig": {}}]}', "KeyError 'dig'"),
        ("constants/default_prompts.py", "A = (", "default_prompts.py"),
        ("constants/default_prompts.py", "A = 1", "PROMPT_STYLE_TEMPLATES"),
        ("utils.py", "A = 1", "_get_language_specific_hint"),
        ("utils.py", HINT_TEXTS.replace('" Any."', "any_text"), "another version of the hints"),
    ],
)
def test_broken_data_are_a_data_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (write_package(tmp_path / "bfcl_eval") / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        only_task(tmp_path, "prompt", "simple_python")


def test_categories_run_in_the_order_of_the_benchmark(package: Path) -> None:
    assert Bfcl(data=package).categories == CATEGORIES
    assert Bfcl(data=package, categories=["live_simple", "simple_java"]).categories == ("simple_java", "live_simple")
    assert Bfcl(data=package, categories=["multi_turn", "live"]).categories == (*LIVE, *MULTI_TURN)


def test_unknown_categories_are_refused(package: Path) -> None:
    with pytest.raises(RequestError, match="simple_python, simple_java"):
        Bfcl(data=package, categories=["simple"])
    for name, reason in NOT_RUN.items():
        with pytest.raises(RequestError, match=reason):
            Bfcl(data=package, categories=[name])


def test_java_needs_its_grammar_before_any_work(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    with pytest.raises(RequestError, match="pip install"):
        only_task(package, "prompt", "simple_java")
    only_task(package, "tools", "simple_java")


def test_prompt_mode_lists_functions_in_the_system_message(package: Path) -> None:
    _, task = only_task(package, "prompt", "simple_python")
    documents = json.dumps([PLANT | {"description": "Plant. (Python)"}], indent=4)
    text = f"A gardener. Plant. Write [f(a=1)]. Go on. Tools in json: {documents}"
    assert [(each.role, each.content) for each in task.messages] == [("system", text), ("user", "Plant bed 7.")]
    assert task.tools == ()
    benchmark, task = only_task(package, "prompt", "live_irrelevance")
    assert task.messages[0].content == f"{text}\n\nBe brief."
    assert benchmark.prompt(PromptConfig()).style == "system"


def test_tool_mode_hands_tools_over(package: Path) -> None:
    benchmark, task = only_task(package, "tools", "simple_python")
    assert [each.content for each in task.messages] == ["Plant bed 7."]
    assert [(tool.name, tool.description) for tool in task.tools] == [("garden_plant", "Plant. (Python)")]
    assert benchmark.prompt(PromptConfig(format="hermes")) == PromptConfig(format="hermes")


def test_parameters_of_java_and_javascript_are_text(package: Path) -> None:
    _, task = only_task(package, "tools", "simple_java")
    assert task.tools[0].parameters["properties"] == {
        "bed": {"type": "string", "description": "Bed. Any."},
        "rows": {"type": "string", "description": "Rows. Type ArrayList as text. Items: long."},
    }
    _, task = only_task(package, "tools", "simple_javascript")
    assert task.tools[0].parameters["properties"] == {
        "rows": {"type": "string", "description": "Rows. JS array as text. JS items: Bigint."},
        "when": {"type": "string", "description": 'When. JS dict as text. Entries: {"day": {"type": "String"}}'},
    }
    assert task.facts["functions"] == [JAVASCRIPT_PLANT]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("category", GOLDS)
def test_gold_is_right(package: Path, mode: Mode, category: str) -> None:
    pytest.importorskip("tree_sitter")
    benchmark, task = only_task(package, mode, category)
    assert benchmark.judge(task, benchmark.gold(task)).valid
    assert benchmark.wrong_golds([task]) == ()
    assert benchmark.wrong_golds([task.model_copy(update={"gold": [{task.facts["functions"][0]["name"]: {"x": [1]}}]})])


def call(name: str, **arguments: Any) -> Completion:
    return completion(calls=(ToolCall(name=name, arguments=arguments),))


@pytest.mark.parametrize(
    ("mode", "category", "answer", "error"),
    [
        ("prompt", "simple_python", completion("[garden.plant(bed=7)]"), ""),
        ("prompt", "simple_python", completion("<think>[f()]</think>\n\n[garden.plant(bed=7)]"), ""),
        ("prompt", "simple_python", completion("[garden.plant(bed='</think>')]"), "value_error:others"),
        ("prompt", "simple_python", completion("[garden_plant(bed=7)]"), "simple_function_checker:wrong_func_name"),
        ("prompt", "simple_python", completion("No."), "ast_decoder:decoder_failed"),
        ("prompt", "simple_python", completion(""), "simple_function_checker:wrong_count"),
        ("prompt", "live_irrelevance", completion("No."), ""),
        ("prompt", "live_irrelevance", completion("[]"), ""),
        ("prompt", "live_irrelevance", completion("[sing()]"), "irrelevance_error:decoder_success"),
        ("prompt", "live_relevance", completion("[sing()]"), ""),
        ("prompt", "live_relevance", completion("[]"), "relevance_error:decoder_failed"),
        ("prompt", "live_relevance", completion("No."), "relevance_error:decoder_failed"),
        ("tools", "simple_python", call("garden_plant", bed=7), ""),
        ("tools", "simple_python", call("garden.plant", bed=7), "simple_function_checker:wrong_func_name"),
        ("tools", "simple_python", call("garden_plant", bed=8), "value_error:others"),
        ("tools", "simple_python", completion("No."), "ast_decoder:decoder_failed"),
        ("tools", "simple_python", completion(""), "simple_function_checker:wrong_count"),
        ("tools", "simple_java", call("Garden_plant", bed="b", rows=[1, 2]), "type_error:java"),
        ("tools", "live_irrelevance", completion("[sing()]"), ""),
        ("tools", "live_irrelevance", call("sing"), "irrelevance_error:decoder_success"),
        ("tools", "live_relevance", call("sing"), ""),
        ("tools", "live_relevance", completion("No."), "relevance_error:decoder_failed"),
    ],
)
def test_verdicts(package: Path, mode: Mode, category: str, answer: Completion, error: str) -> None:
    benchmark, task = only_task(package, mode, category)
    verdict = benchmark.judge(task, answer)
    assert (verdict.valid, verdict.error_type) == (not error, error)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
names = st.sampled_from(["garden_plant", "garden.plant", "Garden_plant", "plant", ""])
arguments = st.dictionaries(st.sampled_from(["bed", "rows", "when", "x"]), anything)
calls = st.lists(st.builds(ToolCall, name=names, arguments=arguments), max_size=3)
texts = st.text() | st.text("[](){}=,'\"plant.bed17</think>`\n ")


@given(texts, calls, st.sampled_from(list(ROWS)), st.sampled_from(MODES))
def test_no_answer_raises(package: Path, text: str, calls: list[ToolCall], category: str, mode: Mode) -> None:
    pytest.importorskip("tree_sitter")
    benchmark, task = only_task(package, mode, category)
    verdict = benchmark.judge(task, completion(text, tuple(calls)))
    assert verdict.valid == (not verdict.error_type)


def accuracies(**shares: int) -> dict[str, Accuracy]:
    """So many right answers of ten."""
    return {name: measure([True] * right + [False] * (10 - right)) for name, right in shares.items()}


def test_figures_of_all_categories() -> None:
    found = {each.name: each.value for each in summarize(accuracies(**dict.fromkeys(CATEGORIES, 5)))}
    assert found.pop("overall (v4)") is None
    assert all(value == pytest.approx(0.5) for value in found.values())
    assert len(found) == 8


def test_means_weigh_as_the_leaderboard_does() -> None:
    shares = dict(zip(NON_LIVE, (1, 2, 3, 4, 5, 6, 7), strict=True))
    found = {each.name: each.value for each in summarize(accuracies(**shares))}
    assert found["simple"] == pytest.approx(0.2)
    assert found["non-live"] == pytest.approx((0.2 + 0.4 + 0.5 + 0.6) / 4)
    assert found["non-live (v3)"] == pytest.approx((0.2 + 0.4 + 0.5 + 0.6 + 0.7) / 5)
    live = {name: measure([True]) for name in LIVE[:3]} | {LIVE[3]: measure([False] * 7)}
    assert {each.name: each.value for each in summarize(live)}["live"] == pytest.approx(0.3)


def test_a_figure_without_all_its_parts_has_no_value() -> None:
    found = {each.name: each for each in summarize(accuracies(simple_python=5, irrelevance=5))}
    assert {each.value for each in found.values()} == {None}
    assert found["simple"].missing == ("simple_java", "simple_javascript")
    assert found["irrelevance"].missing == ("live_irrelevance",)
    assert found["overall (v3)"].missing == ("non-live (v3)", "live (v3)", "multi-turn")
    assert found["overall (v4)"].missing == ("non-live", "live", "irrelevance", "multi-turn", "agentic")
    assert all(each.value is None for each in summarize({}))


def step(prompt_id: str, *rounds: Completion) -> Refinement:
    return Refinement(prompt_id=prompt_id, rounds=rounds, stop_reason=StopReason.MAX_ROUNDS)


def answered(category: str, *steps: Refinement) -> Answer:
    return Answer(task_id=f"{category}_0", category=category, steps=steps, verdicts=())


def exported(folder: Path, answer: Answer, mode: Mode, **options: Any) -> Any:
    [path] = export_results([answer], folder, mode, **options)
    [row] = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert row["id"] == answer.task_id
    return row["result"]


@pytest.mark.parametrize(("round_index", "expected"), [(0, "a"), (1, "b"), (2, "b"), (-1, "b")])
def test_any_round_can_be_exported(tmp_path: Path, round_index: int, expected: str) -> None:
    answer = answered("simple_python", step("x", completion("<think></think>a"), completion("b")))
    assert exported(tmp_path, answer, "prompt", round_index=round_index) == expected


def test_calls_of_tools_are_exported_as_openai_has_them(tmp_path: Path) -> None:
    answer = answered("live_simple", step("x", call("f", a=["é", 2])))
    assert exported(tmp_path, answer, "tools") == [{"f": '["é", 2]'.join(('{"a": ', "}")).replace("é", "\\u00e9")}]
    assert exported(tmp_path, answered("live_simple", step("x", completion("No."))), "tools") == "No."


def test_episodes_are_exported_by_turns_and_steps(tmp_path: Path) -> None:
    ids = ["turn-0/step-0", "turn-0/step-1", "turn-1/step-0", "turn-10/step-0", "turn-2/step-0"]
    steps = [step(f"multi_turn_base_0/{each}", completion("draft"), completion(each)) for each in ids]
    found = exported(tmp_path, answered("multi_turn_base", *steps), "prompt", round_index=0)
    assert found == [ids[:2], [ids[2]], [ids[4]], [ids[3]]]


def test_result_files_lie_where_the_official_evaluation_looks(tmp_path: Path) -> None:
    answers = [answered(category, step("x", completion("[]"))) for category in ("irrelevance", "live_simple")]
    first, second = export_results(answers, tmp_path, "tools", model="some/model")
    assert first == tmp_path / "some_model" / "non_live" / "BFCL_v4_irrelevance_result.json"
    assert second == tmp_path / "some_model" / "live" / "BFCL_v4_live_simple_result.json"


@needs_data
@pytest.mark.slow
def test_prompts_are_the_official_ones() -> None:
    benchmark = open_bfcl("prompt")
    hashes = {}
    for category in benchmark.categories:
        prompts = [[dict(each) for each in task.messages] for task in benchmark.load(category)]
        hashes[category] = fingerprint(prompts)
    assert hashes == json.loads(PROMPTS.read_text(encoding="utf-8"))


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_all_tasks_are_there_and_gold_passes(mode: Mode) -> None:
    pytest.importorskip("tree_sitter")
    benchmark = open_bfcl(mode)
    tasks = load_all(benchmark)
    assert len({task.id for task in tasks}) == len(tasks)
    assert {name: sum(task.category == name for task in tasks) for name in benchmark.categories} == COUNTS
    assert all("." not in tool.name for task in tasks for tool in task.tools)
    maps = {f"simple_java_{number}" for number in (1, 67, 68)} if mode == "prompt" else set()
    assert set(benchmark.wrong_golds(tasks)) == BROKEN | UNSAYABLE | maps
    assert all(Task.model_validate_json(task.model_dump_json()) == task for task in tasks[::50])


@needs_data
@pytest.mark.slow
def test_gold_calls_fit_the_schemas_of_their_tools() -> None:
    benchmark = open_bfcl("tools")
    tasks = [task for task in load_all(benchmark) if task.gold]
    unfit = [task.id for task in tasks if schema_violation(benchmark.gold(task).calls, task.tools)]
    assert len(tasks) == 2501
    assert len(unfit) == 23, unfit


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_verdicts_and_figures_are_those_of_the_official_evaluation(mode: Mode) -> None:
    """On result files with made-up answers to all questions; see bfcl_answers.py."""
    pytest.importorskip("tree_sitter")
    pytest.importorskip("mpmath")
    official = json.loads(gzip.decompress(SCORES.read_bytes()))[STAND_INS[mode]]
    benchmark = open_bfcl(mode, "all")
    found: dict[str, Accuracy] = {}
    for category in benchmark.categories:
        theirs, rights = official["categories"][category], []
        for task in benchmark.load(category):
            answer = (played if category in MULTI_TURN else single)(benchmark, task)
            assert answer.verdicts[0].error_type == theirs["wrong"].get(task.id, ""), answer
            rights.append(answer.verdicts[0].valid)
        found[category] = measure(rights)
        assert (found[category].correct, found[category].n) == (theirs["correct_count"], theirs["total_count"])
    figures = {each.name: each.value or 0.0 for each in benchmark.summarize(found, {})}
    columns = {
        "simple": "Non-Live Simple AST",
        "non-live": "Non-Live AST Acc",
        "live": "Live Acc",
        "irrelevance": "Irrelevance Detection",
        "multi-turn": "Multi Turn Acc",
    }
    for name, column in columns.items():
        assert f"{figures[name]:.2%}" == official["leaderboard"][column]
    # Officially, what was not run counts as 0.
    overall = sum(weight * figures.get(name, 0.0) for name, weight in WEIGHTS_V4.items())
    assert f"{overall:.2%}" == official["leaderboard"]["Overall Acc"]
