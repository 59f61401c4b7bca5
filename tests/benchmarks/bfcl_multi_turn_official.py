"""Let BFCL's own code play and judge damaged gold answers to its multi-turn tasks, and write a golden file.

BFCL/bin/python tests/benchmarks/bfcl_multi_turn_official.py

BFCL is an environment as in bfcl_official.py. The golden file holds, for each task and seed, BFCL's error type ("" for
a right answer, "raises" where its checker does) and a hash of all that its handler said to the model. Prints how often
each verdict came out.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import gzip
import hashlib
import io
import json
import random
import re
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bfcl_score import Models, stand_in

GOLDEN = Path(__file__).parent / "golden" / "bfcl_multi_turn.jsonl.gz"
CATEGORIES = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
SEEDS = range(4)
"""An even seed is played in prompt mode, an odd one in tools mode."""

Call = tuple[str, dict[str, Any]]
Answer = str | list[Call]
"""Text, or calls."""
Turns = list[list[Answer]]

OWNER = "model"
"""The name of the model, which BFCL writes into arguments that look like calls."""
DONE = "Done."
VALUES: list[Any] = [
    "ls (all) the files",
    "first cd(x), then sort (y)",
    'it\'s a "quoted" \\n \\',
    "x" * 3000,
    "naïve \u200b 日本 \U0001f600",
    "",
    "NaN",
    "None",
    0,
    -1,
    -0.0,
    2.0,
    1e308,
    10**30,
    True,
    None,
    [],
    {},
    [[1], {"a": [2]}],
    {"a": {"b": 1}},
    {"it's": 1, "b": {"c": 2}},
]
CALLS: list[Call] = [
    ("kill", {"pid": 1}),
    ("no_such_tool", {"x": 1}),
    ("GorillaFileSystem.ls", {"a": True}),
    ("_load_scenario", {"scenario": {"a": 1}}),
    ("power", {"base": 10, "exponent": 4400}),
    ("power", {"base": 2, "exponent": 4000}),
    ("power", {"base": -3, "exponent": 0.5}),
    ("logarithm", {"value": 10, "base": 3, "precision": 50}),
    ("square_root", {"number": 2, "precision": 0}),
    ("square_root", {"number": 2, "precision": 40}),
    ("round_number", {"number": 5, "decimal_places": -3000}),
    ("find", {"path": "/"}),
    ("du", {"human_readable": True}),
    ("cp", {"source": "a", "destination": "a"}),
    ("cd", {"folder": ".."}),
    ("ls", {}),
]
TEXTS = [
    "I cannot do that.",
    "",
    "[]",
    "[",
    "null",
    "`[ls()]`",
    "ls()",
    "[ls(), cd(folder='..')",
    "[cd('..')]",
    "[cat(file_name=ls())]",
    "[echo(content=pwd(), file_name=None)]",
    "[echo(content=cat(file_name='a'))]",
    "[display_log(messages=[get_current_speed(), {'a': liter_to_gallon(liter=1)}])]",
    "[add(a=mean(numbers=[1, 2]), b=-1)]",
    "[add(**{'a': 1})]",
    "[a.b.ls(c=1), post_tweet(content='done (really)', tags=['#a'], mentions=('@b', 1))]",
    "Sure: [ls()]",
    "[f(x=1), 5]",
    "{'name': 'ls', 'arguments': {}}",
]


def gold_turns(gold: Sequence[Sequence[str]], documents: Sequence[dict[str, Any]]) -> Turns:
    """The gold calls with named arguments, one answer a turn."""
    parameters = {document["name"]: list(document["parameters"]["properties"]) for document in documents}

    def read(text: str) -> Call:
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        name = call.func.id  # type: ignore[attr-defined]
        arguments = dict(zip(parameters[name], map(ast.literal_eval, call.args), strict=False))
        return name, arguments | {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}

    return [[[read(text) for text in calls]] if calls else [] for calls in gold]


def damaged(
    row: dict[str, Any], gold: Sequence[Sequence[str]], documents: Sequence[dict[str, Any]], seed: int
) -> Turns:
    """Gold answers with one to three damages; seeded, and the same wherever it runs."""
    draw = random.Random(f"{row['id']}/{seed}")
    turns = gold_turns(gold, documents)
    if draw.random() < 0.5:  # one call an answer
        turns = [[[call] for answer in turn for call in answer] for turn in turns]
    values = [value for calls in each_call(turns) for _, arguments in calls for value in arguments.values()]
    for _ in range(draw.randint(1, 3)):
        draw.choice(DAMAGES)(draw, turns, documents, values)
    return turns


def each_call(turns: Turns) -> Iterator[list[Call]]:
    """The answers that hold calls."""
    return (answer for turn in turns for answer in turn if isinstance(answer, list) and answer)


Damage = Callable[[random.Random, Turns, Sequence[dict[str, Any]], list[Any]], None]


def drop_call(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    calls = draw.choice(list(each_call(turns)) or [[]])
    if calls:
        calls.pop(draw.randrange(len(calls)))


def change_argument(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    places = [(calls, place) for calls in each_call(turns) for place, call in enumerate(calls) if call[1]]
    if not places:
        return
    calls, place = draw.choice(places)
    name, arguments = calls[place]
    key = draw.choice(list(arguments))
    value, kind = arguments[key], draw.randrange(6)
    if kind == 0:
        arguments = {word: other for word, other in arguments.items() if word != key}
    elif kind == 1:
        arguments = {(word + "s" if word == key else word): other for word, other in arguments.items()}
    elif kind == 2:
        arguments = arguments | {key: draw.choice(VALUES)}
    elif kind == 3:
        arguments = arguments | {key: draw.choice(values)}
    elif isinstance(value, str):
        arguments = arguments | {key: draw.choice([value.lower(), value + " ", value + " (copy)", value[:-1]])}
    elif isinstance(value, int | float):
        arguments = arguments | {key: draw.choice([value + 1, float(value), str(value), -value])}
    calls[place] = name, arguments


def shuffle_calls(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    draw.shuffle(draw.choice(turns))
    for calls in each_call(turns):
        if draw.random() < 0.5:
            draw.shuffle(calls)


def repeat_call(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    calls = draw.choice(list(each_call(turns)) or [[]])
    if calls:
        calls.insert(draw.randint(0, len(calls)), copy.deepcopy(draw.choice(calls)))


def extra_call(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    document = draw.choice(documents)
    names = document["parameters"]["properties"]
    arguments = {name: draw.choice(values or VALUES) for name in names if draw.random() < 0.9}
    if "precision" in arguments:  # of which toolrefine computes less
        arguments["precision"] = 30
    insert(draw, turns, [(document["name"], arguments)])


def hostile_call(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    name, arguments = draw.choice(CALLS)
    if name == "cp" and values:
        arguments = dict.fromkeys(arguments, draw.choice(values))
    insert(draw, turns, [(name, arguments)])


def read_state(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    free = [document["name"] for document in documents if not document["parameters"].get("required")]
    insert(draw, turns, [(draw.choice(free), {}) for _ in range(3)] if free else [])


def add_text(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    insert(draw, turns, draw.choice(TEXTS))


def move_answer(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    turn = draw.choice(turns)
    if turn:
        draw.choice(turns).append(turn.pop())


def empty_turn(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    turns[draw.randrange(len(turns))] = []


def many_steps(draw: random.Random, turns: Turns, documents: Sequence[dict[str, Any]], values: list[Any]) -> None:
    turn = draw.choice(turns)
    num_steps = draw.choice([19, 20, 21, 22])
    turn.extend([("ls", {})] for _ in range(num_steps - len(turn)))


def insert(draw: random.Random, turns: Turns, answer: Answer) -> None:
    turn = draw.choice(turns)
    turn.insert(draw.randint(0, len(turn)), answer)


DAMAGES: tuple[Damage, ...] = (
    drop_call,
    change_argument,
    change_argument,
    change_argument,
    shuffle_calls,
    repeat_call,
    extra_call,
    extra_call,
    hostile_call,
    read_state,
    add_text,
    move_answer,
    empty_turn,
    many_steps,
)


def flat(turns: Turns) -> Iterator[Answer]:
    """The answers one after the other, a turn ended by DONE; for ever."""
    for turn in turns:
        yield from turn
        yield DONE
    while True:
        yield DONE


def as_text(answer: Answer) -> str:
    """An answer in prompt mode."""
    if isinstance(answer, str):
        return answer
    calls = (f"{name}({', '.join(f'{key}={value!r}' for key, value in each.items())})" for name, each in answer)
    return f"[{', '.join(calls)}]"


UNORDERED = re.compile(r"(?<=Must be one of \{)[^}]*|(?<=Invalid fields for update: )[^\"]*")
"""What BFCL's classes write in the order of a set, which differs between processes."""


