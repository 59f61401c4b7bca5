from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import make_tiny_model
from fake_server import fake_server
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, DynamicCache, Gemma3Config, Gemma3ForConditionalGeneration

from toolrefine.config import EngineConfig, PromptConfig, RefinementConfig
from toolrefine.datasets.toolworld import generate
from toolrefine.engines import NO_ROOM, Accept, SamplingParams, attention
from toolrefine.engines.attention import Beginnings, Prefix, SharedPrefixCache
from toolrefine.engines.batching import Batch, choose
from toolrefine.engines.decoding import PREFILL_TOKENS, ExpandedDecoder, SharedPrefixDecoder
from toolrefine.engines.openai import OpenAIEngine
from toolrefine.engines.scoring import answer_ids
from toolrefine.engines.transformers import TransformersEngine, noise
from toolrefine.engines.waves import NUM_PROBES, WavePlanner
from toolrefine.errors import RequestError
from toolrefine.refine import refine, refinement_prompt
from toolrefine.rollout import to_prompt
from toolrefine.types import Checkpoint, Completion, Message, Outcome, Sample

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=24)
SAMPLED = SamplingParams(temperature=1.0, max_new_tokens=24, seed=5)
PEAKED = SamplingParams(temperature=0.3, max_new_tokens=24, seed=5)
"""Completions of a prompt share much of what they say."""


def load(path: Path, **config: Any) -> TransformersEngine:
    return TransformersEngine.load(Checkpoint(model=str(path)), EngineConfig(device="cpu", **config), PromptConfig())


def generated(engine: TransformersEngine, model: Any, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
    """What Hugging Face's generate answers greedily; prompts of one length share a batch, so that none is padded."""
    texts: dict[int, str] = {}
    ids = [engine.chat.prompt_ids(sample.messages, sample.tools) for sample in samples]
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for length, group in groupby(by_length, key=lambda i: len(ids[i])):
        places = list(group)
        prompts = torch.tensor([ids[i] for i in places])
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=max_new_tokens, do_sample=False
        )
        for place, row in zip(places, out[:, length:].tolist(), strict=True):
            end = next((at for at, token in enumerate(row) if token in engine.eos_ids), len(row))
            texts[place] = engine.tokenizer.decode(row[:end], clean_up_tokenization_spaces=False)
    return [texts[place] for place in range(len(samples))]


