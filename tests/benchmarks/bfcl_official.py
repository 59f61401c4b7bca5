"""Ask BFCL's own code for its verdicts on the cases of bfcl_cases.py, and write them as golden files.

    python -m venv BFCL && BFCL/bin/pip install --no-deps bfcl-eval==2026.3.23 tree_sitter==0.21.3 \
        tree-sitter-java==0.21.0 tree-sitter-javascript==0.21.4 tenacity filelock mpmath
    BFCL/bin/python tests/benchmarks/bfcl_official.py

Prints how often each verdict and each kind of decoding came out.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
import types
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bfcl_cases import check_cases, decode_cases, fingerprint, language_of

GOLDEN = Path(__file__).parent / "golden"


class Official:
    """BFCL's checker and decoder."""

    def __init__(self) -> None:
        os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.gettempdir())
        # The real module imports the client libraries of all model vendors.
        models = types.ModuleType("bfcl_eval.constants.model_config")
        models.MODEL_CONFIG_MAPPING = {  # type: ignore[attr-defined]
            name: types.SimpleNamespace(underscore_to_dot=name == "underscores") for name in ("dots", "underscores")
        }
        sys.modules[models.__name__] = models
        from bfcl_eval.constants.enums import Language, ReturnFormat
        from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
        from bfcl_eval.model_handler import utils

        self.languages, self.formats = Language, ReturnFormat
        self.checker, self.decoder = ast_checker, utils.default_decode_ast_prompting

    def check(self, case: dict[str, Any]) -> dict[str, Any]:
        return self.checker(
            case["functions"],
            case["prediction"],
            case["possible_answer"],
            self.languages(language_of(case["category"])),
            case["category"],
            "underscores" if case["underscore_to_dot"] else "dots",
        )

    def decode(self, text: str, language: str) -> Any:
        return self.decoder(text, self.formats(language))


def check_golden(official: Official, case: dict[str, Any]) -> str:
    """The error type, "" for a right prediction, "raises" where the checker does."""
    try:
        result = official.check(case)
    except Exception:
        return "raises"
    return "" if result["valid"] else result["error_type"]


def decode_golden(official: Official, text: str, language: str) -> dict[str, Any]:
    """The decoded calls as Python writes them, or why there are none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calls = official.decode(text, language)
    except Exception:
        return {"error": "failed"}
    return {"calls": repr(calls)} if isinstance(calls, list) else {"error": "empty"}


def write_golden(name: str, cases: list[Any], rows: list[Any]) -> None:
    head = {"bfcl_eval": version("bfcl_eval"), "python": sys.version.split()[0], "cases": fingerprint(cases)}
    lines = "".join(json.dumps(row) + "\n" for row in [head, *rows])
    (GOLDEN / name).write_bytes(gzip.compress(lines.encode(), mtime=0))


def main() -> None:
    official = Official()
    checks = list(check_cases())
    verdicts = [check_golden(official, case) for case in checks]
    write_golden("bfcl_check.jsonl.gz", checks, verdicts)
    texts = list(decode_cases())
    decoded = [decode_golden(official, *case) for case in texts]
    write_golden("bfcl_decode.jsonl.gz", texts, decoded)
    for counter in (
        Counter((case["category"], verdict) for case, verdict in zip(checks, verdicts, strict=True)),
        Counter((case[1], row.get("error", "calls")) for case, row in zip(texts, decoded, strict=True)),
    ):
        for (kind, outcome), count in sorted(counter.items()):
            print(f"{count:6} {kind:24} {outcome or 'right'}")


if __name__ == "__main__":
    main()
