from __future__ import annotations

import pytest

from toolrefine.datasets.toolbench import read_row, split_system
from toolrefine.errors import RowError
from toolrefine.types import Message, Sample, ToolCall

APIS = [{"name": "f_for_g", "description": "It's f."}, {"name": "Finish"}]
SYSTEM = f"You are AutoGPT.\nSpecifically, you have access to the following APIs: {APIS!r}"


def read(*answers: str, row_id: str = "a") -> list[Sample]:
    turns = [("system", SYSTEM), ("user", "x\nBegin!\n")]
    for answer in answers:
        turns += [("assistant", answer), ("function", "{}")]
    return list(read_row({"id": row_id, "conversations": [{"from": r, "value": v} for r, v in turns[:-1]]}, "w"))


def test_the_prompt_ends_in_the_tools() -> None:
    tools, context = split_system(f"Today is Monday. {SYSTEM}")
    assert ([tool.name for tool in tools], context) == (["f_for_g"], "Today is Monday.")
    assert split_system("You have access of the following tools:\n[{'name': 'a'}]")[0][0].name == "a"


@pytest.mark.parametrize("thought", ["", "Thought: \n", "\nThought: First.\nThought: Then.\n"])
@pytest.mark.parametrize(
    ("written", "arguments"),
    [(' {"a": 1}', {"a": 1}), ("\n{\n  'a': True\n}\n", {"a": True}), ("", {}), (" ", {}), (" {}", {})],
)
def test_actions(thought: str, written: str, arguments: dict[str, object]) -> None:
    [sample] = read(f"{thought}Action: f_for_g\nAction Input:{written}")
    assert sample.target.tool_calls == (ToolCall(name="f_for_g", arguments=arguments),)
    assert sample.messages == (Message(role="user", content="x"),)


@pytest.mark.parametrize(
    "answer",
    [
        "Thought: x\nAction: f_for_g",
        "Action: f_for_g\nAction Input: {",
        "Action: f_for_g\nAction Input: [1]",
        "Action: \nAction Input: {}",
        'Action: f_for_g\nAction Input: {"a": 1}\nThought: y\nAction: f_for_g\nAction Input: {"a": 2}',
        'Action: Finish\nAction Input: {"final_answer": 7}',
    ],
)
def test_actions_that_cannot_be_read_are_a_row_error(answer: str) -> None:
    with pytest.raises(RowError):
        read(answer)


def test_finish_is_the_reply() -> None:
    [sample] = read('Thought: \nAction: Finish\nAction Input: {"return_type": "give_answer", "final_answer": "No."}')
    assert sample.target == Message(role="assistant", content="No.")


def test_a_plain_text_is_the_reply() -> None:
    [sample] = read("Thought: I cannot.")
    assert sample.target == Message(role="assistant", content="I cannot.")


@pytest.mark.parametrize(("row_id", "num_samples"), [("a", 2), ("Step 4: x", 1)])
def test_earlier_steps_are_learned_from_rows_of_their_own(row_id: str, num_samples: int) -> None:
    samples = read(*[f"Action: f_for_g\nAction Input: {{'a': {number}}}" for number in range(2)], row_id=row_id)
    assert len(samples) == num_samples
    assert samples[-1].target.tool_calls[0].arguments == {"a": 1}