class Recorder:
    """Keeps every state that completions are drawn from, with the tokens that led there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[tuple[int, ...], torch.Tensor]] = []
        states_of = Batch._states_of

        def record(batch: Batch, nodes: Any) -> torch.Tensor:
            states = states_of(batch, nodes)
            logits = dict(zip(nodes, batch.decoder.logits(states), strict=True))
            self.seen += [((*c.node.slot.job.ids, *c.ids), logits[c.node]) for c in batch.cursors]
            return states

        monkeypatch.setattr(Batch, "_states_of", record)

    def check(self, path: Path) -> None:
        """Compare with a full forward pass of the untouched model for each."""
        model = AutoModelForCausalLM.from_pretrained(path)
        expected: dict[tuple[int, ...], torch.Tensor] = {}
        whole: tuple[int, ...] = ()
        with torch.inference_mode():
            for ids in sorted({ids for ids, _ in self.seen}, reverse=True):
                if whole[: len(ids)] != ids:
                    whole = ids
                    logits = model(input_ids=torch.tensor([whole])).logits[0]
                expected[ids] = logits[len(ids) - 1]
        for ids, logits in self.seen:
            torch.testing.assert_close(logits, expected[ids], rtol=1e-5, atol=1e-5)


FAMILIES = {
    "Qwen3": SharedPrefixDecoder,
    "Llama": SharedPrefixDecoder,
    "Qwen2": SharedPrefixDecoder,
    "Mistral": SharedPrefixDecoder,
    "Gemma": ExpandedDecoder,
    "Mamba": type(None),
}


def make_model(folder: Path, family: str) -> Path:
    changes: dict[str, Any] = {"Mistral": {"sliding_window": None}, "Mamba": {"state_size": 4}}.get(family, {})
    return make_tiny_model(folder / family, family, **changes)


@given(
    rows=st.integers(1, 9),
    heads=st.integers(1, 3),
    queries=st.integers(1, 4),
    tokens=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_attention_in_parts_is_that_of_the_whole(rows: int, heads: int, queries: int, tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, keys, values = (
        torch.randn((rows, heads, *shape), generator=generator) for shape in ((queries, 8), (8, tokens), (tokens, 8))
    )
    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    whole = attention._attend(query, keys, values, attention._bias(lengths, tokens))
    with patch.object(attention, "CPU_SCORES", 50):
        parts = attention._attend(query, keys, values, attention._bias(lengths, tokens))
    for part, one in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, one)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_output_is_that_of_generate(tmp_path: Path, samples: list[Sample], family: str) -> None:
    path = make_model(tmp_path, family)
    engine = load(path, max_batch_rows=5)
    assert type(engine.decoder) is FAMILIES[family]
    model = AutoModelForCausalLM.from_pretrained(path)
    completions = engine.sample([to_prompt(sample) for sample in samples[:8]], 1, GREEDY)
    assert [c.text for (c,) in completions] == generated(engine, model, samples[:8], 24)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("size", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_greedy_output_of_nano_is_that_of_generate(size: int) -> None:
    engine = load(Path("nano"))
    model = load(Path("nano")).model
    model.set_attn_implementation("sdpa")
    world = list(generate("museum", size, 3))
    completions = engine.sample(
        [to_prompt(sample) for sample in world], 1, SamplingParams(temperature=0.0, max_new_tokens=64)
    )
    ours, theirs = [c.text for (c,) in completions], generated(engine, model, world, 64)
    different = [place for place in range(len(world)) if ours[place] != theirs[place]]
    assert len(different) <= 3 * size // 1000
    for place in different:  # two tokens were as likely as each other, up to the rounding of float32
        a, b = (engine.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ours[place], theirs[place]))
        same = next(at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
        ids = engine.chat.prompt_ids(world[place].messages, world[place].tools) + a[:same]
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        assert abs(logits[a[same]] - logits[b[same]]) < 1e-4
        assert max(logits[a[same]], logits[b[same]]) == logits.max()


@pytest.mark.parametrize("params", [SAMPLED, PEAKED], ids=["sampled", "peaked"])
@pytest.mark.parametrize("max_batch_rows", [3, 16])
@pytest.mark.parametrize("family", ["Qwen3", "Llama", "Qwen2", "Mistral", "Gemma"])
def test_logits_are_those_of_a_full_forward(
    tmp_path: Path,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    max_batch_rows: int,
    params: Any,
) -> None:
    path = make_model(tmp_path, family)
    engine, recorder = load(path, max_batch_rows=max_batch_rows), Recorder(monkeypatch)
    engine.eos_ids = {*range(0, 512, 12)}
    prompts = [to_prompt(sample) for sample in samples[:6]]
    groups = engine.sample(prompts, 4, params)
    assert len({c.num_tokens for group in groups for c in group}) > 3  # rows were dropped, and places refilled
    recorder.check(path)


def solves_some(place: int, index: int, completion: Completion) -> bool:
    return (place * 7 + index * 3) % 5 == 0


@pytest.mark.parametrize("max_batch_rows", [3, 16, 64])
@pytest.mark.parametrize("params", [SAMPLED, PEAKED], ids=["sampled", "peaked"])
@pytest.mark.parametrize("ends", [set(), {*range(0, 512, 20)}], ids=["of one length", "of many"])
def test_logits_in_waves_are_those_of_a_full_forward(
    tiny_model: Path,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    max_batch_rows: int,
    params: SamplingParams,
    ends: set[int],
) -> None:
    engine, recorder = load(tiny_model, max_batch_rows=max_batch_rows), Recorder(monkeypatch)
    engine.eos_ids |= ends
    engine.sample([to_prompt(sample) for sample in samples[:16]], 8, params, solves_some)
    recorder.check(tiny_model)


@pytest.mark.parametrize("params", [SAMPLED, PEAKED], ids=["sampled", "peaked"])
@pytest.mark.parametrize("family", ["Qwen3", "Llama"])
def test_logits_are_those_of_a_full_forward_in_the_batches_of_a_gpu(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, family: str, params: SamplingParams
) -> None:
    path = make_model(tmp_path, family)
    gpu, size_class = torch.device("cuda"), attention._size_class
    monkeypatch.setattr(attention, "_size_class", lambda num_rows, device: size_class(num_rows, gpu))
    monkeypatch.setitem(PREFILL_TOKENS, "cpu", PREFILL_TOKENS["cuda"])
    engine, recorder = load(path, max_batch_rows=16), Recorder(monkeypatch)
    engine.eos_ids |= {*range(0, 512, 20)}
    engine.sample([to_prompt(sample) for sample in samples[:16]], 8, params, solves_some)
    recorder.check(path)


@pytest.mark.parametrize("family", ["Qwen3", "Llama", "Gemma"])
def test_logits_of_refinement_rounds_are_those_of_a_full_forward(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    path = make_model(tmp_path, family)
    engine, recorder = load(path, max_batch_rows=5), Recorder(monkeypatch)
    refinements = refine(
        engine, [to_prompt(sample) for sample in samples[:10]], RefinementConfig(max_rounds=3), PromptConfig(), GREEDY
    )
    assert max(len(answers.rounds) for answers in refinements) > 2
    recorder.check(path)


@pytest.mark.parametrize("family", ["Qwen3", "Gemma", "Mamba"])
@pytest.mark.parametrize("max_batch_rows", [3, 4, 9])
@pytest.mark.parametrize("params", [SAMPLED, PEAKED], ids=["sampled", "peaked"])
def test_completions_do_not_depend_on_the_batch(
    tmp_path: Path, samples: list[Sample], family: str, max_batch_rows: int, params: SamplingParams
) -> None:
    path = make_model(tmp_path, family)
    prompts = [to_prompt(sample) for sample in samples[:8]]
    together = load(path).sample(prompts, 4, params)
    small = load(path, max_batch_rows=max_batch_rows, prefix_cache_gb=1e-5).sample(prompts[::-1], 4, params)[::-1]
    texts = [[c.text for c in group] for group in together]
    assert texts == [[c.text for c in group] for group in small]
    assert len({text for group in texts for text in group}) > 8
    for group, other in zip(together, small, strict=True):
        assert [c.mean_logprob for c in group] == pytest.approx([c.mean_logprob for c in other], abs=1e-5)


def test_prompts_keep_to_their_memory(tiny_model: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    short = [to_prompt(sample) for sample in samples]
    wordy = Message(role="system", content="word " * 200)
    long = [prompt.model_copy(update={"messages": (wordy, *prompt.messages)}) for prompt in short[:6]]
    chat, decoder = load(tiny_model).chat, load(tiny_model).decoder
    max_bytes = 2.5 * max(decoder.slot_bytes(len(chat.prompt_ids(prompt.messages, prompt.tools))) for prompt in long)
    engine = load(tiny_model, prefix_cache_gb=max_bytes / 2**30)
    sizes: list[int] = []
    nums_slots: list[int] = []
    add = SharedPrefixCache.add

    def measured(cache: SharedPrefixCache, slots: Sequence[int], prefilled: DynamicCache, *rest: Any) -> None:
        add(cache, slots, prefilled, *rest)
        assert len(slots) == 1 or sum(2 * layer.keys.nbytes for layer in prefilled.layers) <= max_bytes / 4
        sizes.append(sum(each.nbytes for layer in cache.prefix for each in layer))
        nums_slots.append(len(cache.slots))

    monkeypatch.setattr(SharedPrefixCache, "add", measured)
    for prompts in (short, long, [*long, *short]):
        nums_slots.clear()
        together = engine.sample(prompts, 2, SAMPLED)
        assert max(nums_slots) > 1
        for prompt, answers in zip(prompts, together, strict=True):
            assert [one.text for one in answers] == [one.text for one in engine.sample([prompt], 2, SAMPLED)[0]]
    assert max(sizes) <= max_bytes


@pytest.mark.parametrize("num_left", [0, 1, 2, 5, 7])
def test_it_goes_on_after_memory_has_run_out(
    tiny_model: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, num_left: int
) -> None:
    prompts = [to_prompt(sample) for sample in samples]
    expected = [[one.text for one in group] for group in load(tiny_model).sample(prompts, 2, SAMPLED)]
    engine = load(tiny_model)
    engine.sample(prompts[:2], 2, SAMPLED.model_copy(update={"max_new_tokens": 3}))
    left = iter(range(num_left))
    move = attention._moved

    def tight(*arguments: Any) -> torch.Tensor:
        if next(left, None) is None:
            raise torch.OutOfMemoryError
        return move(*arguments)

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(attention, "_moved", tight)
        engine.sample(prompts, 2, SAMPLED)
    assert [[one.text for one in group] for group in engine.sample(prompts, 2, SAMPLED)] == expected


def test_tokens_that_completions_agree_on_are_computed_once(tiny_model: Path, samples: list[Sample]) -> None:
    engine = load(tiny_model)
    num_rows: list[int] = []
    step = engine.decoder.step

    def count(slots: Sequence[int], *rest: Any) -> torch.Tensor:
        num_rows.append(len(slots))
        return step(slots, *rest)

    engine.decoder.step = count  # type: ignore[method-assign]
    ((*group,),) = engine.sample([to_prompt(samples[0])], 6, GREEDY)
    assert [c.text for c in group] == [group[0].text] * 6
    assert set(num_rows) == {1}


def test_more_completions_extend_fewer(tiny_model: Path, samples: list[Sample]) -> None:
    engine, prompts = load(tiny_model), [to_prompt(sample) for sample in samples[:4]]
    few, many = engine.sample(prompts, 2, SAMPLED), engine.sample(prompts, 5, SAMPLED)
    assert [[c.text for c in group] for group in few] == [[c.text for c in group[:2]] for group in many]


@pytest.mark.parametrize("params", [SAMPLED, PEAKED], ids=["sampled", "peaked"])
@pytest.mark.parametrize("max_batch_rows", [2, 7, 64])
def test_waves_give_the_first_completions_and_solve_the_same_prompts(
    tiny_model: Path, samples: list[Sample], max_batch_rows: int, params: SamplingParams
) -> None:
    engine, prompts = load(tiny_model, max_batch_rows=max_batch_rows), [to_prompt(sample) for sample in samples]
    every = load(tiny_model).sample(prompts, 8, params)
    seen: list[tuple[int, int]] = []

    def accept(place: int, index: int, completion: Completion) -> bool:
        seen.append((place, index))
        assert completion.text == every[place][index].text
        return solves_some(place, index, completion)

    groups = engine.sample(prompts, 8, params, accept)
    assert len(seen) == len(set(seen)) == sum(map(len, groups)) < 0.8 * sum(map(len, every))
    for place, (group, full) in enumerate(zip(groups, every, strict=True)):
        assert [c.text for c in group] == [c.text for c in full[: len(group)]]
        assert len(group) == 8 or any(solves_some(place, index, c) for index, c in enumerate(group))


def planned(accept: Accept, num_prompts: int) -> list[int]:
    """How many completions each prompt gets, one prompt after the other."""
    planner, counts = WavePlanner(8, accept), []
    blank = Completion(text="", outcome=Outcome.NO_CALL, num_tokens=1, mean_logprob=0.0)
    for place in range(num_prompts):
        completions: list[Completion] = []
        wave = planner.next_wave(place, completions, 0)
        while wave:
            completions += [blank for _ in wave]
            wave = planner.next_wave(place, completions, len(wave))
        counts.append(len(completions))
    return counts


def test_waves_stop_where_a_prompt_is_solved_and_are_given_up_where_few_are() -> None:
    rest = 20 - NUM_PROBES
    assert planned(lambda place, index, _: index == 0, 20) == [8] * NUM_PROBES + [1] * rest
    assert planned(lambda place, index, _: index == 3, 20) == [8] * NUM_PROBES + [4] * rest
    assert planned(lambda place, index, _: False, 20) == [8] * 20
    assert planned(lambda place, index, _: index == 7, 20) == [8] * 20


def test_noise_depends_on_its_keys_alone() -> None:
    first = noise("a", 0, SAMPLED)
    assert first.shape == (24,)
    assert np.array_equal(first, noise("a", 0, SAMPLED))
    assert not np.array_equal(first, noise("b", 0, SAMPLED))
    assert not np.array_equal(first, noise("a", 1, SAMPLED))


def test_sampled_frequencies_agree_with_the_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    num = 20_000
    uniform = np.random.Generator(np.random.Philox(1)).random(num).tolist()
    for temperature in (1.0, 0.5):
        params = SamplingParams(temperature=temperature)
        chosen, logprobs = choose(logits.expand(4, -1), [i % 4 for i in range(num)], uniform, params)
        expected = (logits / temperature).softmax(-1) * num
        observed = torch.bincount(torch.tensor(chosen), minlength=5)
        chi_squared = ((observed - expected) ** 2 / expected).sum().item()
        assert chi_squared < 18.5  # 99.9 % quantile for 4 degrees of freedom
        assert torch.allclose(torch.tensor(logprobs), logits.log_softmax(-1)[chosen])


def test_completions_of_a_model_are_as_frequent_as_its_probabilities(tiny_model: Path, samples: list[Sample]) -> None:
    engine, prompt = load(tiny_model), to_prompt(samples[0])
    num = 3_000
    params = SamplingParams(temperature=0.5, max_new_tokens=2, seed=1)
    prompts = [prompt.model_copy(update={"id": f"again-{i}"}) for i in range(num // 50)]
    texts = [c.text for group in engine.sample(prompts, 50, params) for c in group]
    ids = engine.chat.prompt_ids(prompt.messages, prompt.tools)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    expected: dict[str, float] = {}

    def text_of(tokens: list[int]) -> str:
        kept = [token for token in tokens if token not in engine.eos_ids]
        return str(engine.tokenizer.decode(kept, clean_up_tokenization_spaces=False))

    with torch.inference_mode():
        first = (model(torch.tensor([ids])).logits[0, -1] / 0.5).softmax(-1)
        likely = [token for token in range(len(first)) if first[token] > 1e-3]
        after = (model(torch.tensor([[*ids, token] for token in likely])).logits[:, -1] / 0.5).softmax(-1)
    for token, second in zip(likely, after, strict=True):
        if token in engine.eos_ids:
            expected[""] = expected.get("", 0.0) + float(first[token])
            continue
        for other in range(len(second)):
            text = text_of([token, other])
            expected[text] = expected.get(text, 0.0) + float(first[token] * second[other])
    frequent = {text: share * num for text, share in expected.items() if share * num >= 8}
    rest = num - sum(frequent.values())
    chi_squared = sum((texts.count(text) - count) ** 2 / count for text, count in frequent.items())
    if rest >= 8:
        chi_squared += (sum(text not in frequent for text in texts) - rest) ** 2 / rest
    freedom = len(frequent)
    assert freedom > 3
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5  # four standard deviations


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    uniform = torch.linspace(0, 0.999, 500, dtype=torch.float64).tolist()
    chosen, _ = choose(logits, [0] * 500, uniform, SamplingParams(top_p=0.7))
    assert set(chosen) == {0, 1}


@pytest.mark.parametrize("family", ["Qwen3", "Gemma", "Mamba"])
def test_a_prompt_without_room_for_an_answer_is_data(
    tmp_path: Path, samples: list[Sample], family: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(make_model(tmp_path, family), max_batch_rows=1)
    engine.max_positions = 30
    caplog.set_level("INFO", "toolrefine")
    (group,) = engine.sample([to_prompt(samples[0])], 2, GREEDY)
    engine.chain([to_prompt(samples[0])] * 2, GREEDY, lambda place, chain: None)
    said = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
    assert [sentence.split("; ")[-1] for sentence in said] == ["prompts: 1", "prompts: 2"]
    assert [(c.outcome, c.num_tokens) for c in group] == [(Outcome.TRUNCATED, 0)] * 2
    ((refined),) = refine(engine, [to_prompt(samples[0])], RefinementConfig(), PromptConfig(), GREEDY)
    assert refined.draft.outcome is Outcome.TRUNCATED


def test_the_context_of_a_multi_modal_model_is_that_of_its_text(tmp_path: Path, tiny_model: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**sizes, "vocab_size": 512, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1536}
    config = Gemma3Config(text_config=text, vision_config={**sizes, "image_size": 28}, mm_tokens_per_image=4)
    engine = load(tiny_model)
    model = Gemma3ForConditionalGeneration(config)
    assert TransformersEngine(model, engine.tokenizer, engine.config, PromptConfig()).max_positions == 1536


def test_a_token_that_the_model_lacks_is_named(tmp_path: Path, samples: list[Sample]) -> None:
    engine = load(make_model(tmp_path, "Qwen3"))
    engine.tokenizer.add_tokens([f"<unused{i}>" for i in range(512)], special_tokens=True)
    prompt = to_prompt(samples[0])
    strange = prompt.model_copy(update={"messages": (Message(role="user", content="What is <unused500>?"),)})
    answer = Completion(text="<unused500>", outcome=Outcome.NO_CALL, num_tokens=2, mean_logprob=None)
    assert engine.sample([prompt], 1, GREEDY)
    for attempt in (
        lambda: engine.sample([prompt, strange], 1, GREEDY),
        lambda: engine.chain([strange], GREEDY, lambda place, chain: None),
        lambda: engine.score([prompt], [answer]),
    ):
        with pytest.raises(RequestError, match=rf"^{prompt.id}: holds '<unused500>'.* resize") as caught:
            attempt()
        assert "first 512 alone" in str(caught.value)


@pytest.mark.parametrize("family", ["Qwen3", "Llama"])
def test_refinement_goes_on_from_what_the_draft_has_computed(
    tmp_path: Path, samples: list[Sample], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(make_model(tmp_path, family), max_batch_rows=5)
    prompts = [to_prompt(sample) for sample in samples[:12]]
    num_tokens = 0
    forward = engine.model.model.forward

    def count(input_ids: torch.Tensor, **options: Any) -> Any:
        nonlocal num_tokens
        num_tokens += input_ids.numel() if "shared_prefix" not in options else 0
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(engine.model.model, "forward", count)
    asked = []
    chain = engine.chain

    def keep(prompts: Any, params: Any, follow: Any) -> Any:
        def follow_and_keep(place: int, rounds: Any) -> Any:
            following = follow(place, rounds)
            asked.append(following)
            return following

        return chain(prompts, params, follow_and_keep)

    monkeypatch.setattr(engine, "chain", keep)
    answers = refine(engine, prompts, RefinementConfig(max_rounds=3), PromptConfig(), GREEDY)
    few, num_tokens = num_tokens, 0
    rounds = engine.sample([prompt for prompt in asked if prompt], 1, GREEDY)
    engine.sample(prompts, 1, GREEDY)
    assert sorted(c.text for each in answers for c in each.rounds[1:]) == sorted(c.text for (c,) in rounds)
    assert max(len(each.rounds) for each in answers) > 2
    assert few < 0.6 * num_tokens


@pytest.mark.parametrize("family", ["Qwen3", "Llama", "Mistral", "Gemma", "Mamba"])
def test_scores_are_those_of_a_full_forward(tmp_path: Path, samples: list[Sample], family: str) -> None:
    path = make_model(tmp_path, family)
    engine = load(path)
    prompts = [to_prompt(sample) for sample in samples[:6]]
    pairs = []
    for prompt, (one, other) in zip(prompts, engine.sample(prompts, 2, SAMPLED), strict=True):
        pairs += [(prompt, one), (prompt, other), (refinement_prompt(prompt, one, 1, PromptConfig()), other)]
    other_end = pairs[0][1].model_copy(update={"outcome": Outcome.NO_CALL})
    pairs += [(prompts[5], pairs[0][1]), (prompts[0], other_end), (prompts[0], NO_ROOM)]
    model = AutoModelForCausalLM.from_pretrained(path)
    for (prompt, completion), found in zip(pairs, engine.score(*zip(*pairs, strict=True)), strict=True):
        ids, answer = engine.chat.prompt_ids(prompt.messages, prompt.tools), answer_ids(engine.chat, completion)
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
        expected = sum(logprobs[len(ids) + place - 1, token].item() for place, token in enumerate(answer))
        assert found == pytest.approx(expected, abs=1e-4)
    assert answer_ids(engine.chat, other_end)[-1] == engine.tokenizer.eos_token_id


def test_beginnings_keep_to_their_memory_while_answers_are_scored(
    tiny_model: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Counting(Beginnings):
        def __init__(self, known: Sequence[Prefix], nums_shared: Sequence[int]) -> None:
            super().__init__(known, nums_shared)
            sizes.append(sum(each.nbytes for layer in self.layers for each in layer))

    monkeypatch.setattr("toolrefine.engines.prefill.Beginnings", Counting)
    pairs = [(to_prompt(sample), sample.target) for sample in samples for _ in range(2)]
    prompts, turns = zip(*pairs, strict=True)
    whole = load(tiny_model).score(prompts, turns)
    most = max(sizes) // 3
    sizes.clear()
    assert load(tiny_model, prefix_cache_gb=2 * most / 2**30).score(prompts, turns) == pytest.approx(whole, abs=1e-3)
    assert max(sizes) <= most
    assert load(tiny_model, prefix_cache_gb=0.0).score(prompts, turns) == pytest.approx(whole, abs=1e-3)


def test_a_score_is_what_sampling_has_told(tiny_model: Path, samples: list[Sample]) -> None:
    """Where the model's tokens are those that the tokenizer makes of their text."""
    engine, prompts = load(tiny_model), [to_prompt(sample) for sample in samples]
    answers = [group[0] for group in engine.sample(prompts, 1, GREEDY)]
    num_same = 0
    for answer, found in zip(answers, engine.score(prompts, answers), strict=True):
        if len(answer_ids(engine.chat, answer)) == answer.num_tokens:
            num_same += 1
            assert found == pytest.approx((answer.mean_logprob or 0.0) * answer.num_tokens, abs=1e-3)
    assert num_same > 3


