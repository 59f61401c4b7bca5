"""Between records and tokens: prompts and training examples through a model's own chat template.

The prompt of training and the prompt of sampling are the same tokens by construction: an example is the tokenised
prompt followed by the tokenised rest of the conversation.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

from toolrefine.config import PromptConfig
from toolrefine.errors import ExampleError, TemplateError
from toolrefine.formats import FORMATS, Parsed, WireFormat, get_format
from toolrefine.matching import canonical_key
from toolrefine.types import Example, Message, Tool, ToolCall

SYSTEM_PROMPT = """You can call tools. Answer with calls written like these and nothing else:
{example}
Call a tool only where the conversation gives every required argument. If no tool fits, or a value is missing, \
say so in a sentence.

The tools, as JSON:
{tools}"""

EXAMPLE_CALLS = (
    ToolCall(name="tool_name", arguments={"argument": "value", "other_argument": 2}),
    ToolCall(name="another_tool", arguments={"argument": True}),
)

PROBE_TOOLS = (
    Tool(
        name="probe_tool",
        description="Probe.",
        parameters={"type": "object", "properties": {"probe_key": {"type": "string"}}},
    ),
)
PROBE_CALLS = (ToolCall(name="probe_tool", arguments={"probe_key": "a value"}),)
PROBE_QUESTION = (Message(role="user", content="Does this reach you?"),)
PROBE_ANSWER = Message(role="assistant", tool_calls=PROBE_CALLS)
PROBE_EXAMPLE = Example(
    id="a call", sample_id="probe", kind="direct", messages=PROBE_QUESTION, tools=PROBE_TOOLS, target=PROBE_ANSWER
)

THINKING_SWITCHES: tuple[dict[str, Any], ...] = (
    {"enable_thinking": False},
    {"enable_thinking": True},
    {"thinking": False},
    {"thinking": True},
)
"""What the templates of thinking models take, and what may mend one that changes its prompt."""


class CallStyle(NamedTuple):
    """How a chat template wants calls handed over."""

    call_id: Callable[[str, int], str]
    """From the name of the tool and the number of the call in the conversation."""
    arguments_as_text: bool
    """JSON text, as in OpenAI's messages, instead of an object, as Hugging Face has it."""


_CALL_IDS: tuple[Callable[[str, int], str], ...] = (
    lambda name, number: f"call_{number}",
    lambda name, number: f"call{number:05}",  # Mistral: nine letters or digits
    lambda name, number: f"functions.{name}:{number}",  # Kimi: the id is all that the model sees of a name
)
CALL_STYLES = tuple(CallStyle(call_id, as_text) for as_text in (False, True) for call_id in _CALL_IDS)


