"""Texts as words, for comparing them."""

from __future__ import annotations

import re
import unicodedata

# Scripts that write no spaces between words: there each character is a word.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def normalise(text: str) -> str:
    """A text without differences of case, width and white space (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_of(text: str) -> list[str]:
    """The words of a text, normalised and without punctuation; each character where a script knows no spaces."""
    return _WORD.findall(normalise(text))
