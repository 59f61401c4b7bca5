"""Answers to BFCL's questions, made up from a seed: gold calls, damaged ones, prose. Writes result files.

    python tests/benchmarks/bfcl_answers.py BFCL/lib/python3.11/site-packages RESULTS [SEED]
    BFCL/bin/python tests/benchmarks/bfcl_score.py RESULTS SCORES | gzip -n > tests/benchmarks/golden/bfcl_score.json.gz

The second command asks BFCL's own evaluation, in its own environment, for the golden file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from bfcl_cases import PROSE, CheckMaker, mutated_text, wrapped
from bfcl_multi_turn_official import Turns, as_text, flat, gold_turns

from toolrefine.benchmarks.answers import Answer
from toolrefine.benchmarks.bfcl.checker import language_of
from toolrefine.benchmarks.bfcl.data import HOW_TO_GET
from toolrefine.benchmarks.bfcl.export import export_results
from toolrefine.benchmarks.bfcl.golds import gold_calls, gold_text
from toolrefine.benchmarks.bfcl.simulation import MODULES
from toolrefine.benchmarks.bfcl.summary import MULTI_TURN
from toolrefine.benchmarks.bfcl.tasks import Bfcl
from toolrefine.benchmarks.rows import read_rows
from toolrefine.benchmarks.task import Mode, Task
from toolrefine.types import Completion, Outcome, Refinement, StopReason, ToolCall

MODES: tuple[Mode, ...] = ("prompt", "tools")
SEED = 7


def completion(text: str = "", calls: tuple[ToolCall, ...] = ()) -> Completion:
    # BFCL's evaluation stops as a whole at lone surrogates, and at integers beyond the floats.
    text = re.sub(r"\d{300,}", "9", text.encode("utf-8", "ignore").decode())
    return Completion(text=text, calls=calls, outcome=Outcome.CALLS, num_tokens=1, mean_logprob=None)


def made_up(task: Task, mode: Mode, seed: int = SEED) -> Completion:
    """An answer to a task, the same for the same seed."""
    random = Random(f"{seed} {mode} {task.id}")
    maker = CheckMaker(random)
    maker.category, maker.language = task.category, language_of(task.category)
    calls: Any = called(maker, task)
    for _ in range(random.choice((0, 1, 1, 2))):
        calls = maker.mutated(calls, task.facts["functions"] or [no_function()])
    if mode == "prompt":
        return completion(text_of(random, task, calls))
    if random.random() < 0.05 or not isinstance(calls, list):
        return completion(random.choice(PROSE))
    return completion(calls=tuple(tool_calls(random, calls)))


def played(benchmark: Bfcl, task: Task, seed: int = SEED) -> Answer:
    """An episode, in half of the cases with damaged answers; the same for the same seed."""
    random = Random(f"{seed} {benchmark.mode} {task.id}")
    turns = gold_turns(task.gold, class_documents(str(benchmark.data.root), *task.facts["involved_classes"]))
    for _ in range(random.choice((0, 0, 1, 2))):
        damage(random, turns)
    texts, steps, answer = flat(turns), [], None
    episode = benchmark.begin(task)
    assert episode
    while prompt := episode.next_prompt(answer):
        said = next(texts)
        if benchmark.mode == "prompt" or isinstance(said, str):
            answer = completion(as_text(said))
        else:
            answer = completion(calls=tuple(ToolCall(name=name, arguments=arguments) for name, arguments in said))
        steps.append(Refinement(prompt_id=prompt.id, rounds=(answer,), stop_reason=StopReason.GATED))
    return Answer(task_id=task.id, category=task.category, steps=tuple(steps), verdicts=(episode.verdict(),))


@cache
def class_documents(root: str, *classes: str) -> list[dict[str, Any]]:
    folder = Path(root) / "data" / "multi_turn_func_doc"
    return [document for name in classes for document in read_rows(folder / f"{MODULES[name]}.json", HOW_TO_GET)]


def damage(random: Random, turns: Turns) -> None:
    """Lose, repeat or change an answer of a turn, or call the same thing too often."""
    turn = random.choice(turns)
    place = random.randrange(len(turn)) if turn else 0
    match random.randrange(5):
        case 0:
            del turn[place : place + 1]
        case 1:
            turn.extend(turn[place:])
        case 2:
            turn.insert(place, random.choice(PROSE))
        case 3:
            turn.extend([[("pwd", {})]] * random.choice((1, 20, 21)))
        case _ if turn and isinstance(turn[place], list):
            turn[place] = [
                (name, {key: mutated_text(random, str(value)) for key, value in arguments.items()})
                for name, arguments in turn[place]
            ]


def single(benchmark: Bfcl, task: Task, seed: int = SEED) -> Answer:
    """An answer to a task of one step."""
    answer = made_up(task, benchmark.mode, seed)
    step = Refinement(prompt_id=task.id, rounds=(answer,), stop_reason=StopReason.GATED)
    verdicts = (benchmark.judge(task, answer),)
    return Answer(task_id=task.id, category=task.category, steps=(step,), verdicts=verdicts)


def no_function() -> dict[str, Any]:
    return {"name": "none", "parameters": {"properties": {}, "required": []}}


def called(maker: CheckMaker, task: Task) -> list[dict[str, Any]]:
    """Gold calls, or some calls of the functions where no gold is."""
    random, functions = maker.random, task.facts["functions"]
    if task.gold:
        return gold_calls(functions, task.gold, language_of(task.category))  # type: ignore[return-value]
    calls = []
    for function in random.sample(functions, min(len(functions), random.choice((0, 1, 1, 2)))):
        properties = function["parameters"]["properties"]
        names = random.sample(list(properties), random.randint(0, len(properties)))
        schemas = {name: {"type": "string"} | properties[name] for name in names}
        calls.append({function["name"]: {key: maker.plain(maker.gold_value(each)) for key, each in schemas.items()}})
    return calls


def text_of(random: Random, task: Task, calls: Any) -> str:
    language = language_of(task.category)
    if random.random() < 0.05 or not isinstance(calls, list):
        return random.choice(PROSE)
    if task.gold and random.random() < 0.2:
        text = gold_text(task.facts["functions"], task.gold, language)
    else:
        text = f"[{', '.join(call_text(call, language) for call in calls)}]"
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        text = wrapped(random, text)
    return text


def call_text(call: Any, language: str) -> str:
    if not isinstance(call, dict) or not all(isinstance(arguments, dict) for arguments in call.values()):
        return repr(call)
    write = repr if language == "python" else str
    return ", ".join(
        f"{name}({', '.join(f'{key}={write(value)}' for key, value in arguments.items())})"
        for name, arguments in call.items()
    )


def tool_calls(random: Random, calls: list[Any]) -> Iterator[ToolCall]:
    """What of it are calls, with dots in a few of the names."""
    for call in calls:
        for name, arguments in call.items() if isinstance(call, dict) else ():
            if isinstance(arguments, dict):
                shown = name if random.random() < 0.05 else name.replace(".", "_")
                yield ToolCall(name=shown, arguments={str(key): as_json(value) for key, value in arguments.items()})


def as_json(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case bool() | None | str():
            return value
        case int() | float() if abs(value) < 1e308:  # see completion
            return value
        case _:
            return str(value)


def main() -> None:
    data, folder, seed = Path(sys.argv[1]), Path(sys.argv[2]), int((*sys.argv[3:], SEED)[0])
    for mode in MODES:
        benchmark = Bfcl(data=data, mode=mode)
        answers = (
            (played if category in MULTI_TURN else single)(benchmark, task, seed)
            for category in benchmark.categories
            for task in benchmark.load(category)
        )
        export_results(answers, folder, mode)


if __name__ == "__main__":
    main()