def test_an_answer_without_room_has_no_probability(tiny_model: Path, samples: list[Sample]) -> None:
    engine = load(tiny_model)
    engine.max_positions = 30
    text = Completion(text="a", outcome=Outcome.NO_CALL, num_tokens=2, mean_logprob=None)
    assert engine.score([to_prompt(samples[0])], [text]) == [-math.inf]


def server_engine(tiny_model: Path, url: str) -> OpenAIEngine:
    config = EngineConfig(kind="openai", base_url=url, served_model="nano", retry_pause_s=0.01)
    return OpenAIEngine.load(Checkpoint(model=str(tiny_model)), config, PromptConfig())


def test_a_server_scores_by_the_log_probabilities_of_its_prompts(tiny_model: Path, samples: list[Sample]) -> None:
    def scored(body: dict[str, Any]) -> str:
        told = [{str(token): {"logprob": -token / 100}, "-1": {"logprob": -9.0}} for token in body["prompt"]]
        return json.dumps({"choices": [{"text": "", "prompt_logprobs": [None, *told[1:]]}]})

    answers = [Completion(text=text, outcome=Outcome.NO_CALL, num_tokens=1, mean_logprob=None) for text in ("a", "bc")]
    turns = [Message(role="assistant", content=answer.text) for answer in answers]
    prompts = [to_prompt(sample) for sample in samples[:2]]
    with fake_server(fault_of=scored) as (_, url):
        engine = server_engine(tiny_model, url)
        expected = [-sum(answer_ids(engine.chat, answer)) / 100 for answer in answers]
        assert engine.score(prompts, answers) == pytest.approx(expected)
        assert engine.score(prompts, turns) == pytest.approx(expected)
        engine.close()


