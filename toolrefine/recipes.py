"""Reading recipes and policies: TOML files, with key=value overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolrefine.config import Config, RefinementConfig, describe
from toolrefine.errors import ConfigError


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply key=value overrides such as rollout.k=16 or datasets.0.size=500.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, or a value does not fit.
    """
    tree = read_toml(path, "no such recipe; the ones that come with toolrefine are in recipes/")
    for override in overrides:
        apply_override(tree, override)
    tree.setdefault("run", f"runs/{path.stem}")
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error, Config)}") from None
    if config.rollout.waves is True and config.selection.policy != "solvable":
        raise ConfigError(f"{path}: rollout.waves=true needs selection.policy=solvable: other policies count all k")
    if config.refinement.needs_constraint and config.engine.kind == "openai":
        raise ConfigError(
            f"{path}: refinement.constrain and how=constrain need engine.kind=transformers; take how=resample"
        )
    return config


def load_policy(path: Path) -> RefinementConfig:
    """Read the [refinement] table of a file, such as `toolrefine calibrate` writes; other tables are passed over.

    Raises:
        ConfigError: the file is missing or not TOML, it has no such table, or a value does not fit.
    """
    tree = read_toml(path, "no such policy; toolrefine calibrate writes one")
    if not isinstance(tree.get("refinement"), dict):
        raise ConfigError(f"{path}: no table [refinement]; toolrefine calibrate writes one")
    try:
        return RefinementConfig.model_validate(tree["refinement"])
    except ValidationError as error:
        raise ConfigError(f"{path}: refinement.{describe(error, RefinementConfig)}") from None


def read_toml(path: Path, missing: str = "no such file") -> dict[str, Any]:
    """The tree of a TOML file; missing says what to do where there is none.

    Raises:
        ConfigError: the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: {missing}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one key=value in a config tree; the value is TOML, or else a plain string.

    A number in the key is a place in a list, or the one behind its end, where an entry is added.

    Raises:
        ConfigError: not of the form key=value, or the key leads through something that is no table.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{override!r}: an override has the form key=value, such as rollout.k=16")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    node: Any = tree
    for part, following in pairwise([*parents, last]):
        node = _descend(node, part, key, [] if following.isdecimal() else {})
    if isinstance(node, list):
        _descend(node, last, key, value)
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"{key}: {parents[-1]} is a plain value and has no keys of its own")


def _descend(node: Any, part: str, key: str, new: Any) -> Any:
    """What stands in a table or a list, new where nothing does yet."""
    if isinstance(node, dict):
        return node.setdefault(part, new)
    if isinstance(node, list):
        if part.isdecimal() and int(part) <= len(node):
            if int(part) == len(node):
                node.append(new)
            return node[int(part)]
        raise ConfigError(f"{key}: {part} is no index into a list of {len(node)}; indices start at 0")
    raise ConfigError(f"{key}: {part} is below a plain value")
