"""Random-initialised Llama models of common shapes with nano's tokenizer, and prompts of the tool world for them.

The vocabulary is small, so that the body of a model takes most of the work, as in large models. Token ids that the
tokenizer does not know have no text.
"""

from __future__ import annotations

from itertools import count, islice
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from toolrefine.chat import Chat
from toolrefine.config import PromptConfig
from toolrefine.datasets.toolworld import generate
from toolrefine.models import load_model, load_tokenizer
from toolrefine.types import Checkpoint, Sample

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "5M": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8},
    "30M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "120M": {"hidden_size": 896, "intermediate_size": 2432, "num_hidden_layers": 12, "num_attention_heads": 14},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
KV_HEADS = {"tiny": 2, "5M": 4, "30M": 4, "120M": 2, "1B": 8, "8B": 8}
VOCABULARY = 8_000
MEAN_TOKENS = 40
"""Of a completion, where completions end by themselves."""
NANO = Checkpoint(model="nano")

Ends = Literal["never", "by chance"]
"""When a random model ends its turn: never, so that all completions have the length of the limit, or with
probability 1 / MEAN_TOKENS at each token."""


def make_model(shape: str, *, dtype: str = "float32", device: str = "cpu", ends: Ends = "never", seed: int = 0) -> Any:
    """A model of one of SHAPES, the same for the same arguments; or nano itself, which ends as it has learned to."""
    if shape == "nano":
        return load_model(NANO, dtype=dtype, device=device)
    eos_id, pad_id = 1, 0
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_key_value_heads=KV_HEADS[shape],
        max_position_embeddings=4096,
        tie_word_embeddings=shape == "5M",  # else the embeddings were most of it
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        **SHAPES[shape],
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
        if ends == "never":
            _forbid(model, eos_id)
        else:
            others = torch.randperm(VOCABULARY - 2)[: VOCABULARY // MEAN_TOKENS - 1] + 2
            model.generation_config.eos_token_id = [eos_id, *others.tolist()]
    return model


def _forbid(model: Any, token: int) -> None:
    """Give the output layer a bias against a token: every way of sampling from the model then sees the same."""
    plain = model.lm_head
    model.lm_head = torch.nn.Linear(plain.in_features, plain.out_features, dtype=plain.weight.dtype)
    model.lm_head.weight = plain.weight
    with torch.no_grad():
        model.lm_head.bias.zero_()[token] = -1e4


def make_tokenizer() -> Any:
    """The tokenizer and chat template of nano."""
    return load_tokenizer(NANO)


def make_samples(num: int, tokens: range = range(300, 601), seed: int = 0) -> list[Sample]:
    """Samples of the tool world whose prompts have so many tokens."""
    chat = Chat(make_tokenizer(), PromptConfig())
    fitting = (
        sample
        for part in count()
        for sample in generate("observatory", 256, 1000 * seed + part)
        if len(chat.prompt_ids(sample.messages, sample.tools)) in tokens
    )
    return list(islice(fitting, num))
