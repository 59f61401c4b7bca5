"""Samples as a file: in toolrefine's own format, or in one that other trainers read.

Only toolrefine's own format keeps all of a sample. The others keep its id, and give a sample that calls no tool and
brings no text the text that training would give it. What they train on is up to the trainer; how to make it the
target alone stands with each.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from toolrefine.config import PromptConfig
from toolrefine.formats import get_format
from toolrefine.formats.json_object import dump
from toolrefine.types import Message, Sample, Tool, ToolCall

ExportFormat = Literal["canonical", "openai", "trl", "llamafactory", "hermes"]

# Fixed sentences of the Hermes format: models know them, and readers take them out again.
HERMES_SYSTEM = """You may call one or more functions to assist with the user query.
<tools>
{tools}
</tools>
For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def write_samples(path: Path, samples: Iterable[Sample], to: ExportFormat = "canonical") -> int:
    """Write one sample a line, gzipped if the path ends in .gz; the number of samples written.

    The file appears whole or not at all, and the same samples give the same bytes.
    """
    num_samples = 0
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as raw, _zipped(raw) if path.name.endswith(".gz") else nullcontext(raw) as file:
            for sample in samples:
                file.write(dump(ROWS[to](sample)).encode() + b"\n")
                num_samples += 1
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return num_samples


def _zipped(raw: io.BufferedWriter) -> AbstractContextManager[io.BufferedIOBase]:
    # Neither name nor time in the header: they would differ from run to run.
    return gzip.GzipFile("", "wb", fileobj=raw, mtime=0)


def to_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of toolrefine's own format."""
    meta = dict(sample.meta)
    row: dict[str, Any] = {"id": sample.id, "source": sample.source}
    if isinstance(meta.get("license"), str) and meta["license"]:
        row["license"] = meta.pop("license")
    row["tools"] = openai_tools(sample.tools)
    row["messages"] = [_to_message(message) for message in sample.messages]
    row["target"] = [call.model_dump() for call in sample.target.tool_calls]
    if sample.target.content:
        row["target_text"] = sample.target.content
    if sample.alternatives:
        row["alternatives"] = [{name: [*values] for name, values in each.items()} for each in sample.alternatives]
    return row | {"meta": meta}


def to_openai_row(sample: Sample) -> dict[str, Any]:
    """OpenAI's fine-tuning format. Earlier assistant turns have weight 0, so that the target alone is learnt."""
    messages = [_to_message(message) for message in sample.messages]
    for message in messages:
        if message["role"] == "assistant":
            message["weight"] = 0
    row: dict[str, Any] = {"id": sample.id, "messages": [*messages, _to_message(_answer(sample))]}
    if sample.tools:
        row["tools"] = openai_tools(sample.tools)
    return row | ({"meta": sample.meta} if sample.meta else {})


def to_trl_row(sample: Sample) -> dict[str, Any]:
    """TRL's conversational prompt-completion format, whose loss is on the completion alone.

    The tools are JSON text, which TRL's trainers read, since Arrow would give the schemas of all tools the same keys.
    """
    return {
        "id": sample.id,
        "prompt": [_to_message(message, as_text=False) for message in sample.messages],
        "completion": [_to_message(_answer(sample), as_text=False)],
        "tools": dump(openai_tools(sample.tools)),
    }


def to_llamafactory_row(sample: Sample) -> dict[str, Any]:
    """LLaMA-Factory's sharegpt format with tools; mask_history: true trains on the target alone.

    Users (human, observation) and assistants (gpt, function_call) must alternate there, the user first: neighbours on
    the user's side are joined, several results as a JSON list, and where a user's turn is missing there is an empty
    one. All system turns become the one system prompt. Text beside calls is left out, as a function_call turn holds
    nothing but calls.
    """
    turns: list[dict[str, str]] = []
    said = [message for message in (*sample.messages, _answer(sample)) if message.role != "system"]
    for is_answer, group in groupby(said, key=lambda message: message.role == "assistant"):
        if not is_answer:
            turns.append(_users_turn(list(group)))
            continue
        for message in group:
            if not turns or turns[-1]["from"] in ("gpt", "function_call"):
                turns.append({"from": "human", "value": ""})
            calls = [call.model_dump() for call in message.tool_calls]
            value = dump(calls[0] if len(calls) == 1 else calls) if calls else message.content
            turns.append({"from": "function_call" if calls else "gpt", "value": value})
    # Its default tool prompt looks up the properties of every tool.
    tools = [tool.model_dump() | {"parameters": {"properties": {}} | tool.parameters} for tool in sample.tools]
    row = {"id": sample.id, "conversations": turns, "system": _system_text(sample.messages)}
    return row | {"tools": dump(tools) if tools else ""}


def _users_turn(messages: Sequence[Message]) -> dict[str, str]:
    results = [message.content for message in messages if message.role == "tool"]
    texts = [message.content for message in messages if message.role == "user"]
    if results:
        texts.insert(0, dump(results) if len(results) > 1 else results[0])
    return {"from": "observation" if results else "human", "value": "\n".join(texts)}


def to_hermes_row(sample: Sample) -> dict[str, Any]:
    """The format of NousResearch's hermes-function-calling: tools, calls and results in tags of their own."""
    tools = dump(openai_tools(sample.tools))
    system = [HERMES_SYSTEM.format(tools=tools)] if sample.tools else []
    system += filter(None, [_system_text(sample.messages)])
    turns = [{"from": "system", "value": "\n\n".join(system)}] if system else []
    for message in (*sample.messages, _answer(sample)):
        match message.role:
            case "user":
                turns.append({"from": "human", "value": message.content})
            case "assistant":
                calls = get_format("hermes").render(message.tool_calls)
                turns.append({"from": "gpt", "value": "\n".join(filter(None, (message.content, calls)))})
            case "tool":
                result = f"<tool_response>\n{message.content}\n</tool_response>"
                if turns and turns[-1]["from"] == "tool":
                    turns[-1]["value"] += f"\n{result}"
                else:
                    turns.append({"from": "tool", "value": result})
    return {"id": sample.id, "conversations": turns, "tools": tools}


ROWS: dict[ExportFormat, Callable[[Sample], dict[str, Any]]] = {
    "canonical": to_row,
    "openai": to_openai_row,
    "trl": to_trl_row,
    "llamafactory": to_llamafactory_row,
    "hermes": to_hermes_row,
}


def openai_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools as OpenAI has them."""
    return [{"type": "function", "function": tool.model_dump()} for tool in tools]


def _answer(sample: Sample) -> Message:
    """The target; formats without a place for "no call" need words for it."""
    target = sample.target
    if target.tool_calls or target.content.strip():
        return target
    return target.model_copy(update={"content": PromptConfig().no_call_text})


def _system_text(messages: Sequence[Message]) -> str:
    return "\n\n".join(message.content for message in messages if message.role == "system")


def _to_message(message: Message, *, as_text: bool = True) -> dict[str, Any]:
    """A turn as OpenAI has it; the arguments of its calls as JSON text, or as objects for chat templates."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [_to_call(number, call, as_text) for number, call in enumerate(message.tool_calls)]
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


def _to_call(number: int, call: ToolCall, as_text: bool) -> dict[str, Any]:
    arguments = dump(call.arguments) if as_text else call.arguments
    return {"id": f"call_{number}", "type": "function", "function": {"name": call.name, "arguments": arguments}}
