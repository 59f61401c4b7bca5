"""Schema-constrained decoding: which tokens may come next, as a function of the tools and the tokens so far."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from toolrefine.chat import Chat
from toolrefine.engines.grammar import GRAMMARS, build_grammar
from toolrefine.errors import ConfigError
from toolrefine.json_schema import reorder_properties
from toolrefine.types import Tool

log = logging.getLogger(__name__)

MAX_GRAMMARS = 1024
"""Compiled grammars that are kept."""


class Guide:
    """The state of a grammar after some tokens; never changes."""

    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher

    def after(self, token: int) -> Guide:
        """The state after one more token; after the end of the turn it stays."""
        if self.matcher.is_stopped():
            return self
        matcher = self.matcher.deep_copy()
        matcher.consume_token(token)
        return Guide(matcher)

    @cached_property
    def bits(self) -> np.ndarray[Any, Any]:
        """Which tokens may come next, eight a byte, the lowest bit first."""
        return np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)


class Constraint:
    """Makes the guides of one tokenizer and wire format."""

    def __init__(self, chat: Chat, num_tokens: int) -> None:
        """Bind a tokenizer; num_tokens is the size of the model's output.

        Raises:
            ConfigError: the library is missing, or the tokenizer or the format is one that cannot be constrained.
        """
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise ConfigError("engine.constrain: needs llguidance; pip install '.[grammar]' in the checkout") from None
        if chat.format.name not in GRAMMARS:
            raise ConfigError(
                f"engine.constrain: the {chat.format.name} format cannot be constrained, only {', '.join(GRAMMARS)}"
            )
        self.format_name = chat.format.name
        self.make_matcher = llguidance.LLMatcher
        try:
            self.tokenizer = from_tokenizer(chat.tokenizer, n_vocab=num_tokens, eos_token=sorted(chat.eos_ids))
        except ValueError as error:
            raise ConfigError(f"engine.constrain: not with this tokenizer: {error}") from None
        # Qwen marks <tool_call> as no special token, but llguidance holds every added token in angle brackets for one.
        added = chat.tokenizer.get_added_vocab()
        self.specials = {text for text, token in added.items() if self.tokenizer.is_special_token(token)}
        self.guides: dict[str, Guide | None] = {}

    def guide(self, tools: Sequence[Tool]) -> Guide | None:
        """The guide of an answer's first token; None where there are no tools, or where these do not make a grammar.

        The order of tools and of their parameters makes no difference: shuffled ones share their guide.
        """
        in_order = [
            tool.model_copy(update={"parameters": reorder_properties(tool.parameters, sorted)}) for tool in tools
        ]
        texts = {tool.model_dump_json(): tool for tool in in_order}
        key = "\n".join(sorted(texts))
        if key not in self.guides:
            if len(self.guides) == MAX_GRAMMARS:
                self.guides.clear()
            self.guides[key] = self._compile([texts[text] for text in sorted(texts)])
        return self.guides[key]

    def _compile(self, tools: Sequence[Tool]) -> Guide | None:
        grammar = build_grammar(self.format_name, tools, self.specials)
        if grammar is None:
            return None
        matcher = self.make_matcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            log.warning("engine.constrain: not for %s ...: %s", tools[0].name, matcher.get_error()[:200])
            return None
        return Guide(matcher)


def allowed_tokens(guides: Sequence[Guide | None], num_tokens: int, device: torch.device) -> torch.Tensor:
    """Which of num_tokens tokens V may come next at each of U guides (U, V); all where there is no guide."""
    allowed_uv = np.ones((len(guides), num_tokens), dtype=bool)
    for row, guide in enumerate(guides):
        if guide is not None:
            bits = np.unpackbits(guide.bits, bitorder="little")[:num_tokens]
            allowed_uv[row, : len(bits)] = bits
            allowed_uv[row, len(bits) :] = False
    return torch.from_numpy(allowed_uv).to(device)
