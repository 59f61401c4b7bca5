"""Tools as data sets list them, with the parameters of each as JSON Schema (2020-12).

A tool may stand in OpenAI's wrapper. Its parameters may be JSON Schema with JSON's or Python's names of types (OpenAI,
ToolACE, BFCL), under MCP's name inputSchema, or a bare map {name: {"type", "description", "default"}} (xLAM, API-Bank).
"""

from __future__ import annotations

import re
from typing import Any

from toolrefine.datasets.fields import list_of, name_of, object_of, parse_value, text_of, unwrap
from toolrefine.errors import RowError
from toolrefine.formats.json_object import JsonError, read_object, skip_blanks
from toolrefine.json_schema import arguments_schema
from toolrefine.types import Tool

_PARAMETERS = ("parameters", "inputSchema", "input_schema", "input_parameters")
# A line break between two literals stands outside of all strings, since strings in one have none.
_NEXT_LITERAL = re.compile(r"\}[ \t\r]*+\n\s*+\{")


def read_tools(value: Any) -> tuple[Tool, ...]:
    """The tools of a row: a list, given as such or as JSON text; nothing at all is no tools.

    A tool that is listed twice in the same words is kept once.

    Raises:
        RowError: a tool has no name, its parameters are no object, or two tools share a name.
    """
    tools: dict[str, Tool] = {}
    blank = isinstance(value, str) and not value.strip()
    for index, item in enumerate([] if blank else list_of(value, "tools")):
        what = f"tools[{index}]"
        spec = unwrap(item, what)
        parameters: Any = next((spec[key] for key in _PARAMETERS if spec.get(key)), {})
        tool = Tool(
            name=name_of(spec, what),
            description=text_of(spec.get("description"), f"{what}.description"),
            parameters=arguments_schema(object_of(parameters, f"{what}.parameters")),
        )
        if tools.setdefault(tool.name, tool) != tool:
            raise RowError(f"{what}: another tool has the name {tool.name!r} too")
    return tuple(tools.values())


def parse_tools(text: str, what: str) -> list[Any]:
    """The tools that a prompt lists: one list, or one object after the other, as JSON or as Python writes them.

    Raises:
        RowError: the text is something else.
    """
    text = text.strip()
    items: list[Any] = []
    position = 0
    try:
        while position < len(text):
            item, position = read_object(text, position)
            items.append(item)
            position = skip_blanks(text, position)
    except JsonError:
        listed = text if text.startswith("[") else f"[{_NEXT_LITERAL.sub('}, {', text)}]"
        return list_of(parse_value(listed, what), what)
    return items
