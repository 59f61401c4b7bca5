"""What doctor finds of templates and servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_chat import KIMI, MISTRAL, TEXT_ARGUMENTS, tokenizer_with
from typer.testing import CliRunner

from toolrefine.chat import Chat
from toolrefine.cli import app
from toolrefine.config import PromptConfig
from toolrefine.doctor import CONVERSATIONS, TOOLS, Diagnosis, compare_with_server, diagnose
from toolrefine.errors import WorkError
from toolrefine.models import load_tokenizer, save_prompt
from toolrefine.types import Checkpoint

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|im_end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def diagnose_template(tmp_path: Path, template: str, **prompt: Any) -> Diagnosis:
    tokenizer = tokenizer_with(template)
    tokenizer.eos_token = "</s>" if "</s>" in template else "<|im_end|>"
    tokenizer.save_pretrained(tmp_path)
    return diagnose(str(tmp_path), PromptConfig(**prompt))


def test_nano_is_healthy() -> None:
    diagnosis = diagnose("nano", PromptConfig())
    assert diagnosis.healthy
    assert diagnosis.format == "pythonic"
    # Its template leaves the descriptions of parameters out, which keeps its prompts short.
    assert [finding.check for finding in diagnosis.findings if finding.status == "warning"] == ["tool schemas"]


@pytest.mark.parametrize(
    ("template", "wire_format"), [(MISTRAL, "mistral"), (KIMI, "kimi_k2"), (TEXT_ARGUMENTS, "hermes")]
)
def test_sound_templates_are_healthy(tmp_path: Path, template: str, wire_format: str) -> None:
    diagnosis = diagnose_template(tmp_path, template)
    assert diagnosis.healthy, diagnosis
    assert diagnosis.format == wire_format


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (("{{ tools | tojson }}", ""), "template", "ignores tools"),
        (("m.content or ''", "m.content if m.role != 'system' else ''"), "system", "drops 'You help"),
        (("{% if m.role == 'assistant' %}<|im_end|>{% endif %}", ""), "one call", "end-of-turn"),
        (("m.tool_calls or []", "(m.tool_calls or [])[:1]"), "parallel", "reads back as others"),
        (("m.tool_calls or []", "(m.tool_calls if loop.last else []) or []"), "result", "drops 'find_train'"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, spoil: tuple[str, str], check: str, words: str) -> None:
    assert spoil[0] in TEXT_ARGUMENTS
    diagnosis = diagnose_template(tmp_path, TEXT_ARGUMENTS.replace(*spoil))
    assert not diagnosis.healthy
    assert any(words in finding.text for finding in diagnosis.findings if check in finding.check), diagnosis


def test_style_system_mends_a_template_without_tools(tmp_path: Path) -> None:
    assert not diagnose_template(tmp_path, PLAIN).healthy
    assert diagnose_template(tmp_path, PLAIN, style="system").healthy


def test_a_model_is_examined_as_it_was_trained(tmp_path: Path) -> None:
    assert not diagnose_template(tmp_path, PLAIN).healthy
    save_prompt(tmp_path, PromptConfig(style="system"))
    assert CliRunner().invoke(app, ["doctor", "--model", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(app, ["doctor", "--model", str(tmp_path), "--style", "template"]).exit_code == 1


class Server(BaseHTTPRequestHandler):
    """A server of nano that makes its prompts by a tokenizer of its own."""

    tokenizer: Any
    has_tokenize = True
    last_text = ""

    def do_GET(self) -> None:
        self._send({"data": [{"id": "nano"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for message in request["messages"]:
            for call in message.get("tool_calls", []):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        text = self.tokenizer.apply_chat_template(
            request["messages"], tools=request.get("tools"), tokenize=False, add_generation_prompt=True
        )
        self.last_text = text
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.path == "/tokenize" and self.has_tokenize:
            self._send({"tokens": ids})
        elif self.path == "/v1/chat/completions":
            self._send({"usage": {"prompt_tokens": len(ids)}})
        else:
            self.send_error(404)

    def _send(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Server, "tokenizer", load_tokenizer(Checkpoint(model="nano")), raising=False)
    with HTTPServer(("127.0.0.1", 0), Server) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.mark.parametrize("style", ["template", "system"])
@pytest.mark.parametrize("has_tokenize", [True, False])
def test_a_server_with_the_same_prompts_agrees(
    server: str, monkeypatch: pytest.MonkeyPatch, style: str, has_tokenize: bool
) -> None:
    monkeypatch.setattr(Server, "has_tokenize", has_tokenize)
    chat = Chat(load_tokenizer(Checkpoint(model="nano")), PromptConfig(style=style))
    findings = compare_with_server(chat, f"{server}/v1", "nano")
    assert [finding.status for finding in findings] == ["ok"] * len(CONVERSATIONS)


@pytest.mark.parametrize("has_tokenize", [True, False])
def test_the_first_difference_is_shown(server: str, monkeypatch: pytest.MonkeyPatch, has_tokenize: bool) -> None:
    monkeypatch.setattr(Server, "has_tokenize", has_tokenize)
    Server.tokenizer.chat_template = Server.tokenizer.chat_template.replace("<|tools|>", "<|tools|>Tools: ")
    diagnosis = diagnose("nano", PromptConfig(), server)
    assert not diagnosis.healthy
    text = next(finding.text for finding in diagnosis.findings if finding.check == "server: one call")
    assert ("differ from token 1 on" if has_tokenize else "tokens here and") in text
    assert TOOLS[0].name in text or not has_tokenize


class Site(BaseHTTPRequestHandler):
    """A server of something else, with a page of HTML for what it does not know."""

    status = 404

    def do_GET(self) -> None:
        self._refuse()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._refuse()

    def _refuse(self) -> None:
        page = ("\n  <!DOCTYPE html>" + "x" * 1000 + "\n<html>\n<head>\n</head>\n</html>\n").encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.mark.parametrize("status", [404, 401])
def test_a_server_that_refuses_everything_says_so_once(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(Site, "status", status)
    with HTTPServer(("127.0.0.1", 0), Site) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        diagnosis = diagnose("nano", PromptConfig(), f"http://127.0.0.1:{httpd.server_port}")
        httpd.shutdown()
    (finding,) = [finding for finding in diagnosis.findings if finding.check.startswith("server")]
    assert finding.status == "error" and not diagnosis.healthy
    assert finding.text.startswith(f"refused with {status}: <!DOCTYPE html>x")
    assert finding.text.count("is this an OpenAI-compatible server?") == (status == 404)
    assert "\n" not in finding.text and len(finding.text) < 300


def test_a_refusal_of_one_conversation_stays_its_own(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Server._send

    def refuse_system(self: Server, body: Any) -> None:
        if "usage" in body and "You help" in self.last_text:
            self.send_error(400)
        else:
            send(self, body)

    monkeypatch.setattr(Server, "has_tokenize", False)
    monkeypatch.setattr(Server, "_send", refuse_system)
    diagnosis = diagnose("nano", PromptConfig(), server)
    statuses = {finding.check: finding.status for finding in diagnosis.findings if finding.check.startswith("server")}
    assert len(statuses) == len(CONVERSATIONS)
    assert [check for check, status in statuses.items() if status == "error"] == [
        "server: a system message beside the tools"
    ]


def test_a_server_that_is_not_there_is_one_clear_sentence() -> None:
    with pytest.raises(WorkError, match=r"cannot be asked.*such as http"):
        diagnose("nano", PromptConfig(), "http://127.0.0.1:9")