def test_a_server_that_takes_no_token_ids_is_not_asked_for_scores(tiny_model: Path, samples: list[Sample]) -> None:
    with fake_server() as (server, url):
        config = EngineConfig(kind="openai", base_url=url, served_model="nano", api="chat")
        engine = OpenAIEngine.load(Checkpoint(model=str(tiny_model)), config, PromptConfig())
        prompt = to_prompt(samples[0])
        [[answer]] = engine.sample([prompt], 1, GREEDY)
        asked = len(server.bodies)
        with pytest.raises(RequestError, match="takes no token ids"):
            engine.score([prompt], [answer])
        assert len(server.bodies) == asked
        engine.close()


@pytest.mark.parametrize("fault", [None, 400, '{"choices": [{"prompt_logprobs": [null, {"7": 1}]}]}', '{"choices": 3}'])
def test_a_server_that_cannot_score_is_a_request_error(
    tiny_model: Path, samples: list[Sample], fault: int | str | None
) -> None:
    answer = Completion(text="a", outcome=Outcome.NO_CALL, num_tokens=1, mean_logprob=None)
    with fake_server(fault_of=lambda body: fault) as (_, url):
        engine = server_engine(tiny_model, url)
        with pytest.raises(RequestError, match="prompt_logprobs"):
            engine.score([to_prompt(samples[0])], [answer])
        engine.close()


def test_a_device_that_there_is_not_is_told_before_the_model_is_loaded() -> None:
    with pytest.raises(RequestError, match=r"device=nowhere: cannot be used: "):
        TransformersEngine.load(Checkpoint(model="gone"), EngineConfig(device="nowhere"), PromptConfig())
