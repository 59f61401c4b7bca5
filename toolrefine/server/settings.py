"""What a server is told: on the command line, in a TOML file, or by a request for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError

from toolrefine.config import EngineConfig, PromptConfig, RefinementConfig, describe
from toolrefine.errors import ConfigError
from toolrefine.models import settle_prompt
from toolrefine.recipes import apply_override, read_toml
from toolrefine.types import Checkpoint, Record

SUFFIX = ":refined"
"""Behind the name of a model: refine the answer to this request."""

HEADER = b"x-toolrefine-"
REQUEST_HEADERS = {
    HEADER + name.replace("_", "-").encode(): name for name in ("max_rounds", "when", "how", "min_logprob", "accept")
}
"""What a request may set for itself."""


class LimitsConfig(Record):
    """What keeps a server up whatever it is asked and answered."""

    max_body_mb: float = Field(default=32.0, gt=0.0)
    """Of a request; 413 beyond it."""
    max_reply_mb: float = Field(default=16.0, gt=0.0)
    """Of an answer to be refined. A longer draft is passed on as it comes, a longer answer of a later round dropped."""
    max_concurrency: int = Field(default=1024, ge=1)
    """Requests worked on at once."""
    max_queue: int = Field(default=1024, ge=0)
    """Requests waiting beyond these; 429 beyond that."""
    deadline_s: float = Field(default=600.0, gt=0.0)
    """Seconds for a request with all its rounds, waiting and reading included."""
    connect_s: float = Field(default=5.0, gt=0.0)
    """Seconds until the upstream must have taken a connection."""
    keepalive_s: float = Field(default=10.0, gt=0.0)
    """Seconds of silence in a stream after which a comment is sent."""
    drain_s: float = Field(default=60.0, ge=0.0)
    """Seconds that requests at work have to end when the server is told to stop."""
    max_rounds: int = Field(default=8, ge=0)
    """The most that a request may ask for."""


class ServerConfig(Record):
    """One server."""

    upstream: str = ""
    """Base URL of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str = ""
    """nano, a folder or a hub name: answer in this process instead."""
    adapter: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    opt_in: bool = False
    """Refine only for requests that ask for it, by header or model name; otherwise all with tools."""
    convert_text_calls: bool = True
    """Calls that the upstream left as text in an answer to be refined become tool_calls. Costs no round."""
    report: bool = False
    """Add a field toolrefine to refined answers: rounds, stop reasons, and whether the draft was changed."""
    log_requests: bool = True
    """One JSON line a request."""
    log_contents: bool = False
    """Drafts and final answers in these lines."""
    api_key: SecretStr = SecretStr("")
    """What clients must show. Their Authorization is then not forwarded."""
    upstream_key: SecretStr = SecretStr("")
    """What the upstream is shown in place of the client's Authorization."""
    refinement: RefinementConfig = RefinementConfig(max_rounds=2, when="invalid", how="explain", accept="valid")
    prompt: PromptConfig = PromptConfig()
    engine: EngineConfig = EngineConfig()
    max_new_tokens: int = Field(default=512, ge=1)
    """model: tokens of an answer where a request does not say."""
    max_wait_s: float = Field(default=0.005, ge=0.0)
    """model: how long a batch waits for requests to join it."""
    limits: LimitsConfig = LimitsConfig()


def load_settings(path: Path | None, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> ServerConfig:
    """A TOML file, then what the command line names, then its KEY=VALUE; prompt settings else as the model was trained.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, a value does not fit, or the two sources of answers are
            both given or both missing.
        RequestError: the prompt settings beside the model are not readable.
    """
    tree = {} if path is None else read_toml(path)
    defaults = ServerConfig().refinement.model_dump()
    tree["refinement"] = {**defaults, **_table(tree, "refinement", path)}
    for key, value in values.items():
        if isinstance(value, dict):
            tree[key] = {**_table(tree, key, path), **value}
        else:
            tree[key] = value
    for override in overrides:
        apply_override(tree, override)
    model, adapter, prompt = (tree.get(key) for key in ("model", "adapter", "prompt"))
    if isinstance(model, str) and isinstance(adapter or "", str) and isinstance(prompt or {}, dict):
        tree["prompt"] = settle_prompt(Checkpoint(model=model, adapter=adapter or None), prompt or {})
    try:
        config = ServerConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path or 'serve'}: {describe(error, ServerConfig)}") from None
    if bool(config.upstream) == bool(config.model):
        raise ConfigError("serve: name either an upstream (--upstream URL) or a model (--model M)")
    _check_policy(config.refinement, "refinement", config)
    if config.upstream and not config.upstream.startswith(("http://", "https://")):
        raise ConfigError(f"upstream {config.upstream}: must begin with http:// or https://")
    return config


def _check_policy(policy: RefinementConfig, where: str, config: ServerConfig) -> None:
    if policy.accept == "likelier" and not policy.asks_afresh:
        raise ConfigError(
            f"{where}: accept=likelier: answers cannot be scored through the chat API; set accept=valid or how=resample"
        )
    if policy.needs_constraint and config.upstream:
        raise ConfigError(
            f"{where}: constrain and how=constrain: the chat API cannot bind an answer to its tools; set how=explain, "
            "or answer in this process (--model)"
        )


def _table(tree: Mapping[str, Any], key: str, path: Path | None) -> dict[str, Any]:
    table = tree.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {key} must be a table")
    return table


def policy_of(
    headers: Sequence[tuple[bytes, bytes]], config: ServerConfig, *, has_suffix: bool
) -> RefinementConfig | None:
    """How to refine the answer to a request, None where it passes through.

    Raises:
        ConfigError: a header does not fit.
    """
    own = {REQUEST_HEADERS[name]: value.decode("latin-1") for name, value in headers if name in REQUEST_HEADERS}
    policy = config.refinement
    if own:
        try:
            policy = RefinementConfig.model_validate({**policy.model_dump(), **own})
        except ValidationError as error:
            raise ConfigError(f"X-Toolrefine headers: {describe(error)}") from None
        _check_policy(policy, "X-Toolrefine headers", config)
        if policy.max_rounds > max(config.limits.max_rounds, config.refinement.max_rounds):
            raise ConfigError(f"X-Toolrefine-Max-Rounds: {policy.max_rounds} is more than {config.limits.max_rounds}")
    asked = has_suffix or "max_rounds" in own
    return policy if policy.acts and (asked or not config.opt_in) else None