class Chat:
    """One tokenizer and one prompt style; turns conversations into token ids and text into calls."""

    def __init__(self, tokenizer: Any, config: PromptConfig, eos_ids: Collection[int] = ()) -> None:
        """Bind a Hugging Face tokenizer; eos_ids are end-of-turn tokens beside the tokenizer's own.

        Raises:
            TemplateError: the template cannot show tools, or writes calls in another format than the config's, or in
                none known here.
        """
        self.tokenizer = tokenizer
        self.config = config
        self.eos_ids = {*eos_ids, tokenizer.eos_token_id} - {None}
        if not getattr(tokenizer, "chat_template", None):
            raise TemplateError("the tokenizer has no chat template; use the model's instruct variant, or add one")
        self.call_style = CALL_STYLES[0]
        self.system_role = "system"
        """Style = system: who says what the system does."""
        self.format: WireFormat = self._find_format()

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the text of a completion to a prompt with these tools; never raises."""
        return self.format.parse(text, truncated, tools)

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """The conversation up to the point where the model answers.

        Raises:
            TemplateError: the template refuses the conversation, or leaves out a tool.
        """
        text = self._apply(messages, tools, add_generation_prompt=True)
        for tool in tools:
            if not shows(text, tool.name):
                raise TemplateError(
                    f"the chat template leaves the tool {tool.name!r} out of the prompt; set prompt.style=system"
                )
        return text

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """Token ids of prompt_text."""
        return self._tokenize(self.prompt_text(messages, tools))

    def request(self, messages: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
        """What to ask an OpenAI-compatible server, so that its prompt is prompt_text: messages, tools and switches."""
        if self.config.style == "system":
            request: dict[str, Any] = {"messages": self._as_text(messages, tools)}
        else:
            request = {"messages": _turns(messages, self.call_style._replace(arguments_as_text=True))}
            if tools:
                request["tools"] = _functions(tools)
        if self.config.template_kwargs:
            request["chat_template_kwargs"] = self.config.template_kwargs
        return request

    def example_ids(self, example: Example) -> tuple[list[int], int]:
        """Token ids of a whole example, and the index at which its target turn starts.

        The target ends with the first end-of-turn token: what a template writes after that is never sampled.

        Raises:
            TemplateError: the template leaves out a tool.
            ExampleError: training on this example would mask or cut wrongly, or its calls read back as others; says
                how. A template that can say no example fails check_training.
        """
        prompt = self.prompt_text(example.messages, example.tools)
        whole = self._apply([*example.messages, example.target], example.tools, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise self._changed_prompt(example.id)
        head, tail = self._tokenize(prompt), self._tokenize(whole[len(prompt) :])
        end = self._end_of_turn(tail)
        if end is None:
            raise ExampleError(
                f"{example.id}: the chat template does not end the answer with an end-of-turn token; a model trained "
                "so would never stop. Fix the template or the tokenizer's eos_token"
            )
        if example.target.tool_calls:
            calls = self.parse(self._decode(tail[:end]), tools=example.tools).calls
            if canonical_key(calls) != canonical_key(example.target.tool_calls):
                raise ExampleError(
                    f"{example.id}: what the chat template writes for its calls reads back as others: a value that "
                    f"the {self.format.name} format cannot tell from another, or that the template changes"
                )
        return head + tail[: end + 1], len(head)

    @cached_property
    def end_of_turn(self) -> list[int]:
        """The token that the template ends an answer with; the tokenizer's own where the template does not tell."""
        try:
            return self.example_ids(PROBE_EXAMPLE)[0][-1:]
        except TemplateError:
            own = self.tokenizer.eos_token_id
            return [] if own is None else [own]

    def check_training(self) -> None:
        """Make sure, before any work, that this template can be trained on.

        Raises:
            TemplateError: it would mask or cut wrongly; says how.
        """
        self.example_ids(PROBE_EXAMPLE)

    def _find_format(self) -> WireFormat:
        named = None if self.config.format == "auto" else get_format(self.config.format)
        if self.config.style == "system":
            self.format = named or get_format("pythonic")
            if not self._keeps_prompt():
                self.system_role = "user"
                if not self._keeps_prompt():  # it is not the system message that it cannot say
                    self.system_role = "system"
            return self.format
        prompt = self._apply(PROBE_QUESTION, PROBE_TOOLS, add_generation_prompt=True)
        if not all(word in prompt for word in (PROBE_TOOLS[0].name, *PROBE_CALLS[0].arguments)):
            raise TemplateError("the chat template ignores tools; set prompt.style=system")
        refusal = fault = None
        for self.call_style in CALL_STYLES:
            try:
                whole = self._apply([*PROBE_QUESTION, PROBE_ANSWER], PROBE_TOOLS, add_generation_prompt=False)
            except TemplateError as error:
                refusal = refusal or error
                continue
            try:
                return self._format_of_calls(prompt, whole, named)
            except TemplateError as error:
                fault = fault or error
        raise fault or refusal or AssertionError

    def _format_of_calls(self, prompt: str, whole: str, named: WireFormat | None) -> WireFormat:
        # What a thinking template changes in its prompt once the answer is there matters to training only.
        shared = next((i for i, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]), len(prompt))
        if PROBE_QUESTION[0].content not in prompt[:shared]:
            raise self._changed_prompt("a call")
        ids = self._tokenize(whole[shared:])
        answer = self._decode(ids[: self._end_of_turn(ids)])
        if PROBE_TOOLS[0].name not in answer:
            raise TemplateError("the chat template drops the calls of an assistant turn; set prompt.style=system")
        readers = [
            wire_format
            for wire_format in FORMATS.values()
            if wire_format.parse(answer, tools=PROBE_TOOLS).calls == PROBE_CALLS
        ]
        if named in readers or (readers and not named):
            return named or readers[0]
        found = f"the {readers[0].name} format" if readers else f"none of the known formats ({', '.join(FORMATS)})"
        raise TemplateError(
            f"the chat template writes calls in {found}{f', not in {named.name}' if named else ''}: {answer!r}; "
            f"set {'prompt.format=auto, or ' if readers else ''}prompt.style=system"
        )

    def _changed_prompt(self, name: str) -> ExampleError:
        return ExampleError(
            f"{name}: the chat template changes the prompt once the answer is there, so that the loss cannot be put on "
            f"the answer alone; {self._remedy()}"
        )

    def _remedy(self) -> str:
        """What mends a template that changes its prompt: a switch of thinking models, where one does.

        Where it changes that of some conversations alone, as Mistral's does after a system message, no switch is it.
        """
        if self._keeps_prompt():
            return "set prompt.style=system, or leave such conversations out"
        for switch in THINKING_SWITCHES:
            other = copy.copy(self)
            kwargs = self.config.template_kwargs | switch
            other.config = self.config.model_copy(update={"template_kwargs": kwargs})
            if other._keeps_prompt():
                text = ", ".join(f"{key} = {json.dumps(value)}" for key, value in kwargs.items())
                return f"set prompt.template_kwargs = {{ {text} }}"
        return "set prompt.template_kwargs, or prompt.style=system"

    def _keeps_prompt(self) -> bool:
        """Whether the template shows a tool, can say its call, and leaves the prompt before that as it is."""
        try:
            prompt = self.prompt_text(PROBE_QUESTION, PROBE_TOOLS)
            whole = self._apply([*PROBE_QUESTION, PROBE_ANSWER], PROBE_TOOLS, add_generation_prompt=False)
        except TemplateError:
            return False
        return whole.startswith(prompt)

    def _apply(self, messages: Sequence[Message], tools: Sequence[Tool], *, add_generation_prompt: bool) -> str:
        """The conversation through the template.

        A draft whose calls the template refuses, such as Llama's where they are several, stands in it as text.
        """
        try:
            return self._write(messages, tools, add_generation_prompt)
        except ExampleError:
            written = self._with_drafts_as_text(messages)
            if written == [*messages]:
                raise
            return self._write(written, tools, add_generation_prompt)

    def _with_drafts_as_text(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with the calls of a turn that the user answers, not their results, in the wire format."""
        return [
            Message(role="assistant", content=self._turn_text(turn))
            if turn.tool_calls and following and following.role == "user"
            else turn
            for turn, following in zip_longest(messages, messages[1:])
        ]

    def _write(self, messages: Sequence[Message], tools: Sequence[Tool], add_generation_prompt: bool) -> str:
        if self.config.style == "system":
            turns, functions = self._as_text(messages, tools), None
        else:
            turns = _turns(messages, self.call_style)
            functions = _functions(tools) or None
        try:
            text: str = self.tokenizer.apply_chat_template(
                turns,
                tools=functions,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.config.template_kwargs,
            )
        except Exception as error:  # a template may raise whatever it likes
            raise ExampleError(
                f"the chat template refuses this conversation: {error}; if it cannot say it, use prompt.style=system"
            ) from error
        return text

    def _as_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """Style = system: tools, calls and results as plain text, neighbours of one role merged."""
        listing = json.dumps([tool.model_dump() for tool in tools], ensure_ascii=False)
        instructions = SYSTEM_PROMPT.format(example=self.format.render(EXAMPLE_CALLS), tools=listing)
        turns = [{"role": self.system_role, "content": instructions}] if tools else []
        roles = {"tool": "user", "system": self.system_role}
        for message in messages:
            role = roles.get(message.role, message.role)
            content = f"Tool result: {message.content}" if message.role == "tool" else message.content
            if message.tool_calls:
                content = self._turn_text(message)
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += f"\n\n{content}"
            else:
                turns.append({"role": role, "content": content})
        return turns

    def _turn_text(self, turn: Message) -> str:
        """A turn with calls as text."""
        return "\n".join(filter(None, (turn.content, self.format.render(turn.tool_calls))))

    def _end_of_turn(self, ids: Sequence[int]) -> int | None:
        """Where the first end-of-turn token is."""
        return next((index for index, token in enumerate(ids) if token in self.eos_ids), None)

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def shows(prompt: str, text: str) -> bool:
    """Whether a text is in a prompt, as it is or with JSON's escapes."""
    return text in prompt or json.dumps(text)[1:-1] in prompt


def _turns(messages: Sequence[Message], style: CallStyle) -> list[dict[str, Any]]:
    """Messages as chat templates take them; calls are numbered through the conversation, and results name theirs."""
    turns: list[dict[str, Any]] = []
    num_calls = 0
    open_calls: dict[str | None, tuple[str, str]] = {}
    """From the id that a record's result refers to, call_0 for the first of its turn, to the id here and the tool."""
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            ids = [style.call_id(call.name, num_calls + i) for i, call in enumerate(message.tool_calls)]
            num_calls += len(ids)
            open_calls = {
                f"call_{i}": (call_id, call.name)
                for i, (call_id, call) in enumerate(zip(ids, message.tool_calls, strict=True))
            }
            turn["tool_calls"] = [
                {"id": call_id, "type": "function", "function": _function(call, style)}
                for call_id, call in zip(ids, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            only = next(iter(open_calls.values())) if len(open_calls) == 1 else None
            known = open_calls.get(message.tool_call_id, only)
            if known:
                turn["tool_call_id"], turn["name"] = known
            elif message.tool_call_id is not None:
                turn["tool_call_id"] = message.tool_call_id
        turns.append(turn)
    return turns


def _functions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": tool.model_dump()} for tool in tools]


def _function(call: ToolCall, style: CallStyle) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False) if style.arguments_as_text else call.arguments
    return {"name": call.name, "arguments": arguments}
