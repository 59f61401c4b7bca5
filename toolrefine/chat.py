"""Between records and tokens: prompts and training examples through a model's own chat template.

The prompt of training and the prompt of sampling are the same tokens by construction: an example is the tokenised
prompt followed by the tokenised rest of the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from toolrefine.config import PromptConfig
from toolrefine.errors import TemplateError
from toolrefine.formats import FORMATS, Parsed, WireFormat, get_format
from toolrefine.types import Example, Message, Outcome, Tool, ToolCall

SYSTEM_PROMPT = """You can call tools. Answer with a list of calls and nothing else:
[tool_name(argument="value", other_argument=2), another_tool(argument=True)]
Call a tool only where the conversation gives every required argument. If no tool fits, or a value is missing, \
say so in a sentence.

The tools, as JSON:
{tools}"""

PROBE_TOOLS = (
    Tool(
        name="probe_tool",
        description="Probe.",
        parameters={"type": "object", "properties": {"key": {"type": "string"}}},
    ),
)
PROBE_CALLS = (ToolCall(name="probe_tool", arguments={"key": "a value"}),)
PROBE_QUESTION = (Message(role="user", content="Probe."),)


class Chat:
    """One tokenizer and one prompt style; turns conversations into token ids and text into calls."""

    def __init__(self, tokenizer: Any, config: PromptConfig, eos_ids: Collection[int] = ()) -> None:
        """Bind a Hugging Face tokenizer; eos_ids are end-of-turn tokens beside the tokenizer's own.

        Raises:
            TemplateError: the template cannot show tools, or writes calls in no format known here.
        """
        self.tokenizer = tokenizer
        self.config = config
        self.eos_ids = {*eos_ids, tokenizer.eos_token_id} - {None}
        if not getattr(tokenizer, "chat_template", None):
            raise TemplateError("the tokenizer has no chat template; use the model's instruct variant, or add one")
        self.format: WireFormat = self._find_format()

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the text of a completion to a prompt with these tools; never raises."""
        return self.format.parse(text, truncated, tools)

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """The conversation up to the point where the model answers."""
        return self._apply(messages, tools, add_generation_prompt=True)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """Token ids of prompt_text."""
        return self._tokenize(self.prompt_text(messages, tools))

    def example_ids(self, example: Example) -> tuple[list[int], int]:
        """Token ids of a whole example, and the index at which its target turn starts.

        The target ends with its end-of-turn token: what a template writes after that is never sampled.

        Raises:
            TemplateError: training on this template would mask or cut wrongly; says how.
        """
        prompt = self.prompt_text(example.messages, example.tools)
        whole = self._apply([*example.messages, example.target], example.tools, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise TemplateError(
                f"{example.id}: the chat template changes the prompt once the answer is there, so that the loss cannot "
                "be put on the answer alone; set prompt.template_kwargs, or prompt.style=system"
            )
        head, tail = self._tokenize(prompt), self._tokenize(whole[len(prompt) :])
        ends = [index for index, token in enumerate(tail) if token in self.eos_ids]
        if not ends:
            raise TemplateError(
                f"{example.id}: the chat template does not end the answer with an end-of-turn token; a model trained "
                "so would never stop. Fix the template or the tokenizer's eos_token"
            )
        return head + tail[: ends[-1] + 1], len(head)

    def _find_format(self) -> WireFormat:
        if self.config.style == "system":
            return get_format("pythonic" if self.config.format == "auto" else self.config.format)
        prompt = self.prompt_text(PROBE_QUESTION, PROBE_TOOLS)
        if PROBE_TOOLS[0].name not in prompt:
            raise TemplateError("the chat template ignores tools; set prompt.style=system")
        if self.config.format != "auto":
            return get_format(self.config.format)
        call = Message(role="assistant", tool_calls=PROBE_CALLS)
        whole = self._apply([*PROBE_QUESTION, call], PROBE_TOOLS, add_generation_prompt=False)
        if whole.startswith(prompt):
            ids = self._tokenize(whole[len(prompt) :])
            ends = [i for i, token in enumerate(ids) if token in self.eos_ids]
            answer = self.tokenizer.decode(ids[: ends[-1]] if ends else ids, skip_special_tokens=False)
            for wire_format in FORMATS.values():
                parsed = wire_format.parse(answer)
                if parsed.outcome is Outcome.CALLS and parsed.calls == PROBE_CALLS:
                    return wire_format
        raise TemplateError(
            f"the chat template writes calls in none of the known formats ({', '.join(sorted(FORMATS))}); "
            "name one with prompt.format, or set prompt.style=system"
        )

    def _apply(self, messages: Sequence[Message], tools: Sequence[Tool], *, add_generation_prompt: bool) -> str:
        if self.config.style == "system":
            turns, functions = self._as_text(messages, tools), None
        else:
            turns = [_turn(message) for message in messages]
            functions = [{"type": "function", "function": tool.model_dump()} for tool in tools] or None
        try:
            text: str = self.tokenizer.apply_chat_template(
                turns,
                tools=functions,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.config.template_kwargs,
            )
        except Exception as error:  # a template may raise whatever it likes
            raise TemplateError(
                f"the chat template refuses this conversation: {error}; if it cannot say it, use prompt.style=system"
            ) from error
        return text

    def _as_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """Style = system: tools, calls and results as plain text, neighbours of one role merged."""
        listing = json.dumps([tool.model_dump() for tool in tools], ensure_ascii=False)
        turns = [{"role": "system", "content": SYSTEM_PROMPT.format(tools=listing)}] if tools else []
        for message in messages:
            role = "user" if message.role == "tool" else message.role
            content = f"Tool result: {message.content}" if message.role == "tool" else message.content
            if message.tool_calls:
                content = self.format.render(message.tool_calls)
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += f"\n\n{content}"
            else:
                turns.append({"role": role, "content": content})
        return turns

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn
