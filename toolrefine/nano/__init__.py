"""nano: the small base model that comes with toolrefine. README.md in this folder is its model card."""

from pathlib import Path

NANO_DIR = Path(__file__).parent
"""The folder that transformers loads as model and tokenizer."""
