"""Write a hash of BFCL's own prompts for each single-turn category as a golden file.

BFCL/bin/python tests/benchmarks/bfcl_prompts.py

BFCL is an environment as in bfcl_official.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from bfcl_score import stand_in

GOLDEN = Path(__file__).parent / "golden" / "bfcl_prompts.json"


def fingerprint(prompts: Iterable[list[dict[str, str]]]) -> str:
    """A hash of prompts, each a list of messages with role and content."""
    digest = hashlib.sha256()
    for messages in prompts:
        digest.update(json.dumps([[each["role"], each["content"]] for each in messages]).encode())
    return digest.hexdigest()


def main() -> None:
    stand_in()
    with contextlib.redirect_stdout(sys.stderr):
        from bfcl_eval.constants.category_mapping import SINGLE_TURN_CATEGORY
        from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler
        from bfcl_eval.utils import load_dataset_entry

    handler = OpenAICompletionsHandler("any", 0, "any", is_fc_model=False)
    hashes = {}
    for category in SINGLE_TURN_CATEGORY:
        entries = load_dataset_entry(category)
        for entry in entries:
            handler._pre_query_processing_prompting(entry)
        hashes[category] = fingerprint(entry["question"][0] for entry in entries)
    GOLDEN.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
