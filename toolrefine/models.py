"""Loading models and tokenizers: hub names, folders, and nano. Heavy libraries are imported on use."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolrefine.config import PromptConfig, describe
from toolrefine.errors import RequestError
from toolrefine.nano import NANO_DIR
from toolrefine.rundir import write_json
from toolrefine.types import Checkpoint

PROMPT_FILE = "toolrefine_prompt.json"
"""In the folder of a model or an adapter: the prompt settings that it has been trained with."""
_ASKED_WITH = {"style", "format", "template_kwargs", "refine"}
"""The prompt settings on which answers depend."""

log = logging.getLogger(__name__)


def resolve_model(name: str) -> str:
    """What transformers is asked to load: nano stands for the model that comes with toolrefine."""
    return str(NANO_DIR) if name == "nano" else name


def refuse_adapter(name: str) -> None:
    """Refuse to train what transformers would load as an adapter on its model: a new adapter would take its place.

    Raises:
        RequestError: the folder holds an adapter and no model.
    """
    folder = Path(resolve_model(name))
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise RequestError(
            f"model={name}: is an adapter, and what it has learned would be lost; merge it into its model first, see "
            "docs/training.md"
        )


def fingerprint(checkpoint: Checkpoint) -> str:
    """What tells the files of a local model from others in the same place later; empty for one from the hub."""
    digest = hashlib.sha256()
    for name in filter(None, (checkpoint.model, checkpoint.adapter)):
        folder = Path(resolve_model(name))
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            found = path.stat()
            if path.suffix in (".safetensors", ".bin", ".json", ".jinja"):
                digest.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return "" if digest.digest() == hashlib.sha256().digest() else digest.hexdigest()[:16]


def save_prompt(folder: Path, prompt: PromptConfig) -> None:
    """Put the prompt settings of a training beside the model that it makes."""
    write_json(folder / PROMPT_FILE, prompt.model_dump(include=_ASKED_WITH))


def trained_prompt(checkpoint: Checkpoint) -> dict[str, Any]:
    """The prompt settings that a checkpoint was trained with, the adapter's first; empty where none were saved.

    Raises:
        RequestError: the file is not readable.
    """
    for name in filter(None, (checkpoint.adapter, checkpoint.model)):
        path = Path(resolve_model(name)) / PROMPT_FILE
        if path.is_file():
            try:
                return PromptConfig.model_validate_json(path.read_bytes()).model_dump(include=_ASKED_WITH)
            except (OSError, ValidationError) as error:
                problem = describe(error) if isinstance(error, ValidationError) else error.strerror
                raise RequestError(f"{path}: not the prompt settings of a model: {problem}; delete it") from None
    return {}


def settle_prompt(checkpoint: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt settings: those given, which are said to differ where they do, and else what the model was trained with.

    Raises:
        RequestError: the settings beside the model are not readable.
    """
    trained, name = trained_prompt(checkpoint), checkpoint.adapter or checkpoint.model
    usual = PromptConfig().model_dump()
    for key, value in trained.items():
        if given.get(key, value) != value:
            used = given[key]
            log.warning("%s was trained with prompt.%s=%s, and is used with prompt.%s=%s", name, key, value, key, used)
        elif key not in given and value != usual[key]:
            log.info("%s is used with prompt.%s=%s, as it was trained", name, key, value)
    return {**trained, **given}


def load_outline(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """The modules of a checkpoint's model without any weights, which takes neither time nor memory.

    Raises:
        RequestError: there is no such model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _load(AutoConfig, checkpoint.model, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def resolve_device(name: str) -> str:
    """Auto is the first GPU, else the CPU.

    Raises:
        RequestError: there is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    mend = "set engine.device and sft.device"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"device={name}: cannot be used: {_first_line(error)}; {mend}") from error
    # Counted, not tried: that would take memory on it, which a server may need.
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise RequestError(f"device={name}: cannot be used: torch finds {num_gpus} GPUs; {mend}")
    return name


def load_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a checkpoint's model, with a pad token.

    Raises:
        RequestError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, checkpoint.model, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    checkpoint: Checkpoint, *, dtype: str, device: str, trust_remote_code: bool = False, trainable: bool = False
) -> Any:
    """A causal language model. An adapter is merged into the weights, unless it is to be trained on.

    Raises:
        RequestError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    model = _load(AutoModelForCausalLM, checkpoint.model, dtype=dtype, trust_remote_code=trust_remote_code)
    if checkpoint.adapter is not None:
        from peft import PeftModel
        from safetensors import SafetensorError

        try:
            model = PeftModel.from_pretrained(model, checkpoint.adapter, is_trainable=trainable)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise RequestError(
                f"adapter {checkpoint.adapter} of model={checkpoint.model}: cannot be loaded: {_first_line(error)}"
            ) from error
        model = model if trainable else model.merge_and_unload()
    try:
        return model.to(device).train(trainable)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(
            f"device={device}: cannot hold the model: {_first_line(error)}; set engine.device and sft.device"
        ) from error


def generation_eos_ids(checkpoint: Checkpoint) -> set[int]:
    """What ends a turn by the generation config that stands beside a checkpoint's model; empty where there is none."""
    from transformers import GenerationConfig

    try:
        return _as_set(GenerationConfig.from_pretrained(resolve_model(checkpoint.model)).eos_token_id)
    except OSError:
        return set()


def eos_token_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a turn: the tokenizer's and those of the generation config."""
    generation = getattr(model, "generation_config", None)
    return _as_set(tokenizer.eos_token_id) | _as_set(getattr(generation, "eos_token_id", None))


def check_ids(ids: Sequence[int], model: Any, tokenizer: Any, name: str) -> None:
    """Make sure that a model has an embedding of each token of a sample: a tokenizer may have ids that it lacks.

    Raises:
        RequestError: it has not.
    """
    num_tokens = model.get_input_embeddings().weight.shape[0]
    token = max(ids, default=0)
    if token >= num_tokens:
        raise RequestError(
            f"{name}: holds {tokenizer.convert_ids_to_tokens(token)!r}, the tokenizer's token {token}, and the model "
            f"has embeddings of the first {num_tokens} alone; resize its embeddings (resize_token_embeddings), or "
            "use the tokenizer that it was trained with"
        )


def _as_set(ids: int | list[int] | None) -> set[int]:
    return {*ids} if isinstance(ids, list) else set() if ids is None else {ids}


def _load(auto_class: Any, name: str, **options: Any) -> Any:
    from safetensors import SafetensorError

    try:
        return auto_class.from_pretrained(resolve_model(name), **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RequestError(
            f"model={name}: cannot be loaded: {_first_line(error)}; "
            "name nano, a folder with config.json, or a model of the hub"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
