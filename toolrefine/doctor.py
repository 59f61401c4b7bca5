"""Whether a model's chat template, its wire format and a server agree, before any work is done on them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

import httpx2

from toolrefine.chat import Chat, shows
from toolrefine.config import PromptConfig
from toolrefine.errors import TemplateError, WorkError
from toolrefine.models import generation_eos_ids, load_tokenizer, resolve_model
from toolrefine.types import Checkpoint, Example, Message, Record, Tool, ToolCall

TOOLS = (
    Tool(
        name="find_train",
        description="Trains between two cities.",
        parameters={
            "type": "object",
            "properties": {
                "origin": {"type": "string", "description": "Where the journey starts."},
                "seats": {"type": "integer"},
                "discount": {"type": "number"},
                "direct": {"type": "boolean"},
                "classes": {"type": "array", "items": {"type": "string"}},
                "rider": {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}},
            },
            "required": ["origin"],
        },
    ),
    Tool(
        name="read_clock",
        description="The time in a zone.",
        parameters={"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    ),
)

_CALL = ToolCall(
    name="find_train",
    arguments={
        "origin": 'Zürich "HB" \\ 東京\n2',
        "seats": 3,
        "discount": 0.25,
        "direct": False,
        "classes": ["first", "5"],
        "rider": {"name": "Ada", "age": 36},
    },
)
_SYSTEM = Message(role="system", content="You help travellers.")
_USER = Message(role="user", content="Which trains leave, and how late is it?")
_ONE = Message(role="assistant", tool_calls=(_CALL,))
_TWO = Message(role="assistant", tool_calls=(_CALL, ToolCall(name="read_clock", arguments={"zone": "CET"})))
_RESULT = Message(role="tool", content="none before noon", tool_call_id="call_0")
_TEXT = Message(role="assistant", content="No train leaves before noon.")
_CHECK = Message(role="user", content="Check your answer.")

CONVERSATIONS: dict[str, tuple[tuple[Message, ...], Message]] = {
    "one call": ((_USER,), _ONE),
    "parallel calls": ((_USER,), _TWO),
    "an answer in words": ((_USER,), _TEXT),
    "a system message beside the tools": ((_SYSTEM, _USER), _ONE),
    "a result in the history": ((_USER, _ONE, _RESULT, _TEXT, _USER), _ONE),
    "a draft to refine": ((_USER, _ONE, _CHECK), _ONE),
}
"""What a data set may hold: the conversation, and the answer to learn."""

_REFUSED = "refused with"
_NO_SUCH_PATH = tuple(f"{_REFUSED} {status}" for status in (404, 405, 501))
_MAX_ERROR_CHARS = 200


class Finding(Record):
    """The outcome of one check."""

    check: str
    status: Literal["ok", "warning", "error"]
    text: str = ""
    """What was found, and what mends it."""


class Diagnosis(Record):
    """What is known of a model."""

    model: str
    format: str | None
    """Wire format; None where the template serves for nothing."""
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no error."""
        return all(finding.status != "error" for finding in self.findings)


def diagnose(
    model: str, config: PromptConfig, server: str | None = None, *, trust_remote_code: bool = False
) -> Diagnosis:
    """Check a model's chat template, and the prompts of a server that serves it.

    Raises:
        RequestError: there is no such model.
        WorkError: the server cannot be asked.
    """
    checkpoint = Checkpoint(model=model)
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    try:
        chat = Chat(tokenizer, config, generation_eos_ids(checkpoint))
    except TemplateError as error:
        return Diagnosis(
            model=model, format=None, findings=(Finding(check="template", status="error", text=str(error)),)
        )
    findings = [Finding(check="template", status="ok", text=f"calls are written as {chat.format.name}")]
    findings += [_learn(chat, name, *conversation) for name, conversation in CONVERSATIONS.items()]
    findings.append(_descriptions(chat))
    if server is not None:
        findings += compare_with_server(chat, server, model)
    return Diagnosis(model=model, format=chat.format.name, findings=tuple(findings))


def _learn(chat: Chat, name: str, messages: tuple[Message, ...], target: Message) -> Finding:
    """Whether an answer can be trained on: its prompt unchanged, its end there, its calls read back."""
    example = Example(id=name, sample_id=name, kind="direct", messages=messages, tools=TOOLS, target=target)
    try:
        ids, start = chat.example_ids(example)
    except TemplateError as error:
        return Finding(check=name, status="error", text=str(error).removeprefix(f"{name}: "))
    prompt = chat.prompt_text(messages, TOOLS)
    lost = [message.content for message in messages if not shows(prompt, message.content)]
    lost += [call.name for message in messages for call in message.tool_calls if prompt.count(call.name) < 2]
    if lost:
        return Finding(check=name, status="error", text=f"the template drops {lost[0]!r}; set prompt.style=system")
    text = chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if chat.tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
        return Finding(
            check=name,
            status="warning",
            text=f"tokens merge where the answer starts, at token {start}: training uses the tokens of sampling, "
            "other tools may not",
        )
    return Finding(check=name, status="ok", text=f"{start} tokens of prompt, {len(ids) - start} of answer")


