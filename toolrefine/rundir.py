"""The run directory: stages that are written once, whole, and found again after a kill.

A stage writes X.partial and renames it: the final name means complete. Streams append whole chunks, so a resumed run
goes on from the last whole chunk and ends in the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from pydantic import ValidationError

from toolrefine.config import essence
from toolrefine.errors import RunDirError
from toolrefine.types import Checkpoint, EvalItem, Example, Group, Record, Sample, Selected, Suspect

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
P = ParamSpec("P")


@dataclass(frozen=True)
class Stage(Generic[R]):
    """A JSONL file of a run and what a line of it is."""

    path: str
    record: type[R]


POOL = Stage("pool.jsonl", Sample)
ROLLOUTS = Stage("rollouts.jsonl", Group)
SELECTED = Stage("selected.jsonl", Selected)
SUSPECTS = Stage("suspects.jsonl", Suspect)
CORPUS = Stage("corpus.jsonl", Example)
CHECKPOINT = "checkpoint.json"
SOURCES = "sources.json"
"""Which files the stages were made of: stage -> path -> digest."""
METRICS = "metrics.jsonl"
READ = ("quarantine.jsonl", POOL.path, "tasks.jsonl", "held_out/*.jsonl")
"""What a run reads before any work: made again in seconds."""


def evaluation_stage(name: str) -> Stage[EvalItem]:
    """The answers to one evaluation set."""
    return Stage(f"eval/{name}.jsonl", EvalItem)


class Progress(Protocol):
    """Hears what a run is doing."""

    def begin(self, what: str, total: int | None) -> None:
        """A stage starts; total counts its units of work where that is known."""

    def advance(self, done: int) -> None:
        """So many units are done by now."""

    def end(self, what: str, found: bool) -> None:
        """The stage is complete; found says that an earlier attempt had completed it."""


class Silent:
    """Progress for nobody."""

    def begin(self, what: str, total: int | None) -> None:
        """Ignore."""

    def advance(self, done: int) -> None:
        """Ignore."""

    def end(self, what: str, found: bool) -> None:
        """Ignore."""


class RunDir:
    """A folder of stages; a run is one, and so is each of its iterations."""

    def __init__(self, path: Path, progress: Progress | None = None, root: Path | None = None) -> None:
        self.path = path
        self.root = root or path
        self.progress = progress or Silent()
        path.mkdir(parents=True, exist_ok=True)

    def iteration(self, t: int) -> RunDir:
        """The folder of iteration t; 0 is the base model's."""
        return self.folder(f"iterations/{t:03d}")

    def folder(self, name: str) -> RunDir:
        """A folder of stages inside this one."""
        return RunDir(self.path / name, self.progress, self.root)

    def stage(self, stage: Stage[R], build: Callable[P, Iterable[R]], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """The records of a stage: read if it is complete, else built and written whole."""
        return self._run(stage, len, lambda path: write_records(path, build(*args, **kwargs)))

    def stream(
        self,
        stage: Stage[R],
        chunk_size: int,
        total: int,
        build: Callable[Concatenate[int, int, P], Iterable[Sequence[R]]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[R]:
        """Like stage, for long work: build(skip, chunk_size, ...) yields chunks of records, each written as it comes.

        skip is the number of records that an interrupted attempt has left, a multiple of chunk_size.
        """

        def write(partial: Path) -> None:
            skip = keep_whole_chunks(partial, chunk_size)
            self.progress.advance(skip)
            done = skip
            with partial.open("ab") as file:
                for chunk in build(skip, chunk_size, *args, **kwargs):
                    file.write(b"".join(to_line(record) for record in chunk))
                    file.flush()
                    os.fsync(file.fileno())
                    done += len(chunk)
                    self.progress.advance(done)

        return self._run(stage, lambda _: total, write)

    def check_sources(self, stage: Stage[R], paths: Iterable[Path]) -> None:
        """Take note of the files that a stage is about to be made of; once it is complete, make sure of them.

        A file that is gone has not changed, and a stage without a note is trusted.

        Raises:
            RunDirError: a file has changed.
        """
        notes = self.root / SOURCES
        stages: dict[str, dict[str, str]] = read_json(notes) if notes.exists() else {}
        label = self._label(stage.path)
        complete = (self.path / stage.path).exists()
        known = stages.get(label, {})
        found = {str(path): digest for path in paths if (digest := digest_of(path))}
        if not complete and found != known:
            write_json(notes, {**stages, label: found})
        changed = [path for path, digest in found.items() if complete and known.get(path, digest) != digest]
        if changed:
            others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise RunDirError(
                f"{changed[0]}{others}: changed since {self.root} has read it; delete that folder, or choose another "
                "(run=NAME, or --out)"
            )

    def _run(self, stage: Stage[R], total: Callable[[list[R]], int], write: Callable[[Path], None]) -> list[R]:
        final = self.path / stage.path
        with self._timed(stage.path, final) as found:
            if not found:
                final.parent.mkdir(parents=True, exist_ok=True)
                partial = final.with_name(final.name + ".partial")
                self.progress.begin(self._label(stage.path), total([]) or None)
                write(partial)
                partial.replace(final)
        return list(read_records(final, stage.record))

    def model(
        self, fit: Callable[Concatenate[Path, Path, P], Checkpoint], *args: P.args, **kwargs: P.kwargs
    ) -> Checkpoint:
        """The model of this folder: fit(partial, final, ...) trains into partial, which becomes final.

        partial may hold what an interrupted attempt has left; fit goes on from there.
        """
        final = self.path / "model"
        with self._timed("model", final) as found:
            if not found:
                partial = self.path / "model.partial"
                partial.mkdir(exist_ok=True)
                self.progress.begin(self._label("model"), None)
                checkpoint = fit(partial, final, *args, **kwargs)
                write_json(partial / CHECKPOINT, in_folder(".", checkpoint).model_dump())
                partial.replace(final)
        return read_checkpoint(final)

    @contextmanager
    def _timed(self, what: str, final: Path) -> Iterator[bool]:
        started = time.monotonic()
        found = final.exists()
        yield found
        self.progress.end(self._label(what), found)
        if not found:
            event = {
                "stage": self._label(what),
                "wall_s": round(time.monotonic() - started, 3),
                "time": round(time.time(), 3),
            }
            with (self.root / METRICS).open("a") as file:
                file.write(json.dumps(event) + "\n")

    def _label(self, what: str) -> str:
        where = self.path.relative_to(self.root).as_posix()
        return (what if where == "." else f"{where}/{what}").removesuffix(".jsonl")


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint that a training has left in a folder, which may have been moved or copied since."""
    return in_folder(str(folder), Checkpoint.model_validate_json((folder / CHECKPOINT).read_text()))


def in_folder(folder: str, checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint whose trained part, the adapter where there is one and else the model, stands in this folder."""
    return checkpoint.model_copy(update={"model" if checkpoint.adapter is None else "adapter": folder})


@contextmanager
def open_run(
    path: Path, config: Record, progress: Progress | None = None, may_grow: Collection[str] = ()
) -> Iterator[RunDir]:
    """The run directory of a config, new or to be resumed, held against a second process.

    may_grow: keys of the config whose numbers may be higher than when the run was started.

    Raises:
        RunDirError: it cannot be written, another process works on it, or it belongs to another config.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("w")
    except OSError as error:
        raise RunDirError(
            f"{path}: cannot be made a folder, or not be written to: {error}; choose another (run=NAME, or --out)"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunDirError(
                f"{path}: another process is working on this run; give this one another folder (run=NAME, or --out)"
            ) from None
        check_config(path / "config.json", config, may_grow)
        write_json(path / "env.json", environment())
        yield RunDir(path, progress)


def check_config(path: Path, config: Record, may_grow: Collection[str] = ()) -> None:
    """Write the config of a new run, or compare it with the one that the run was started with.

    Numbers that may grow are taken where they have grown, and HOW as it is now.

    A run that has come to no work takes another config: what has failed at once does not stand in the way of what mends
    it.

    Raises:
        RunDirError: they differ; names the keys.
    """
    wanted = json.loads(config.model_dump_json(exclude={"run"}))
    if not path.exists():
        write_json(path, wanted)
        return
    started = read_json(path)
    changed = [
        f"{key} (was {json.dumps(old)}, now {json.dumps(new)})"
        for key, old, new in differences(essence(started), essence(wanted))
        if old != new and (key not in may_grow or new < old)
    ]
    if not changed:
        for key, old, new in differences(started, wanted):
            if old != new:
                log.info("%s: goes on with %s = %s (was %s)", path.parent, key, json.dumps(new), json.dumps(old))
        if started != wanted:
            write_json(path, wanted)
        return
    if has_work(path.parent):
        raise RunDirError(
            f"{path.parent}: this run was started with another config: {', '.join(changed)}; "
            "put the values back, delete the folder, or choose another (run=NAME, or --out)"
        )
    for pattern in (*READ, SOURCES, METRICS):  # before the config, so that a kill leaves nothing of one under another
        for file in (*path.parent.glob(pattern), *path.parent.glob(f"{pattern}.partial")):
            file.unlink()
    write_json(path, wanted)


def has_work(folder: Path) -> bool:
    """Whether there is more in the folder of a run than its settings, its logs and what it has read; or it is none."""
    names = {"config.json", "env.json", "lock", SOURCES, METRICS, *READ}

    def is_light(path: Path) -> bool:
        name = path.name.removesuffix(".partial")
        return path.is_dir() or name in names or path.parent.name == "held_out" or path.lstat().st_size == 0

    return not (folder / "env.json").exists() or not all(map(is_light, folder.rglob("*")))


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old, new) of every leaf that differs between two JSON trees."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{key}.{index}")
    elif old != new:
        yield key, old, new


def to_line(record: Record) -> bytes:
    """A record as one line of JSONL; what equals its default is left out."""
    return record.model_dump_json(exclude_defaults=True).encode() + b"\n"


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a JSONL file; not atomic by itself."""
    with path.open("wb") as file:
        file.writelines(map(to_line, records))
        file.flush()
        os.fsync(file.fileno())


def read_records(path: Path, record: type[R]) -> Iterator[R]:
    """Read a JSONL file.

    Raises:
        RunDirError: a line is no such record, with its number.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield record.model_validate_json(line)
            except ValidationError as error:
                raise RunDirError(
                    f"{path}:{number}: not a {record.__name__} of this version; delete the file to have it made again: "
                    f"{error}"
                ) from None


def keep_whole_chunks(path: Path, chunk_size: int) -> int:
    """Cut a JSONL file back to its last whole chunk; the number of lines that stay."""
    if not path.exists():
        return 0
    keep = size = count = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            size += len(line)
            count += 1
            if count % chunk_size == 0:
                keep = size
    os.truncate(path, keep)
    return count - count % chunk_size


def read_json(path: Path) -> Any:
    """The value of a JSON file of a run.

    Raises:
        RunDirError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise RunDirError(
            f"{path}: not readable; delete the run's folder or choose another (run=NAME, or --out)"
        ) from None


def digest_of(path: Path) -> str:
    """Size and content of a file as a short text; empty where there is no file to be read."""
    if not path.is_file():  # what is a pipe would be used up
        return ""
    try:
        with path.open("rb") as file:
            return f"{os.fstat(file.fileno()).st_size} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return ""


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def environment() -> dict[str, Any]:
    """What the figures of a run may depend on."""
    packages = ["toolrefine", "torch", "transformers", "peft", "accelerate", "tokenizers"]
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
