from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from bfcl_multi_turn_official import CATEGORIES, GOLDEN, Answer, as_text, damaged, fingerprint, flat, gold_turns
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.benchmarks.bfcl.data import BfclData, find_bfcl
from toolrefine.benchmarks.bfcl.multi_turn import MultiTurnEpisode, begin, load_tasks
from toolrefine.benchmarks.bfcl.simulation import MAX_CHARS, Simulation, load_class, open_simulations
from toolrefine.benchmarks.bfcl.turns import calls_in_text
from toolrefine.benchmarks.task import Mode, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.errors import DataError
from toolrefine.types import Completion, Message, Outcome, Prompt, ToolCall

MODES: tuple[Mode, Mode] = ("prompt", "tools")
MAX_CALL_S = 1.0


def find_data() -> BfclData | None:
    folder = os.environ.get("BFCL_DATA")
    try:
        return find_bfcl(Path(folder) if folder else None)
    except DataError:
        return None


DATA = find_data()
needs_data = pytest.mark.skipif(DATA is None, reason="needs bfcl-eval, or BFCL_DATA, its folder bfcl_eval/data")


def data() -> BfclData:
    assert DATA is not None
    return DATA


@cache
def tasks(category: str, mode: Mode) -> list[Task]:
    return list(load_tasks(data(), category, mode))


def documents(task: Task) -> list[dict[str, Any]]:
    """Those of a task in tools mode, in the order of BFCL's own."""
    held_out = [document for some in task.facts["missed_function"].values() for document in some]
    return [*(tool.model_dump() for tool in task.tools), *held_out]


def completion(answer: Answer, mode: Mode) -> Completion:
    text = as_text(answer) if mode == "prompt" else answer if isinstance(answer, str) else ""
    calls = () if mode == "prompt" or isinstance(answer, str) else json.loads(json.dumps(answer))
    return Completion(
        text=text,
        calls=tuple(ToolCall(name=name, arguments=arguments) for name, arguments in calls),
        outcome=Outcome.CALLS if calls else Outcome.NO_CALL,
        num_tokens=1,
        mean_logprob=None,
    )


def play(episode: MultiTurnEpisode, answers: Iterator[Answer]) -> list[Prompt]:
    prompts = []
    prompt = episode.next_prompt(None)
    while prompt:
        prompts.append(prompt)
        prompt = episode.next_prompt(completion(next(answers), episode.mode))
    return prompts


def spoken(message: Message) -> tuple[str, str, list[Any]]:
    return message.role, message.content, [[call.name, call.arguments] for call in message.tool_calls]


def verdicts_of_gold(category: str, mode: Mode, every: int) -> list[str]:
    found = []
    for task, in_tools in list(zip(tasks(category, mode), tasks(category, "tools"), strict=True))[::every]:
        episode = begin(task, data(), mode)
        play(episode, flat(gold_turns(task.gold, documents(in_tools))))
        found.append(episode.verdict().error_type)
    return found