def _descriptions(chat: Chat) -> Finding:
    prompt = chat.prompt_text((_USER,), TOOLS)
    wanted = [tool.description for tool in TOOLS] + ["Where the journey starts."]
    wanted += [name for tool in TOOLS for name in tool.parameters["properties"]]
    lost = [text for text in wanted if not shows(prompt, text)]
    if lost:
        return Finding(
            check="tool schemas", status="warning", text=f"the prompt leaves out {', '.join(map(repr, lost))}"
        )
    return Finding(check="tool schemas", status="ok", text="names, descriptions and parameters are in the prompt")


def compare_with_server(chat: Chat, server: str, model: str) -> list[Finding]:
    """Compare the prompt's tokens here with those that a server of a model makes of the same conversation.

    A server with vLLM's /tokenize is asked for its tokens. Of others only their number is known, from the usage of a
    completion of one token.

    Raises:
        WorkError: the server cannot be asked.
    """
    base = server.rstrip("/").removesuffix("/v1")
    try:
        with httpx2.Client(base_url=base, timeout=120.0) as client:
            served = _served_name(client, model)
            findings = [
                _compare(client, served, chat, f"server: {name}", messages)
                for name, (messages, _) in CONVERSATIONS.items()
            ]
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
        raise WorkError(
            f"server {server}: cannot be asked: {type(error).__name__}: {error}; "
            "give the URL of an OpenAI-compatible server, such as http://localhost:8000"
        ) from error
    refusals = {finding.text for finding in findings if finding.text.startswith(_REFUSED)}
    if len(refusals) > 1 or any(finding.text not in refusals for finding in findings):
        return findings
    (text,) = refusals  # every conversation, and alike: said once
    if text.startswith(_NO_SUCH_PATH):
        text += "; is this an OpenAI-compatible server?"
    return [Finding(check="server: every conversation", status="error", text=text)]


def _served_name(client: httpx2.Client, model: str) -> str:
    """What the server calls the model: its own first name for it, or ours where it lists none."""
    reply = client.get("/v1/models")
    listed = [entry["id"] for entry in reply.json()["data"]] if reply.is_success else []
    name = resolve_model(model)
    return name if name in listed or not listed else str(listed[0])


def _compare(client: httpx2.Client, model: str, chat: Chat, check: str, messages: Sequence[Message]) -> Finding:
    request = {"model": model, **chat.request(messages, TOOLS)}
    ours = chat.prompt_ids(messages, TOOLS)
    reply = client.post("/tokenize", json={**request, "add_generation_prompt": True})
    if reply.is_success:
        theirs = reply.json()["tokens"]
        return Finding(check=check, status="error" if ours != theirs else "ok", text=_difference(chat, ours, theirs))
    reply = client.post("/v1/chat/completions", json={**request, "max_tokens": 1, "temperature": 0})
    if not reply.is_success:
        return Finding(check=check, status="error", text=f"{_REFUSED} {reply.status_code}: {_first_line(reply.text)}")
    num_theirs = reply.json()["usage"]["prompt_tokens"]
    if num_theirs != len(ours):
        return Finding(
            check=check, status="error", text=f"the prompt has {len(ours)} tokens here and {num_theirs} at the server"
        )
    return Finding(
        check=check, status="ok", text=f"{num_theirs} tokens, as here; the server does not say which (no /tokenize)"
    )


def _first_line(body: str) -> str:
    """What is worth showing of an error's body, which may be a page of HTML."""
    return next((line.strip()[:_MAX_ERROR_CHARS] for line in body.splitlines() if line.strip()), "no text")


def _difference(chat: Chat, ours: Sequence[int], theirs: Sequence[int]) -> str:
    first = next((i for i, pair in enumerate(zip_longest(ours, theirs)) if pair[0] != pair[1]), None)
    if first is None:
        return f"the same {len(ours)} tokens as here"
    here, there = (chat.tokenizer.decode(ids[max(0, first - 8) : first + 8]) for ids in (ours, theirs))
    return (
        f"the prompts differ from token {first} on: {here!r} here, {there!r} at the server; "
        "serve the chat template that stands in the model's folder"
    )