def fingerprint(num_prompts: int, tools: Sequence[str], messages: Sequence[tuple[str, str, list[Any]]]) -> str:
    """A hash of a conversation: role, content and calls of each message."""
    words = [(role, UNORDERED.sub("", content), calls) for role, content, calls in messages]
    return hashlib.sha256(json.dumps([num_prompts, tools, words]).encode()).hexdigest()[:8]


class Official:
    """BFCL's handler, loop and checker."""

    def __init__(self) -> None:
        stand_in()
        models = types.ModuleType("bfcl_eval.constants.model_config")
        models.MODEL_CONFIG_MAPPING = Models()  # type: ignore[attr-defined]
        sys.modules[models.__name__] = models
        from bfcl_eval import utils
        from bfcl_eval.eval_checker import eval_runner
        from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils
        from bfcl_eval.eval_checker.multi_turn_eval.func_source_code import long_context
        from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler

        self.utils, self.runner, self.globals = utils, eval_runner, vars(multi_turn_utils)
        self.cards = long_context.CREDIT_CARD_EXTENSION
        self.fresh_cards = copy.deepcopy(self.cards)
        self.handler = OpenAICompletionsHandler

    def reset(self) -> None:
        """Forget what other answers did: BFCL runs and judges in processes of their own, if in one for all tasks."""
        for name in [name for name in self.globals if name.endswith("_instance")]:
            del self.globals[name]
        sys.set_int_max_str_digits(4300)  # which some versions of mpmath lift
        for card, fresh in self.fresh_cards.items():
            self.cards[card].clear()
            self.cards[card].update(fresh)

    def play(self, row: dict[str, Any], gold: Any, answers: Iterator[Answer], in_tools: bool) -> tuple[str, str]:
        """The error type, and the fingerprint of the last prompt."""
        handler = self.handler(OWNER, 0, OWNER, is_fc_model=in_tools)
        said: list[Any] = []

        def ask(data: dict[str, Any]) -> tuple[Any, float]:
            said.append((list(data["message"]), data.get("tools", ())))
            return reply(next(answers), in_tools), 0.0

        handler._query_FC = handler._query_prompting = ask
        self.reset()
        row = copy.deepcopy(row)
        result, _ = handler.inference(row, include_input_log=False, exclude_state_log=True)
        self.reset()
        category = row["id"].rsplit("_", 1)[0]
        try:
            verdict = self.runner._evaluate_single_multi_turn_entry(
                handler, row["id"], result, gold, row, OWNER, category
            )
        except Exception:
            error_type = "raises"
        else:
            error_type = "" if verdict["valid"] else verdict["error"]["error_type"]
        messages, tools = said[-1]
        names = [tool["function"]["name"] for tool in tools]
        return error_type, fingerprint(len(said), names, list(map(spoken, messages)))