@needs_data
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("category", CATEGORIES)
def test_gold_calls_are_right_every_time(category: str, mode: Mode, every: int) -> None:
    for _ in range(2):
        assert Counter(verdicts_of_gold(category, mode, every)) == {"": 200 // every}


def read_golden() -> list[list[Any]]:
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        _, *rows = map(json.loads, file)
    return rows


def differences(rows: list[list[Any]]) -> list[Any]:
    found = []
    place = {task.id: number for category in CATEGORIES for number, task in enumerate(tasks(category, "tools"))}
    for task_id, seed, error_type, said in rows:
        category, mode = task_id.rsplit("_", 1)[0], MODES[seed % 2]
        in_tools = tasks(category, "tools")[place[task_id]]
        task = tasks(category, mode)[place[task_id]]
        episode = begin(task, data(), mode)
        turns = damaged({"id": task_id}, task.gold, documents(in_tools), seed)
        prompts = play(episode, flat(turns))
        names = [tool.name for tool in prompts[-1].tools]
        our_words = fingerprint(len(prompts), names, list(map(spoken, prompts[-1].messages)))
        if (episode.verdict().error_type, our_words) != (error_type, said):
            found.append((task_id, seed, episode.verdict().error_type, error_type, our_words == said))
    return found


@needs_data
def test_damaged_answers_are_prompted_and_judged_as_by_bfcl() -> None:
    assert differences(read_golden()[::33]) == []  # of all seeds


@needs_data
@pytest.mark.slow
def test_all_damaged_answers_are_prompted_and_judged_as_by_bfcl() -> None:
    rows = read_golden()
    assert len(rows) == 3200
    assert differences(rows) == []


def simulation(*classes: str) -> Simulation:
    [opened] = open_simulations(data().root, classes, {}, False, ("model",))
    return opened


def execute(classes: tuple[str, ...], *calls: str) -> list[str]:
    """The results of calls, each of which takes less than MAX_CALL_S."""
    opened, results = simulation(*classes), []
    for call in calls:
        start = time.perf_counter()
        results.append(opened.execute(call))
        assert time.perf_counter() - start < MAX_CALL_S, call[:100]
    return results


@needs_data
@pytest.mark.parametrize(
    "call",
    [
        "power(base=10, exponent=10000000000)",
        f"power(base=1{'0' * 4000}, exponent=100000)",
        "power(base=-7, exponent=999999999999999999)",
        "logarithm(value=2, base=3, precision=1000000000)",
        "logarithm(value=2, base=3, precision='1000000000')",
        "square_root(number=2, precision=1000000000)",
        "unknown(a=1)",
        "10 ** 10 ** 10",
        "add(a=10 ** 10 ** 10, b=1)",
        "add(a='x' * 10 ** 10, b='')",
        "add(a=[0 for i in range(10 ** 10)], b=1)",
        "add(a=" + "[" * 5000 + "]" * 5000 + ", b=1)",
        "add(a=" + "-" * 50_000 + "1, b=1)",
        "add(" + "a" * MAX_CHARS + "=1)",
        "add(a=f'" + "{a}" * 30_000 + "', b=1)",
        "(" * MAX_CHARS,
        "a(" * 33_000,
        "a " * 49_000,
        "",
        "\0",
        "add(a=1, b=2",
        "add(a=1, a=2, b=1, **{'a': 1})",
        "add(*[1, 2])",
    ],
)
def test_hostile_calls_are_errors_at_once(call: str) -> None:
    [result] = execute(("MathAPI",), call)
    assert result.startswith("Error during execution: ")


@needs_data
@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("power(base=2, exponent=10)", '{"result": 1024}'),
        ("power(base=1, exponent=999999999999999999)", '{"result": 1}'),
        ("power(base=2, exponent=-999999999999999999)", '{"result": 0.0}'),
        ("power(2, exponent='x')", '{"error": "Both inputs must be numbers"}'),
        ("power(base=2)", "Error during execution: MathAPI.power() missing 1 required positional argument: 'exponent'"),
        ("round_number(number=5, decimal_places=-1000000000)", '{"result": 0}'),
        ("round_number(number=2.567, decimal_places=2)", '{"result": 2.57}'),
        ("round_number(2.567)", '{"result": 3.0}'),
        ("square_root(number=2, precision=5)", "{'result': Decimal('1.4142')}"),
        ("mean(numbers=[1, 2.5, -3])", '{"result": 0.16666666666666666}'),
        ("  mean( [1, 2])", '{"result": 1.5}'),
        ("kill(pid=1)", "Error during execution: Function call kill is not allowed."),
        ("ls()", "Error during execution: name 'ls' is not defined"),
    ],
)
def test_results_and_errors_are_those_of_bfcl(call: str, result: str) -> None:
    assert execute(("MathAPI",), call) == [result]


@needs_data
@pytest.mark.parametrize(
    "call",
    [
        "__import__(name='os')",
        "open(file='/tmp/no_such_file', mode='w')",
        "exec('import os')",
        "print(sep='')",
        "str(object='forged')",
        "json.dumps(obj=1)",
        "mean.__globals__",
        "mean.__globals__['os'](a=1)",
        "_load_scenario(scenario={})",
        "model_GorillaFileSystem_instance._load_scenario(scenario={})",
        "model_GorillaFileSystem_instance.root",
        "model_GorillaFileSystem_instance.ls.__func__(a=1)",
        "(lambda: 1)()",
        "ls(a=(x := 1))",
        "ls(a=print)",
        "ls(a=inf)",
    ],
)
def test_nothing_but_public_methods_is_executed(call: str) -> None:
    [result] = execute(("GorillaFileSystem",), call)
    assert result.startswith("Error during execution: ")


