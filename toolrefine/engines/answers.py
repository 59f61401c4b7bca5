"""What a server has answered of a chunk that is not complete: kept over failures and kills."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from pathlib import Path

from toolrefine.engines import SamplingParams
from toolrefine.rundir import keep_whole_chunks, read_records, to_line
from toolrefine.types import Completion, Prompt, Record


class ServerAnswer(Record):
    """One completion, and what it is the completion of."""

    key: str
    """Digest of all that it depends on: model, prompt settings, prompt and sampling parameters."""
    prompt_id: str
    index: int
    """Which of the prompt's completions."""
    completion: Completion


class Answers:
    """Completions by key and index, in memory and in a JSONL file where a path is given.

    Whoever asked for them may lose them before they are written elsewhere, so they stay until they are cleared.
    """

    def __init__(self, path: str, *conditions: Record) -> None:
        """Read what an earlier attempt has left; a torn last line is cut off.

        Raises:
            RunDirError: another line is no answer.
        """
        self.path = Path(path) if path else None
        self._conditions = "\n".join(condition.model_dump_json() for condition in conditions)
        self._lock = threading.Lock()
        self._known: defaultdict[str, dict[int, Completion]] = defaultdict(dict)
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if keep_whole_chunks(self.path, 1):
            for answer in read_records(self.path, ServerAnswer):
                self._known[answer.key][answer.index] = answer.completion

    def clear(self) -> None:
        """Drop all completions, and the file."""
        self._known.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def key(self, prompt: Prompt, params: SamplingParams) -> str:
        """The key of a prompt's completions."""
        text = "\n".join((self._conditions, params.model_dump_json(), prompt.model_dump_json()))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def known(self, key: str) -> dict[int, Completion]:
        """The completions of a key by index; grows with add."""
        return self._known[key]

    def add(self, key: str, prompt_id: str, index: int, completion: Completion) -> None:
        """Keep a completion; from any thread."""
        with self._lock:
            self._known[key][index] = completion
            if self.path is not None:
                answer = ServerAnswer(key=key, prompt_id=prompt_id, index=index, completion=completion)
                with self.path.open("ab") as file:
                    file.write(to_line(answer))