def reply(answer: Answer, in_tools: bool) -> Any:
    """An answer as the client library of an interface would return it."""
    message = types.SimpleNamespace(content=answer, tool_calls=None)
    if not in_tools:
        message.content = as_text(answer)
    elif isinstance(answer, list):
        message.content = ""
        message.tool_calls = [
            types.SimpleNamespace(id="", function=types.SimpleNamespace(name=name, arguments=json.dumps(arguments)))
            for name, arguments in answer
        ]
    usage = types.SimpleNamespace(prompt_tokens=0, completion_tokens=0)
    return types.SimpleNamespace(choices=[types.SimpleNamespace(message=message)], usage=usage)


def spoken(message: Any) -> tuple[str, str, list[Any]]:
    if isinstance(message, dict):
        return message["role"], message["content"], []
    calls = [[call.function.name, json.loads(call.function.arguments)] for call in message.tool_calls or ()]
    return "assistant", message.content, calls


def main() -> None:
    official = Official()
    rows = []
    for category in CATEGORIES:
        entries = official.utils.load_dataset_entry(category)
        for entry, answer in zip(entries, official.utils.load_ground_truth_entry(category), strict=True):
            documents = entry["function"] + [
                each for some in entry.get("missed_function", {}).values() for each in some
            ]
            for seed in SEEDS:
                turns = damaged(entry, answer["ground_truth"], documents, seed)
                with contextlib.redirect_stdout(io.StringIO()):
                    played = official.play(entry, answer["ground_truth"], flat(turns), seed % 2 == 1)
                rows.append([entry["id"], seed, *played])
    head = {"bfcl_eval": version("bfcl_eval"), "python": sys.version.split()[0]}
    lines = "".join(json.dumps(row) + "\n" for row in [head, *rows])
    GOLDEN.write_bytes(gzip.compress(lines.encode(), mtime=0))
    for error_type, count in sorted(Counter(row[2] for row in rows).items()):
        print(f"{count:6} {error_type or 'right'}")


if __name__ == "__main__":
    main()