@needs_data
def test_directories_that_hold_themselves_are_not_searched() -> None:
    *_, found, size = execute(("GorillaFileSystem",), "mkdir('a')", "cp('a', 'a')", "find()", "du()")
    assert found == size == "Error during execution: the directories hold each other, or too much"


@needs_data
def test_directories_that_double_are_not_searched() -> None:
    double = ["cp('a', 'b')", "mkdir('c')", "mv('a', 'c')", "mv('b', 'c')", "mv('c', 'a')"]
    *_, found = execute(("GorillaFileSystem",), "mkdir('a')", *double * 50, "find()")
    assert found == "Error during execution: the directories hold each other, or too much"


@needs_data
def test_nested_calls_are_executed_and_bounded() -> None:
    login = "ticket_login(username='a', password='b')"
    double = "edit_ticket(ticket_id=1, updates={'title': get_ticket(1), 'description': get_ticket(1), 'status': None})"
    _, _, first, *_, last = execute(("TicketAPI",), login, "create_ticket(title='a')", *[double] * 30)
    assert "successfully" in first
    assert last == f"Error during execution: the arguments have more than {MAX_CHARS} characters"


@needs_data
def test_half_characters_and_long_integers_do_no_harm() -> None:
    half = ["touch('\\ud800')", "mkdir('d')", "cp('\\ud800', 'd')", "cp('\\ud800', 'd')"]
    *_, result = execute(("GorillaFileSystem",), *half)
    assert result == "Error during execution: File '\\ud800' already exists in directory 'd'."
    [result] = execute(("VehicleControlAPI",), f"lockDoors(unlock=True, door=[0x{'f' * 9000}])")
    assert result == "Error during execution: KeyError"


@needs_data
def test_a_text_that_looks_like_a_call_is_changed_as_bfcl_changes_it() -> None:
    [result] = execute(("GorillaFileSystem",), "echo(content='please ls (all) of this (now)')")
    assert json.loads(result) == {"terminal_output": "please model_GorillaFileSystem_instance.ls(all) of this(now)"}


@needs_data
def test_simulations_share_nothing_with_later_ones() -> None:
    book = (
        "book_flight(access_token=None, card_id='{}', travel_date='2024-01-01', travel_from='SFO', travel_to='LAX', "
        "travel_class='economy')"
    )

    def balances() -> list[str]:
        [opened] = open_simulations(data().root, ("TravelAPI",), {}, True, ("model",))
        cards = list(opened.instances["TravelAPI"].credit_card_list)
        results = [opened.execute(book.format(card)) for card in cards]
        assert any('"booking_status": true' in result for result in results)
        return results

    assert balances() == balances()


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(a=1, b='x'), g()]", ("f(a=1, b='x')", "g()")),
        ("f(a=[{'b': 1}])", ("f(a=[{'b': 1}])",)),
        ("[f(a=g(b=1))]", ("f(a=g(b=1))",)),
        ("[f(a=g())]", ("f(a='g()')",)),
        ("[f(a={'b': {'c': 1}, 'd': {}})]", ("f(a=b(c=1))",)),
        ('[f(a={"it\'s": 1})]', ("f(a={'it's': 1})",)),
        ("[f(1, a=-2)]", ("f(a=-2)",)),
        ("[f(a={})]", ()),
        ("[f(a={'b': {}, 'c': {'d': {}}})]", ("f(a=b())",)),
        ("[]", ()),
        ("", ()),
        ("I am done.", ()),
        (f"[f(a=0x{'f' * 5000})]", ()),
    ],
)
def test_texts_are_read_as_bfcl_reads_them(text: str, calls: tuple[str, ...]) -> None:
    assert calls_in_text(text) == calls


ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["ls", "cd", "echo", "find", "cp", "post_tweet", "sort", "ls ", "f(", "", "a.b"]) | st.text()
WORDS = st.sampled_from(["folder", "content", "file_name", "a", "source", "destination"]) | st.text()
HOSTILE_CALLS = st.lists(st.tuples(NAMES, st.dictionaries(WORDS, ARGUMENTS, max_size=3)), max_size=4)


