from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from test_training import fit, make_config

from toolrefine.config import PromptConfig
from toolrefine.corpus import direct_corpus, refine_messages
from toolrefine.models import load_model
from toolrefine.training.batches import (
    choose_collator,
    loss_of,
    pack_for_targets,
    pad,
    pad_for_targets,
    share_saved,
    switch_to_packing,
)
from toolrefine.training.packing import Tokens, count_shared, find_blocks
from toolrefine.training.trainer import batch_at_once
from toolrefine.types import Checkpoint, Completion, Example, Outcome, Sample

FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral"]

tokens = st.builds(
    lambda ids, start, sample: Tokens(ids, min(start, len(ids) - 1), sample),
    st.lists(st.integers(2, 4), min_size=2, max_size=30),
    st.integers(1, 29),
    st.sampled_from("ab"),
)


@pytest.fixture(scope="module")
def corpus(samples: list[Sample]) -> list[Example]:
    """A direct example and a refinement of each sample, the draft being right, wrong or without calls."""
    prompt = PromptConfig()
    examples = []
    for i, direct in enumerate(direct_corpus(samples, prompt)):
        calls = samples[(i + i % 2) % len(samples)].target.tool_calls
        draft = Completion(
            text="I cannot.",
            calls=calls,
            outcome=Outcome.CALLS if calls else Outcome.NO_CALL,
            num_tokens=5,
            mean_logprob=None,
        )
        messages = refine_messages(direct.messages, draft, prompt)
        changes = {"id": f"{direct.sample_id}/refine/0", "kind": "refine", "messages": messages}
        examples += [direct, direct.model_copy(update=changes)]
    return examples


def make_examples(num_samples: int = 3, *, vocabulary: int = 512) -> list[Tokens]:
    """Samples with four examples each, and one alone."""
    torch.manual_seed(1)

    def draw(num: int) -> list[int]:
        return torch.randint(2, vocabulary, (num,)).tolist()

    examples = [Tokens(draw(25), 20, "alone")]
    for i in range(num_samples):
        prompt = draw(40 + 5 * i)
        examples += [Tokens([*prompt, *draw(6)], len(prompt), str(i)) for _ in range(2)]
        examples += [Tokens([*prompt, *draw(9 + j), *draw(4)], len(prompt) + 9 + j, str(i)) for j in range(2)]
    return examples


def gradients(model: Any, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def load(path: Path) -> Any:
    return load_model(Checkpoint(model=str(path)), dtype="float32", device="cpu", trainable=True)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_those_of_separate_rows(
    tmp_path: Path, family: str, lora: bool, checkpointing: bool
) -> None:
    model = load(make_tiny_model(tmp_path / "model", family))
    if lora:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False)
        model = get_peft_model(model, config)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    examples = make_examples()
    loss, expected = gradients(model, pad(examples, 0))
    found = [gradients(model, pad_for_targets(examples, 0))]
    assert choose_collator(model, [examples], "auto", 0) is pack_for_targets
    found.append(gradients(model, pack_for_targets(examples)))
    for other_loss, others in found:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(others, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["Gemma", "Granite", "Cohere", "Gemma2", "Bloom"])
