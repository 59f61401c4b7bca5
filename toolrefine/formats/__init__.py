"""Wire formats: how calls are written in the text of a model, one format a file."""

from __future__ import annotations

from toolrefine.errors import ConfigError
from toolrefine.formats.base import Parsed, WireFormat
from toolrefine.formats.deepseek_v3 import DeepSeekV3
from toolrefine.formats.glm4 import Glm4
from toolrefine.formats.granite import Granite
from toolrefine.formats.hermes import Hermes
from toolrefine.formats.kimi_k2 import KimiK2
from toolrefine.formats.llama3_json import Llama3Json
from toolrefine.formats.llama4_pythonic import Llama4Pythonic
from toolrefine.formats.mistral import Mistral
from toolrefine.formats.phi4_json import Phi4Json
from toolrefine.formats.pythonic import Pythonic
from toolrefine.formats.qwen3_xml import Qwen3Xml
from toolrefine.formats.xlam import Xlam

__all__ = ["FORMATS", "Parsed", "WireFormat", "get_format"]

FORMATS: dict[str, WireFormat] = {
    wire_format.name: wire_format
    for wire_format in (
        Pythonic(),
        Hermes(),
        Llama3Json(),
        Mistral(),
        Xlam(),
        Qwen3Xml(),
        Granite(),
        DeepSeekV3(),
        Glm4(),
        KimiK2(),
        Phi4Json(),
        Llama4Pythonic(),
    )
}
"""By name, mostly that of vLLM's parser. Of two that read what a template writes, the first is taken."""


def get_format(name: str) -> WireFormat:
    """Look up a format by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"prompt.format: no wire format {name!r}; there are {', '.join(sorted(FORMATS))}")
    return FORMATS[name]
