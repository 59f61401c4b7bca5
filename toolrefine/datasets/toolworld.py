"""The tool world: endless, deterministic tool-calling samples in domains with disjoint vocabularies.

A sample is drawn from Random(seed, domain, index) alone, so that a larger size extends a smaller one and the same
arguments give the same bytes everywhere. meta tells {"turns": user turns, "label": "ok" or "wrong:HOW"}; no part of
the method reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from toolrefine.datasets.toolworld_domains import Domain, WorldTool, get_domain, say_list, verb_phrases, words
from toolrefine.datasets.wrong_labels import make_wrong
from toolrefine.matching import schema_violation
from toolrefine.types import Message, Sample, ToolCall

NUM_TOOLS = [1, 2, 2, 3, 3, 4, 5, 6]
"""Tools of a prompt, drawn from these."""
PARALLEL_SHARE, NO_CALL_SHARE, SEVERAL_TURNS_SHARE = 0.18, 0.18, 0.15
OPTIONAL_SHARE = 0.25
"""How often a request states an optional parameter."""

OPENERS = ["", "", "", "Please ", "Can you ", "Could you ", "I want you to ", "Hi, ", "I'd like to ", "Go ahead and "]
CLOSERS = ["", "", "", "", ".", ".", " please.", ", thanks."]
JOINERS = [" and ", ", and then ", ". Also ", "; also ", ", then "]
SMALL_TALK = [
    "Thanks, that is all.",
    "Good morning!",
    "What is the capital of Peru?",
    "Tell me a joke.",
    "How are you?",
]
OBJECT_FIRST_OPENERS, OBJECT_FIRST_JOINERS = ["", "", "Next ", "As for the "], [". Next ", "; and the ", ", then the "]
DONE = ["Done.", "All set.", "That is taken care of."]
NOTHING_FITS = "None of the tools fits this request."


def generate(domain: str, size: int, seed: int = 0, wrong_label_rate: float = 0.0) -> Iterator[Sample]:
    """Samples of one domain, in a fixed order.

    Args:
        domain: a domain of toolworld.toml, or spliced-N.
        size: number of samples.
        seed: another seed, other samples.
        wrong_label_rate: probability that a target is made wrong the way real labels are.

    Raises:
        DataError: there is no such domain.
    """
    world = get_domain(domain)
    for index in range(size):
        sample = build_sample(world, Random(f"{seed}/{domain}/{index}"), f"toolworld-{domain}-{seed}-{index}")
        noise = Random(f"{seed}/{domain}/{index}/label")
        yield make_wrong(sample, noise, world) if noise.random() < wrong_label_rate else sample


def build_sample(domain: Domain, rng: Random, sample_id: str) -> Sample:
    """One sample with a correct label."""
    num_tools = min(rng.choice(NUM_TOOLS), len(domain.tools))
    draw = rng.random()
    num_calls = rng.choice([2, 2, 2, 3]) if draw < PARALLEL_SHARE else 1
    wanted = [rng.choice(domain.tools) for _ in range(num_calls)]
    offered = _offer(domain, rng, wanted, max(num_tools, len({w.tool.name for w in wanted})))
    history: list[Message] = []
    several_turns = rng.random() < SEVERAL_TURNS_SHARE
    if several_turns and rng.random() < 0.6:
        history += served_exchange(rng, rng.choice(offered))
        several_turns = False
    turns: list[Message]
    if draw >= 1 - NO_CALL_SHARE:
        turns, target, offered = _no_call(domain, rng, wanted[0], offered)
    else:
        turns, target = _calls(rng, wanted, clarify=several_turns and len(wanted) == 1)
    tools = tuple(w.tool for w in offered)
    if schema_violation([call for message in history for call in message.tool_calls], tools):
        history = []  # what was called before is no longer offered
    messages = (*history, *turns)
    return Sample(
        id=sample_id,
        messages=messages,
        tools=tools,
        target=target,
        source="toolworld",
        meta={"turns": sum(m.role == "user" for m in messages), "label": "ok"},
    )


def _offer(domain: Domain, rng: Random, wanted: list[WorldTool], num_tools: int) -> list[WorldTool]:
    """The wanted tools among look-alikes (same object or same verb first), shuffled."""
    offered = list({w.tool.name: w for w in wanted}.values())
    others = [t for t in domain.tools if t not in offered]
    rng.shuffle(others)
    alike = [t for t in others if t.object == wanted[0].object or t.verb == wanted[0].verb]
    if rng.random() < 0.7:
        others = alike[:2] + [t for t in others if t not in alike[:2]]
    offered += others[: num_tools - len(offered)]
    rng.shuffle(offered)
    return offered


def _request(rng: Random, wanted: WorldTool, without: str | None = None) -> tuple[str, dict[str, Any]]:
    """A request in words and the arguments it states; `without` names a parameter to leave unsaid."""
    arguments: dict[str, Any] = {}
    pieces = []
    for number, parameter in enumerate(wanted.parameters):
        if parameter.name != without and (number < wanted.num_required or rng.random() < OPTIONAL_SHARE):
            arguments[parameter.name] = parameter.draw(rng)
            pieces.append(parameter.say(rng, arguments[parameter.name]))
    rng.shuffle(pieces)
    verb = rng.choice(verb_phrases()[wanted.verb])
    if wanted.object_first:
        return " ".join([f"{wanted.object}: {verb} it", *pieces]), arguments
    text = " ".join([verb, rng.choice(["a", "the", "my", "the"]), wanted.object, *pieces])
    return text, arguments


def _sentence(rng: Random, wanted: WorldTool, text: str) -> str:
    if wanted.object_first:
        return rng.choice(OBJECT_FIRST_OPENERS) + text
    text = rng.choice(OPENERS) + text + rng.choice(CLOSERS)
    return text[0].upper() + text[1:]


def _calls(rng: Random, wanted: list[WorldTool], *, clarify: bool) -> tuple[list[Message], Message]:
    if clarify:
        missing = rng.choice(wanted[0].parameters[: wanted[0].num_required])
        text, arguments = _request(rng, wanted[0], without=missing.name)
        value = missing.draw(rng)
        turns = [
            Message(role="user", content=_sentence(rng, wanted[0], text)),
            Message(role="assistant", content=_ask_for([missing.name])),
            Message(role="user", content=missing.say(rng, value).capitalize()),
        ]
        if isinstance(value, str) and not missing.enum and missing.type != "date":
            turns[-1] = Message(role="user", content=value)
        calls = [ToolCall(name=wanted[0].tool.name, arguments=_in_order(wanted[0], {**arguments, missing.name: value}))]
    else:
        requests = [_request(rng, w) for w in wanted]
        joiners = OBJECT_FIRST_JOINERS if wanted[0].object_first else JOINERS
        joined = requests[0][0] + "".join(rng.choice(joiners) + text for text, _ in requests[1:])
        turns = [Message(role="user", content=_sentence(rng, wanted[0], joined))]
        calls = [
            ToolCall(name=w.tool.name, arguments=arguments) for w, (_, arguments) in zip(wanted, requests, strict=True)
        ]
    return turns, Message(role="assistant", tool_calls=tuple(calls))


def _in_order(wanted: WorldTool, arguments: dict[str, Any]) -> dict[str, Any]:
    return {p.name: arguments[p.name] for p in wanted.parameters if p.name in arguments}


def _no_call(
    domain: Domain, rng: Random, wanted: WorldTool, offered: list[WorldTool]
) -> tuple[list[Message], Message, list[WorldTool]]:
    """Nothing applies, or a required value is missing."""
    draw = rng.random()
    if draw < 0.2:
        turn, reply = Message(role="user", content=rng.choice(SMALL_TALK)), NOTHING_FITS
    elif draw < 0.65:
        turn, reply = _ask(rng, wanted), NOTHING_FITS
        offered = [t for t in offered if t != wanted] or [rng.choice([t for t in domain.tools if t != wanted])]
    else:
        turn, reply = _ask_too_little(rng, wanted)
    return [turn], Message(role="assistant", content=reply), offered


def _ask(rng: Random, wanted: WorldTool) -> Message:
    return Message(role="user", content=_sentence(rng, wanted, _request(rng, wanted)[0]))


def _ask_too_little(rng: Random, wanted: WorldTool) -> tuple[Message, str]:
    """A request without a required value, and the question for it."""
    missing = rng.choice(wanted.parameters[: wanted.num_required])
    text = _sentence(rng, wanted, _request(rng, wanted, without=missing.name)[0])
    return Message(role="user", content=text), _ask_for([missing.name])


def _ask_for(names: list[str]) -> str:
    return f"Please tell me the {say_list([words(n) for n in names])}."


def served_exchange(rng: Random, wanted: WorldTool) -> list[Message]:
    """A request that has already been served: question, call, result, answer."""
    text, arguments = _request(rng, wanted)
    call = ToolCall(name=wanted.tool.name, arguments=arguments)
    result = json.dumps({"status": "ok", "id": rng.randint(100, 999)})
    return [
        Message(role="user", content=_sentence(rng, wanted, text)),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content=result, tool_call_id="call_0"),
        Message(role="assistant", content=rng.choice(DONE)),
    ]


def unserved_exchange(rng: Random, domain: Domain, offered: Sequence[WorldTool]) -> list[Message]:
    """A request that the offered tools cannot serve, and the reply: nothing fits, or a required value is missing."""
    others = [t for t in domain.tools if t not in offered]
    if others and rng.random() < 0.6:
        turn, reply = _ask(rng, rng.choice(others)), NOTHING_FITS
    else:
        turn, reply = _ask_too_little(rng, rng.choice(offered))
    return [turn, Message(role="assistant", content=reply)]
