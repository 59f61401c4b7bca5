"""How scripts/train_nano.py starts other bases with nano's weights."""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from toolrefine.nano import NANO_DIR

IDS = torch.arange(7, 71).reshape(2, 32)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_nano", Path(__file__).parents[1] / "scripts/train_nano.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nano() -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(NANO_DIR, dtype=torch.float32)
    return model.eval()


def started(script: ModuleType, nano: PreTrainedModel, family: str, layers: int) -> PreTrainedModel:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(NANO_DIR)
    config = script.model_config(tokenizer, Namespace(family=family, width=192, layers=layers))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    script.take_over(nano, model, IDS)
    return model.eval()


@pytest.mark.parametrize("layers", [4, 6, 8])
@torch.no_grad()
def test_a_deeper_model_starts_as_the_same_function(script: ModuleType, nano: PreTrainedModel, layers: int) -> None:
    model = started(script, nano, "qwen3", layers)
    assert model.config.num_hidden_layers == layers
    torch.testing.assert_close(model(IDS).logits, nano(IDS).logits)


@torch.no_grad()
def test_a_shallower_model_keeps_the_first_and_the_last_layer(script: ModuleType, nano: PreTrainedModel) -> None:
    model = started(script, nano, "qwen3", 2)
    for ours, theirs in ((0, 0), (1, 3)):
        name = "mlp.up_proj.weight"
        assert torch.equal(model.model.layers[ours].get_parameter(name), nano.model.layers[theirs].get_parameter(name))


@torch.no_grad()
def test_a_llama_starts_with_queries_and_keys_of_nearly_the_same_size(
    script: ModuleType, nano: PreTrainedModel
) -> None:
    llama = started(script, nano, "llama", 4)
    hidden = nano.model.layers[0].input_layernorm(nano.model.embed_tokens(IDS))
    theirs = nano.model.layers[0].self_attn
    normed = theirs.q_norm(theirs.q_proj(hidden).unflatten(-1, (6, 32)))
    ours = llama.model.layers[0].self_attn.q_proj(hidden).unflatten(-1, (6, 32))
    assert 0.8 < (ours.norm() / normed.norm()).item() < 1.25
    assert torch.nn.functional.cosine_similarity(ours, normed, dim=-1).min() > 0.999


def test_a_model_of_another_width_is_refused(script: ModuleType, nano: PreTrainedModel) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(NANO_DIR)
    config = script.model_config(tokenizer, Namespace(family="qwen3", width=128, layers=4))
    with pytest.raises(RuntimeError, match="size mismatch"):
        script.take_over(nano, AutoModelForCausalLM.from_config(config), IDS)
