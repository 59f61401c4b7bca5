"""A server of our own for each checkpoint: started, waited for, and always stopped."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from toolrefine.config import EngineConfig
from toolrefine.errors import ConfigError, WorkError
from toolrefine.models import load_model, load_tokenizer, resolve_model
from toolrefine.types import Checkpoint

STOP_S = 20.0
"""How long a server may take to stop before it is killed."""

_PR_SET_PDEATHSIG = 1


class Server:
    """A process that serves one model."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, model: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.model = model
        self.log = log
        self.merged: tempfile.TemporaryDirectory[str] | None = None
        """Where an adapter has been merged into its model, for servers know models only."""

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            WorkError: it has ended.
        """
        if self.process.poll() is not None:
            end = self.log.read_text(encoding="utf-8", errors="replace")[-1000:]
            raise WorkError(f"the server ended with status {self.process.returncode}; the end of {self.log}:\n{end}")

    def wait(self, timeout_s: float) -> None:
        """Wait until it answers.

        Raises:
            WorkError: it ends, or does not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            for path in ("/health", "/v1/models"):
                try:
                    if httpx2.get(self.url + path, timeout=5.0).is_success:
                        return
                except httpx2.TransportError:
                    break
            time.sleep(0.5)
        raise WorkError(f"the server does not answer after {timeout_s:.0f} s; see {self.log}, or raise engine.launch_s")

    def stop(self) -> None:
        """End it and all that it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(STOP_S)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
            else:
                break
        self.process.poll()
        if self.merged is not None:
            self.merged.cleanup()


def launch(checkpoint: Checkpoint, config: EngineConfig) -> Server:
    """Start engine.launch for a checkpoint, and wait until the server answers.

    {model} and {port} stand for the model's folder or name and for a free port. The command is split into words and
    never goes through a shell. What it writes goes to engine.launch_log, which is appended to.

    Raises:
        ConfigError: the command cannot be started.
        WorkError: the server ends, or does not get ready in time.
    """
    merged = tempfile.TemporaryDirectory(prefix="toolrefine-") if checkpoint.adapter else None
    model = merged.name if merged else resolve_model(checkpoint.model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        command = [word.format(model=model, port=port) for word in shlex.split(config.launch)]
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"engine.launch: {error}; use {{model}} and {{port}} alone, and close every quote") from None
    if merged:
        trust = config.trust_remote_code
        load_model(checkpoint, dtype="auto", device="cpu", trust_remote_code=trust).save_pretrained(model)
        load_tokenizer(checkpoint, trust_remote_code=trust).save_pretrained(model)
    path = Path(config.launch_log)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
    except OSError as error:
        raise ConfigError(f"engine.launch: {command[0]} cannot be started: {error.strerror}") from None
    server = Server(process, f"http://127.0.0.1:{port}", model, path)
    server.merged = merged
    try:
        server.wait(config.launch_s)
    except BaseException:
        server.stop()
        raise
    return server


def _die_with_parent() -> None:
    """Have the kernel end the server when this process is killed without a chance to do it itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
