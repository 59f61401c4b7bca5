"""Small samples for the tests of toolrefine data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolrefine.datasets.export import write_samples
from toolrefine.types import Message, Sample, Tool, ToolCall


def tool(name: str, *parameters: str) -> Tool:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    return Tool(name=name, description=f"Does {name}.", parameters={"type": "object", "properties": properties})


def sample(sample_id: str, text: str, *tools: str, calls: Iterable[ToolCall] = (), reply: str = "") -> Sample:
    """A user's question and its target."""
    return Sample(
        id=sample_id,
        messages=(Message(role="user", content=text),),
        tools=tuple(tool(name, "value") for name in tools),
        target=Message(role="assistant", content=reply, tool_calls=tuple(calls)),
    )


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def conversation() -> Sample:
    """Two users' turns, two calls with their results, a system turn, and a call as the target."""
    return Sample(
        id="trip",
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="Weather in Rome and Oslo?"),
            Message(role="assistant", tool_calls=(call("weather", city="Rome"), call("weather", city="Oslo"))),
            Message(role="tool", content='{"sky": "blue"}', tool_call_id="call_0"),
            Message(role="tool", content="snow", tool_call_id="call_1"),
            Message(role="assistant", content="Blue in Rome, snow in Oslo."),
            Message(role="user", content="Rome it is."),
        ),
        tools=(tool("weather", "city"), tool("book", "city")),
        target=Message(role="assistant", tool_calls=(call("book", city="Rome"),)),
    )


def write(path: Path, *samples: Sample) -> str:
    write_samples(path, samples)
    return str(path)
