"""Wire formats: how calls are written in the text of a model, one format a file."""

from __future__ import annotations

from toolrefine.errors import ConfigError
from toolrefine.formats.base import Parsed, WireFormat
from toolrefine.formats.hermes import Hermes
from toolrefine.formats.llama3_json import Llama3Json
from toolrefine.formats.pythonic import Pythonic

__all__ = ["FORMATS", "Parsed", "WireFormat", "get_format"]

FORMATS: dict[str, WireFormat] = {"pythonic": Pythonic(), "hermes": Hermes(), "llama3_json": Llama3Json()}


def get_format(name: str) -> WireFormat:
    """Look up a format by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"prompt.format: no wire format {name!r}; there are {', '.join(sorted(FORMATS))}")
    return FORMATS[name]
