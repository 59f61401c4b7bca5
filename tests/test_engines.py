from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_tiny_model
from transformers import AutoModelForCausalLM

from toolrefine.config import EngineConfig, PromptConfig, RefinementConfig
from toolrefine.engines import SamplingParams
from toolrefine.engines.decoding import ExpandedDecoder, SharedPrefixDecoder
from toolrefine.engines.transformers import TransformersEngine, choose, noise
from toolrefine.refine import refine
from toolrefine.rollout import to_prompt
from toolrefine.types import Checkpoint, Outcome, Refinement, Sample

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=24)
SAMPLED = SamplingParams(temperature=1.0, max_new_tokens=24, seed=5)


def load(path: Path, **config: Any) -> TransformersEngine:
    return TransformersEngine.load(Checkpoint(model=str(path)), EngineConfig(device="cpu", **config), PromptConfig())


def reference_logprob(engine: TransformersEngine, prompt_ids: list[int], ids: list[int]) -> float:
    """Log-probability of sampled ids by one full forward of the untouched model."""
    model = AutoModelForCausalLM.from_pretrained(engine.model.config._name_or_path)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt_ids + ids])).logits[0, len(prompt_ids) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())


@pytest.mark.parametrize("family", ["Qwen3", "Llama", "Qwen2", "Mistral", "Gemma"])
def test_greedy_output_is_that_of_generate(tmp_path: Path, samples: list[Sample], family: str) -> None:
    path = make_tiny_model(tmp_path, family, **({"sliding_window": None} if family == "Mistral" else {}))
    engine = load(path)
    assert isinstance(engine.decoder, ExpandedDecoder if family == "Gemma" else SharedPrefixDecoder)
    model = AutoModelForCausalLM.from_pretrained(path)
    completions = engine.sample([to_prompt(sample) for sample in samples[:8]], 1, GREEDY)
    for sample, (completion,) in zip(samples, completions, strict=False):
        ids = torch.tensor([engine.chat.prompt_ids(sample.messages, sample.tools)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        new = [t for t in out[0, ids.shape[1] :].tolist() if t != engine.tokenizer.eos_token_id]
        assert completion.text == engine.tokenizer.decode(new, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("decoder", [SharedPrefixDecoder, ExpandedDecoder])
def test_logprobs_are_those_of_a_full_forward(tiny_model: Path, samples: list[Sample], decoder: Any) -> None:
    engine = load(tiny_model)
    if decoder is ExpandedDecoder:
        engine.model.set_attn_implementation("sdpa")
        engine.decoder = ExpandedDecoder(engine.model)
    prompts = [engine.chat.prompt_ids(sample.messages, sample.tools) for sample in samples[:6]]
    noise_rs = torch.from_numpy(np.concatenate([noise(sample.id, range(3), SAMPLED) for sample in samples[:6]]))
    with torch.inference_mode():
        rows = engine._decode(engine.decoder.prefill(prompts, 3), 3, SAMPLED, noise_rs)
    assert len({len(ids) for ids, _ in rows}) > 1  # some rows ended early, so that rows were dropped
    for place, (ids, logprob) in enumerate(rows):
        assert logprob == pytest.approx(reference_logprob(engine, prompts[place // 3], ids), abs=1e-4)


@pytest.mark.parametrize("max_batch_rows", [3, 4, 9])
def test_completions_do_not_depend_on_the_batch(tiny_model: Path, samples: list[Sample], max_batch_rows: int) -> None:
    prompts = [to_prompt(sample) for sample in samples[:10]]
    together = load(tiny_model).sample(prompts, 4, SAMPLED)
    small = load(tiny_model, max_batch_rows=max_batch_rows).sample(prompts[::-1], 4, SAMPLED)[::-1]
    texts = [[c.text for c in group] for group in together]
    assert texts == [[c.text for c in group] for group in small]
    assert len({text for group in texts for text in group}) > 20


def test_more_completions_extend_fewer(tiny_model: Path, samples: list[Sample]) -> None:
    engine, prompts = load(tiny_model), [to_prompt(sample) for sample in samples[:4]]
    few, many = engine.sample(prompts, 2, SAMPLED), engine.sample(prompts, 5, SAMPLED)
    assert [[c.text for c in group] for group in few] == [[c.text for c in group[:2]] for group in many]


def test_noise_depends_on_its_keys_alone() -> None:
    first = noise("a", range(3), SAMPLED)
    assert first.shape == (3, 24)
    assert np.array_equal(first, noise("a", range(3), SAMPLED))
    assert not np.array_equal(first, noise("b", range(3), SAMPLED))
    assert not np.array_equal(first[0], first[1])


def test_sampled_frequencies_agree_with_the_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    rows = 20_000
    uniform = torch.from_numpy(np.random.Generator(np.random.Philox(1)).random(rows))
    for temperature in (1.0, 0.5):
        params = SamplingParams(temperature=temperature)
        chosen, logprob = choose(logits.expand(rows, -1), uniform, params)
        expected = (logits / temperature).softmax(-1) * rows
        observed = torch.bincount(chosen, minlength=5)
        chi_squared = ((observed - expected) ** 2 / expected).sum().item()
        assert chi_squared < 18.5  # 99.9 % quantile for 4 degrees of freedom
        assert torch.allclose(logprob, logits.log_softmax(-1)[chosen])


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    uniform = torch.linspace(0, 0.999, 500, dtype=torch.float64)
    chosen, _ = choose(logits.expand(500, -1), uniform, SamplingParams(top_p=0.7))
    assert set(chosen.tolist()) == {0, 1}


def test_a_prompt_without_room_for_an_answer_is_data(tiny_model: Path, samples: list[Sample]) -> None:
    engine = load(tiny_model)
    engine.max_positions = 30
    ((completion,),) = engine.sample([to_prompt(samples[0])], 1, GREEDY)
    assert (completion.outcome, completion.num_tokens) == (Outcome.TRUNCATED, 0)


@pytest.mark.parametrize("family", ["Qwen3", "Llama"])
def test_refinement_goes_on_from_what_the_draft_has_computed(
    tmp_path: Path, samples: list[Sample], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tiny_model(tmp_path / family, family)
    prompts = [to_prompt(sample) for sample in samples[:12]]

    def refined(prefix_cache_gb: float) -> tuple[list[Refinement], int]:
        engine = load(path, max_batch_rows=5, prefix_cache_gb=prefix_cache_gb)
        num_tokens = 0
        forward = engine.model.model.forward

        def count(input_ids: torch.Tensor, **options: Any) -> Any:
            nonlocal num_tokens
            num_tokens += input_ids.numel() if input_ids.shape[1] > 1 else 0
            return forward(input_ids=input_ids, **options)

        monkeypatch.setattr(engine.model.model, "forward", count)
        return refine(engine, prompts, RefinementConfig(max_rounds=3), PromptConfig(), GREEDY), num_tokens

    (reused, few), (rebuilt, many) = refined(4.0), refined(0.0)
    assert [[c.text for c in answers.rounds] for answers in reused] == [
        [c.text for c in answers.rounds] for answers in rebuilt
    ]
    for ours, theirs in zip(reused, rebuilt, strict=True):
        for a, b in zip(ours.rounds, theirs.rounds, strict=True):
            assert a.mean_logprob == pytest.approx(b.mean_logprob, abs=1e-5)
    assert max(len(answers.rounds) for answers in reused) > 2
    assert few < 0.75 * many