@needs_data
@given(st.lists(HOSTILE_CALLS | st.text(), max_size=6), st.sampled_from(MODES))
def test_playing_and_judging_never_raise(answers: list[Answer], mode: Mode) -> None:
    episode = begin(tasks("multi_turn_miss_func", mode)[0], data(), mode)
    play(episode, flat([answers]))
    assert episode.verdict() == episode.verdict()


@needs_data
@given(st.binary(max_size=200))
def test_texts_near_to_calls_never_raise(noise: bytes) -> None:
    opened = simulation("GorillaFileSystem", "TwitterAPI")
    assert isinstance(opened.execute("cd(folder='" + noise.decode("latin-1") + "')"), str)


@needs_data
@pytest.mark.parametrize("mode", MODES)
def test_tasks_survive_being_written(mode: Mode) -> None:
    for category in CATEGORIES:
        assert len(tasks(category, mode)) == 200
        assert all(Task.model_validate_json(task.model_dump_json()) == task for task in tasks(category, mode)[::10])


@needs_data
def test_held_out_functions_come_later() -> None:
    for mode in MODES:
        task = tasks("multi_turn_miss_func", mode)[0]
        [[turn, [held_out]]] = task.facts["missed_function"].items()
        prompts = play(begin(task, data(), mode), flat([]))
        assert [prompt.id for prompt in prompts] == [f"{task.id}/turn-{number}/step-0" for number in range(5)]
        before, after = prompts[int(turn) - 1], prompts[int(turn)]
        if mode == "tools":
            assert [tool.name for tool in after.tools] == [tool.name for tool in before.tools] + [held_out["name"]]
            assert (
                after.messages[-1].content == "I have updated some more functions you can choose from. What about now?"
            )
        else:
            assert not after.tools
            assert after.messages[-1].content.startswith(f"[{held_out!r}]\nI have updated")


@needs_data
def test_results_come_back_one_message_a_call_or_all_in_one() -> None:
    answer: Answer = [("ls", {}), ("cd", {"folder": "none"})]
    for mode in MODES:
        episode = begin(tasks("multi_turn_base", mode)[0], data(), mode)
        play(episode, flat([[answer]]))
        words = [(message.role, message.tool_call_id) for message in episode.transcript()]
        said = words[words.index(("assistant", None)) + 1 :]
        assert (
            said[:2]
            == {"prompt": [("user", None), ("assistant", None)], "tools": [("tool", "call_0"), ("tool", "call_1")]}[
                mode
            ]
        )


@needs_data
@pytest.mark.parametrize(
    ("num_steps", "num_prompts", "error_type"), [(20, 24, "instance_state_mismatch"), (21, 21, "force_terminated")]
)
def test_more_than_20_steps_of_a_turn_end_the_episode(num_steps: int, num_prompts: int, error_type: str) -> None:
    episode = begin(tasks("multi_turn_base", "tools")[0], data(), "tools")
    assert len(play(episode, flat([[[("ls", {})]] * num_steps]))) == num_prompts
    assert episode.verdict() == Verdict(valid=False, error_type=f"multi_turn:{error_type}")


def test_missing_classes_and_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="long_context"):
        load_class(tmp_path, "MathAPI")
    folder = tmp_path / "eval_checker" / "multi_turn_eval" / "func_source_code"
    folder.mkdir(parents=True)
    (folder / "long_context.py").write_text("")
    (folder / "math_api.py").write_text("import no_such_package")
    with pytest.raises(DataError, match="pip install no_such_package"):
        load_class(tmp_path, "MathAPI")
    (folder / "ticket_api.py").write_text("")
    with pytest.raises(DataError, match="no class TicketAPI"):
        load_class(tmp_path, "TicketAPI")
