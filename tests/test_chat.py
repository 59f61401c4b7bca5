"""Prompts, masks and formats through the chat templates of real models."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from toolrefine.chat import EXAMPLE_CALLS, Chat
from toolrefine.config import PromptConfig
from toolrefine.engines.scoring import scored_ids
from toolrefine.errors import ExampleError, TemplateError
from toolrefine.formats import FORMATS
from toolrefine.matching import canonical_key
from toolrefine.models import load_tokenizer
from toolrefine.training.trainer import tokenize
from toolrefine.types import Checkpoint, Example, Message, Prompt, Tool, ToolCall

TRL = importlib.util.find_spec("trl")
TEMPLATES = sorted((Path(TRL.origin).parent / "chat_templates").glob("*.jinja")) if TRL and TRL.origin else []

ENDS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<turn|>", "<|call|>", "<|eot|>", "<|end_of_text|>")
"""End-of-turn tokens of the models that the templates belong to."""

FORMAT_OF = {
    "glm4moe": "glm4",
    "llama3_1": "llama3_json",
    "llama3_2": "llama3_json",
    "nemotron_3_5_lightning": "qwen3_xml",
    "nemotron_3_nano": "qwen3_xml",
    "nemotron_3_super": "qwen3_xml",
    "nemotron_3_ultra": "qwen3_xml",
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "qwen3_instruct_2507": "hermes",
    "qwen3_vl": "hermes",
    "qwen3_5_nothink": "qwen3_xml",
    "qwen3_5_think": "qwen3_xml",
    "qwen3_6": "qwen3_xml",
    "qwen3_8": "qwen3_xml",
}

WEATHER = Tool(
    name="get_weather",
    description="Current weather of a city.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its name."},
            "days": {"type": "integer"},
            "where": {"type": "object", "properties": {"zip": {"type": "string"}}},
        },
        "required": ["city"],
    },
)
TIME = Tool(name="get_time", parameters={"type": "object", "properties": {"zone": {"type": "string"}}})
TOOLS = (WEATHER, TIME)
SYSTEM = Message(role="system", content="You help travellers.")
USER = Message(role="user", content="How warm is it in Zürich, and what time?")
ONE = Message(
    role="assistant",
    tool_calls=(ToolCall(name="get_weather", arguments={"city": "Zürich", "days": 2, "where": {"zip": "8001"}}),),
)
TWO = Message(role="assistant", tool_calls=(*ONE.tool_calls, ToolCall(name="get_time", arguments={"zone": "CET"})))
RESULT = Message(role="tool", content='{"degrees": 21}', tool_call_id="call_0")
REPLY = Message(role="assistant", content="It is 21 degrees.")
CHECK = Message(role="user", content="Check your answer.")

CONVERSATIONS = {
    "a call": ((USER,), ONE),
    "calls": ((USER,), TWO),
    "text": ((USER,), REPLY),
    "after a system message": ((SYSTEM, USER), ONE),
    "after a result": ((USER, ONE, RESULT, REPLY, USER), ONE),
    "after a draft": ((USER, ONE, CHECK), ONE),
}


def tokenizer_with(template: str) -> Any:
    """The shipped tokenizer under another template, with the end-of-turn tokens of the models of such templates."""
    tokenizer = load_tokenizer(Checkpoint(model="nano"))
    tokenizer.bos_token = "<s>"  # noqa: S105
    tokenizer.add_tokens([*ENDS], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def chat_with(template: str, **prompt: Any) -> Chat:
    tokenizer = tokenizer_with(template)
    return Chat(tokenizer, PromptConfig(**prompt), tokenizer.convert_tokens_to_ids([*ENDS]))


def example(messages: tuple[Message, ...], target: Message) -> Example:
    return Example(id="e", sample_id="s", kind="direct", messages=messages, tools=TOOLS, target=target)


def check(chat: Chat, messages: tuple[Message, ...], target: Message) -> None:
    """The mask covers the answer and nothing else, and the prompt is that of sampling."""
    ids, start = chat.example_ids(example(messages, target))
    assert ids[:start] == chat.prompt_ids(messages, TOOLS)
    prompt, answer = chat.tokenizer.decode(ids[:start]), chat.tokenizer.decode(ids[start:-1])
    assert all(tool.name in prompt for tool in TOOLS)
    for message in messages:
        assert message.content in prompt or json.dumps(message.content) in prompt
    assert all(call.name in prompt for message in messages for call in message.tool_calls)
    assert USER.content not in answer
    assert ids[-1] in chat.eos_ids
    assert canonical_key(chat.parse(answer, tools=TOOLS).calls) == canonical_key(target.tool_calls)
    assert target.content in answer


@pytest.mark.skipif(not TEMPLATES, reason="trl is not installed")
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates_that_trl_ships(path: Path) -> None:
    """Each either serves with a right prompt, mask and format, or is refused for a fault that the error names."""
    wanted = FORMAT_OF.get(path.stem.removesuffix("_training"))
    if wanted is None:
        with pytest.raises(TemplateError, match=r"ignores tools|none of the known formats|drops the calls|refuses"):
            chat_with(path.read_text()).check_training()
        check_as_text(path.read_text())
        return
    chat = chat_with(path.read_text())
    assert chat.format.name == wanted
    try:
        chat.check_training()
    except TemplateError as error:
        if "end-of-turn" in str(error):
            return
        assert "set prompt.template_kwargs = { enable_thinking = false }" in str(error)
        chat = chat_with(path.read_text(), template_kwargs={"enable_thinking": False})
    for messages, target in CONVERSATIONS.values():
        try:
            check(chat, messages, target)
        except ExampleError as error:
            assert target is TWO
            assert "refuses this conversation" in str(error)
            assert "single tool-calls" in str(error)


ONE_CALL_ONLY = """{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' -}}
{% if m.tool_calls | length > 1 %}{{ raise_exception('single tool-calls only') }}{% endif -%}
{% for c in m.tool_calls or [] -%}
{{ '{"name": "' + c.function.name + '", "parameters": ' }}{{ c.function.arguments | tojson }}{{ '}' }}
{%- endfor %}{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


def test_a_draft_that_the_template_refuses_stands_as_text() -> None:
    chat = chat_with(ONE_CALL_ONLY)
    check(chat, (USER, TWO, CHECK), ONE)
    assert chat.format.render(TWO.tool_calls) in chat.prompt_text((USER, TWO, CHECK), TOOLS)
    for messages, target in (
        ((USER,), TWO),
        ((USER, TWO, RESULT), REPLY),
        ((USER, TWO, RESULT, REPLY, USER, TWO), ONE),
    ):
        with pytest.raises(ExampleError, match="refuses this conversation: single tool-calls only"):
            chat.example_ids(example(messages, target))


def test_a_turn_that_the_template_refuses_has_no_likelihood_and_is_left_out_of_training() -> None:
    chat = chat_with(ONE_CALL_ONLY)
    prompt = Prompt(id="p", messages=(USER,), tools=TOOLS)
    assert scored_ids(chat, prompt, TWO) is None
    assert scored_ids(chat, prompt, ONE)
    assert len(tokenize([example((USER,), TWO), example((USER,), ONE), example((USER, TWO, CHECK), ONE)], chat)) == 2


SYSTEM_WITH_LAST = """{{ tools | tojson }}{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>
{%- if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{{ m.content or '' -}}
{% for c in m.tool_calls or [] -%}
<tool_call>{{ {"name": c.function.name, "arguments": c.function.arguments} | tojson }}</tool_call>
{%- endfor %}{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
"""As Mistral 7B Instruct v0.3 has it: the system message stands in the last user turn, and only while that is last."""


def test_a_conversation_whose_prompt_the_template_changes_is_left_out_where_others_serve() -> None:
    chat = chat_with(SYSTEM_WITH_LAST)
    chat.check_training()
    with pytest.raises(ExampleError, match=r"changes the prompt.*; set prompt\.style=system, or leave such"):
        chat.example_ids(example((SYSTEM, USER), ONE))
    assert len(tokenize([example((SYSTEM, USER), ONE), example((USER,), ONE)], chat)) == 1
    assert scored_ids(chat, Prompt(id="p", messages=(SYSTEM, USER), tools=TOOLS), ONE) is None


def check_as_text(template: str) -> None:
    """A template that cannot say tools says them as text, where it knows the roles of system and user."""
    chat = chat_with(template, style="system")
    try:
        chat.check_training()
    except TemplateError:
        return
    check(chat, (USER,), ONE)
    check(chat, (USER,), REPLY)


TURNS = """{% for m in messages %}{% if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}
{%- if m.role == 'assistant' %}<|im_end|>{% endif %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS,
        SYSTEM_WITH_LAST.replace("{{ tools | tojson }}", ""),
        TURNS,
    ],
    ids=["refused, as by Gemma 2", "moved, as by Mistral", "dropped"],
)
def test_a_system_message_that_the_template_cannot_say_begins_the_first_turn(template: str) -> None:
    chat = chat_with(template, style="system")
    chat.check_training()
    for messages, target in CONVERSATIONS.values():
        check(chat, messages, target)
    turns = chat.request((SYSTEM, USER), TOOLS)["messages"]
    assert [turn["role"] for turn in turns] == ["user"]
    assert turns[0]["content"].endswith(f"{SYSTEM.content}\n\n{USER.content}")


MISTRAL = """{{ tools | tojson }}{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}[TOOL_CALLS][
{%- for c in m.tool_calls -%}
{%- if c.id | length != 9 %}{{ raise_exception('an id has nine characters') }}{% endif -%}
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}
{%- if not loop.last %}, {% endif %}{% endfor %}]</s>
{%- elif m.role == 'tool' %}[RESULT]{{ m.tool_call_id }}:{{ m.content }}[/RESULT]
{%- elif m.role == 'assistant' %}{{ m.content }}</s>{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"""

KIMI = """{{ tools | tojson }}{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls -%}
<|tool_calls_section_begin|>{% for c in m.tool_calls -%}
<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>
{%- endfor %}<|tool_calls_section_end|><|im_end|>
{%- elif m.role == 'tool' %}<|tool|>{{ m.tool_call_id }} {{ m.content }}
{%- elif m.role == 'assistant' %}{{ m.content }}<|im_end|>{% else %}<|{{ m.role }}|>{{ m.content }}{% endif -%}
{% endfor %}{% if add_generation_prompt %}{% endif %}"""

TEXT_ARGUMENTS = """{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' -}}
{% for c in m.tool_calls or [] -%}
<tool_call>{{ '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments + '}' }}</tool_call>
{%- endfor %}{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.mark.parametrize(
    ("template", "wire_format"), [(MISTRAL, "mistral"), (KIMI, "kimi_k2"), (TEXT_ARGUMENTS, "hermes")]
)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_templates_get_ids_and_arguments_as_they_want_them(template: str, wire_format: str, name: str) -> None:
    chat = chat_with(template)
    assert chat.format.name == wire_format
    check(chat, *CONVERSATIONS[name])


def test_results_refer_to_the_calls_of_their_turn() -> None:
    prompt = chat_with(MISTRAL).prompt_text((USER, ONE, RESULT, REPLY, USER, TWO, RESULT), TOOLS)
    assert "[RESULT]call00000:" in prompt
    assert "[RESULT]call00001:" in prompt


def test_a_format_that_the_template_does_not_write_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"in the hermes format, not in llama3_json.*prompt\.format=auto"):
        chat_with(TEXT_ARGUMENTS, format="llama3_json")


def test_a_tool_that_the_template_leaves_out_is_an_error() -> None:
    first_only = TEXT_ARGUMENTS.replace("tools | tojson", "tools[:1] | tojson")
    with pytest.raises(TemplateError, match="leaves the tool 'get_time' out"):
        chat_with(first_only).prompt_ids((USER,), TOOLS)


def test_calls_that_read_back_as_others_are_an_error() -> None:
    deaf = TEXT_ARGUMENTS.replace("c.function.arguments +", "(c.function.arguments | replace('Z', 'S')) +")
    with pytest.raises(ExampleError, match="reads back as others"):
        chat_with(deaf).example_ids(example((USER,), ONE))


@pytest.mark.parametrize("name", [*FORMATS])
def test_style_system_shows_the_format_that_it_reads(name: str) -> None:
    chat = chat_with(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|im_end|>{% endfor %}<|assistant|>",
        style="system",
        format=name,
    )
    prompt = chat.prompt_text(
        (USER, Message(role="assistant", content="Let me see.", tool_calls=TWO.tool_calls), CHECK), TOOLS
    )
    assert chat.format.render(EXAMPLE_CALLS) in prompt
    assert "Let me see." in prompt
    assert chat.format.render(TWO.tool_calls) in prompt