def test_logits_are_scaled_and_capped_as_the_model_does_it(tmp_path: Path, family: str) -> None:
    model = load(make_tiny_model(tmp_path / "model", family))
    examples = make_examples()
    expected = loss_of(model, pad(examples, 0))
    collate = choose_collator(model, [examples], "auto", 0)
    assert {*collate(examples)} >= {"logits_to_keep", "shift_labels"}
    assert loss_of(model, collate(examples)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("Mistral", {"sliding_window": 16}, "window of 16 tokens"),
        ("Gemma2", {}, "cannot follow"),
        ("Qwen3", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}, "window of 16 tokens"),
        ("Bloom", {}, "cannot follow"),
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "of the kind conv"),
        ("Mamba", {}, "of the kind linear_attention"),
    ],
)
def test_packing_is_off_where_the_attention_cannot_follow(
    tmp_path: Path, family: str, changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(make_tiny_model(tmp_path / "model", family, **changes))
    examples = make_examples()
    expected = loss_of(model, pad(examples, 0))
    with caplog.at_level(logging.WARNING):
        collate = choose_collator(model, [examples], "auto", 0)
    assert collate is not pack_for_targets
    assert "sft.packing is off" in caplog.text
    assert reason in caplog.text
    assert loss_of(model, collate(examples)) == pytest.approx(expected, abs=1e-5)


def test_packing_is_off_where_it_saves_nothing(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(tiny_model)
    examples = [Tokens([*range(2, 22)], 15, str(i)) for i in range(4)]
    assert share_saved([examples]) == 0.0
    assert choose_collator(model, [examples], "auto", 0) is not pack_for_targets
    assert choose_collator(model, [examples], True, 0) is pack_for_targets
    assert not caplog.text


@given(st.lists(tokens, min_size=1, max_size=6))
def test_blocks_hold_every_example_and_share_no_token_that_predicts_a_target(examples: list[Tokens]) -> None:
    blocks = list(find_blocks(examples))
    assert [example for block in blocks for example in block.examples] == examples
    for group, shared in blocks:
        assert len({tuple(example.ids[:shared]) for example in group}) == 1
        assert len(group) == 1 or all(shared < example.start for example in group)
    assert count_shared(examples) <= min(example.start for example in examples) - 1


@pytest.fixture(scope="module")
def packed_and_separate() -> tuple[Any, Any]:
    import transformers

    models = []
    for _ in range(2):
        torch.manual_seed(0)
        settings = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.LlamaConfig(vocab_size=40, initializer_range=0.2, **settings)
        models.append(transformers.LlamaForCausalLM(config))
    assert switch_to_packing(models[0], 30, lambda rows: pad(rows, 0)) is None
    return models[0], models[1]


@given(examples=st.lists(tokens, min_size=1, max_size=6))
def test_any_examples_can_be_packed(packed_and_separate: tuple[Any, Any], examples: list[Tokens]) -> None:
    packed, separate = packed_and_separate
    expected = loss_of(separate, pad(examples, 0))
    assert loss_of(packed, pack_for_targets(examples)) == pytest.approx(expected, abs=1e-5)


def losses(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> list[float]:
    from toolrefine.training import trainer

    found: list[float] = []

    class Heard(trainer.SequentialTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            found.append(loss.item())
            return loss

    monkeypatch.setattr(trainer, "SequentialTrainer", Heard)
    fit(folder, *arguments)
    monkeypatch.undo()
    return found


def test_fifty_steps_have_the_losses_of_separate_rows(
    tmp_path: Path, tiny_llama: Path, corpus: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for packing in (True, False):
        config = make_config(max_steps=50, packing=packing, dtype="float32", checkpoint_steps=100)
        folder = tmp_path / str(packing)
        found[packing] = losses(folder, monkeypatch, Checkpoint(model=str(tiny_llama)), corpus, config)
        assert json.loads((folder / "model/training.json").read_text())["packed"] is packing
    assert len(found[True]) == 50
    assert found[True] == pytest.approx(found[False], abs=1e-5)
    assert found[True][-1] < found[True][0] - 0.5


def test_accumulated_gradients_equal_one_large_batch(
    tmp_path: Path, tiny_llama: Path, corpus: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_config(batch_size=8, max_steps=3, dtype="float32")
    parts = make_config(batch_size=4, gradient_accumulation=2, max_steps=3, dtype="float32")
    base = Checkpoint(model=str(tiny_llama))
    once, twice = (
        losses(tmp_path / name, monkeypatch, base, corpus[:8], config)
        for name, config in (("whole", whole), ("parts", parts))
    )
    assert [sum(pair) for pair in zip(twice[::2], twice[1::2], strict=True)] == pytest.approx(once, abs=1e-5)


@pytest.mark.parametrize(("num_tokens", "expected"), [(100, 16), (400, 8), (1000, 4), (9000, 1)])
def test_a_cpu_takes_a_batch_in_parts(num_tokens: int, expected: int) -> None:
    examples = [Tokens([0] * num_tokens, 1)] * 3
    assert batch_at_once(examples, 16, 4_096) == expected
    assert batch_at_once(examples, 16, None) == 16
