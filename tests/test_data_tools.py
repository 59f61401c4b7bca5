from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from test_cli import run, run_json

from toolrefine.datasets.tool_schema import read_tools
from toolrefine.datasets.tool_sources import build_openapi_tools, load_tools, unfold
from toolrefine.errors import RowError
from toolrefine.matching import schema_violation
from toolrefine.types import ToolCall

TOOLALPACA = REPO.parent / "shared" / "bench" / "toolalpaca"

SERVER = '''
import sys
from typing import Literal
from mcp.server import MCPServer
from pydantic import BaseModel

server = MCPServer("tiny")

class Place(BaseModel):
    city: str
    near: list["Place"] = []

@server.tool()
def weather(place: Place, unit: Literal["c", "f"] = "c") -> str:
    """The weather of a place."""
    return "fine"

@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

if len(sys.argv) > 1:
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
else:
    server.run("stdio")
'''

PETS: dict[str, Any] = {
    "openapi": "3.0.3",
    "paths": {
        "/pets/{id}": {
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
                {"name": "verbose", "in": "query", "schema": {"type": "string"}},
            ],
            "put": {
                "operationId": "pets.update",
                "summary": "Update a pet.",
                "description": "All of it.",
                "parameters": [
                    {"name": "verbose", "in": "query", "description": "How much.", "schema": {"type": "boolean"}},
                    {"name": "id", "in": "query", "schema": {"type": "string"}},
                    {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                    {"name": "X-Trace", "in": "header", "required": True, "schema": {"type": "string"}},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                ],
                "requestBody": {"$ref": "#/components/requestBodies/Pet"},
            },
            "get": {"responses": {}},
        },
        "/tags": {
            "post": {
                "operationId": "setTags",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"type": "array", "items": {"type": "string"}}}},
                },
            }
        },
    },
    "components": {
        "requestBodies": {
            "Pet": {
                "required": True,
                "content": {
                    "application/xml": {"schema": {"type": "string"}},
                    "application/json": {"schema": {"$ref": "#/components/schemas/Pet"}},
                },
            }
        },
        "schemas": {
            "Base": {
                "type": "object",
                "required": ["name", "created"],
                "properties": {
                    "name": {"type": "string", "example": "Rex"},
                    "created": {"type": "string", "readOnly": True},
                },
            },
            "Pet": {
                "allOf": [
                    {"$ref": "#/components/schemas/Base"},
                    {
                        "type": "object",
                        "properties": {
                            "mother": {"$ref": "#/components/schemas/Pet"},
                            "weight": {"type": "number", "nullable": True, "minimum": 0, "exclusiveMinimum": True},
                        },
                    },
                ]
            },
        },
    },
}


@pytest.fixture(scope="module")
def server_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    path = tmp_path_factory.mktemp("mcp") / "server.py"
    path.write_text(SERVER)
    return path


@pytest.fixture(scope="module")
def server_url(server_file: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, str(server_file), str(port)], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
        process.terminate()


def check_tiny_server(source: str, out: Path) -> None:
    report = run_json("data", "tools", source, "-o", str(out))
    assert report["names"] == ["weather", "add"]
    weather, add = read_tools(json.loads(out.read_text()))
    assert weather.description == "The weather of a place."
    assert weather.parameters["required"] == ["place"]
    place = {"city": "Rome", "near": [{"city": "Ostia"}]}
    good = ToolCall(name="weather", arguments={"place": place, "unit": "f"})
    assert schema_violation([good], [weather]) is None
    bad = ToolCall(name="weather", arguments={"place": {"near": []}})
    assert "place.city" in (schema_violation([bad], [weather]) or "")
    assert "title" not in json.dumps(add.model_dump())


def test_tools_of_an_mcp_server_over_stdio(server_file: Path, tmp_path: Path) -> None:
    check_tiny_server(f"stdio:{shlex.join([sys.executable, str(server_file)])}", tmp_path / "tools.json")


def test_tools_of_an_mcp_server_over_http(server_url: str, tmp_path: Path) -> None:
    check_tiny_server(server_url, tmp_path / "tools.json")


def test_operations_become_tools() -> None:
    by_name = {tool.name: tool for tool in read_tools(build_openapi_tools(PETS))}
    assert list(by_name) == ["get_pets_id", "pets_update", "setTags"]
    update = by_name["pets_update"]
    assert update.description == "Update a pet.\nAll of it."
    assert update.parameters["required"] == ["id", "X-Trace", "name"]
    properties = update.parameters["properties"]
    assert list(properties) == ["id", "verbose", "id_query", "session", "X-Trace", "name", "mother", "weight"]
    assert properties["verbose"] == {"type": "boolean", "description": "How much."}
    assert properties["id"] == {"type": "integer"}
    assert properties["name"] == {"type": "string"}
    assert properties["weight"]["type"] == ["number", "null"]
    assert properties["weight"]["exclusiveMinimum"] == 0
    assert by_name["setTags"].parameters["required"] == ["body"]
    assert by_name["setTags"].parameters["properties"]["body"]["items"] == {"type": "string"}
    assert "$ref" not in json.dumps([tool.model_dump() for tool in by_name.values()])


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_document_is_read_from_a_file(suffix: str, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    path = tmp_path / f"api{suffix}"
    path.write_text(json.dumps(PETS) if suffix == ".json" else yaml.safe_dump(PETS))
    assert run_json("data", "tools", str(path), "-o", str(tmp_path / "tools.json"))["num_tools"] == 3


def test_a_document_is_fetched() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/api.json"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps(PETS).encode() if found else b"")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert len(load_tools(f"{url}/api.json")) == 3
        result = run("data", "tools", f"{url}/gone.json", "-o", "unused.json")
        server.shutdown()
    assert result.exit_code == 2
    assert "404" in result.stderr


def test_dates_of_yaml_and_examples_named_like_keywords_survive(tmp_path: Path) -> None:
    path = tmp_path / "api.yaml"
    path.write_text(
        "openapi: 3.1.0\npaths:\n  /a:\n    get:\n      parameters:\n"
        "      - {name: day, in: query, schema: {type: string, default: 2024-01-02, enum: [2024-01-02]}}\n"
        "      - {name: xml, in: query, schema: {type: object, properties: {example: {type: string}}}}\n"
        "      - {name: filter, in: query, schema: {type: object, default: {example: 1}}}\n"
    )
    [tool] = load_tools(str(path))
    day, xml, given = (tool.parameters["properties"][name] for name in ("day", "xml", "filter"))
    assert (day["default"], day["enum"]) == ("2024-01-02", ["2024-01-02"])
    assert list(xml["properties"]) == ["example"]
    assert given["default"] == {"example": 1}


def test_a_schema_that_contains_itself_ends() -> None:
    document = {"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}}}
    assert unfold({"$ref": "#/$defs/node"}, document) == {
        "type": "object",
        "properties": {"next": {"type": "object"}},
    }


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "#/nowhere"}, "leads nowhere"),
        ({"$ref": "other.json#/a"}, "bundle"),
        ({"$ref": "#/text"}, "no object"),
        ({"$ref": "#/bomb9"}, "unfolds into more"),
    ],
)
def test_a_reference_that_cannot_be_followed_is_an_error(schema: dict[str, Any], message: str) -> None:
    bombs = {f"bomb{n}": {"allOf": [{"$ref": f"#/bomb{n - 1}"}] * 10} for n in range(1, 10)}
    with pytest.raises(RowError, match=message):
        unfold(schema, {"text": "x", "bomb0": {}, **bombs})


def test_a_yaml_document_that_contains_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "api.yaml"
    path.write_text(
        "openapi: 3.1.0\npaths:\n  /a:\n    get:\n      parameters:\n"
        "      - {name: a, in: query, schema: &s {type: object, properties: {a: *s}}}\n"
    )
    result = run("data", "tools", str(path), "-o", str(tmp_path / "tools.json"))
    assert (result.exit_code, "without end" in result.stderr) == (2, True)


def with_default(value: str) -> str:
    """A document that says a value, in YAML or JSON, of its one argument."""
    parameter = f'{{"name": "a", "in": "query", "schema": {{"default": {value}}}}}'
    return f'{{"openapi": "3.1.0", "list": [], "paths": {{"/a": {{"get": {{"parameters": [{parameter}]}}}}}}}}'


def test_a_limit_that_is_no_json_is_written_as_text(tmp_path: Path) -> None:
    path = tmp_path / "api.yaml"
    path.write_text(
        "openapi: 3.0.0\npaths:\n  /a:\n    get:\n      parameters:\n"
        "      - {name: a, in: query, schema: {minimum: .inf, exclusiveMinimum: true}}\n"
        "      - {name: b, in: query, schema: {maximum: 2024-01-02, exclusiveMaximum: true}}\n"
    )
    result = run("data", "tools", str(path), "-o", str(tmp_path / "tools.json"))
    assert result.exit_code == 0
    [tool] = json.loads((tmp_path / "tools.json").read_text(), parse_constant=pytest.fail)
    a, b = tool["function"]["parameters"]["properties"].values()
    assert (a["minimum"], a["exclusiveMinimum"], b["exclusiveMaximum"]) == ("inf", "inf", "2024-01-02")


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("{file}", '{"swagger": "2.0"}', "not an OpenAPI 3 document"),
        ("{file}", '{"openapi": "3.0.0", "paths": {}}', "no tool in it"),
        ("{file}", '{"openapi"', "not readable JSON"),
        ("{file}", "a: b: c", "not readable YAML"),
        ("{file}", "a: !!int ''", "not readable YAML"),
        ("{file}", "a: !!float ''", "not readable YAML"),
        ("{file}", "a: !!bool x", "not readable YAML"),
        ("{file}", "a: !!timestamp x", "not readable YAML"),
        ("{file}", f"openapi: 0x{'f' * 5000}", "cannot be written"),
        ("{file}", "--- " + with_default(f"0x{'f' * 5000}"), "cannot be written"),
        ("{file}", with_default('"\\ud800"'), "cannot be written"),
        ("{file}", with_default(f'1, "$ref": "#/list/{"9" * 5000}"'), "cannot be written"),
        ("{file}.gone", "", "no such file"),
        ("stdio:", "", "no command"),
        ("stdio:'unclosed", "", "quotes"),
        ("stdio:no-such-command-here", "", "cannot be used"),
        ("http://127.0.0.1:9/api.json", "", "cannot be fetched"),
        ("http://127.0.0.1:9/mcp", "", "cannot be used"),
    ],
)
def test_a_bad_source_is_one_sentence(source: str, text: str, message: str, tmp_path: Path) -> None:
    if source.startswith(("stdio:no", "http://127.0.0.1:9/mcp")):
        pytest.importorskip("mcp", reason="the extra mcp is not installed")
    path, out = tmp_path / "api.yaml", tmp_path / "tools.json"
    path.write_text(text)
    result = run("data", "tools", source.format(file=path), "-o", str(out))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.skipif(not TOOLALPACA.is_dir(), reason="the benchmarks are not beside the project")
@pytest.mark.parametrize("part", ["real", "simulated"])
def test_real_documents_become_tools(part: str) -> None:
    for api in json.loads((TOOLALPACA / f"eval_{part}.json").read_text()):
        document = json.loads(api["Documentation"])
        tools = read_tools(build_openapi_tools(document))
        num_operations = sum(
            method in ("get", "post", "put", "delete") for item in document["paths"].values() for method in item
        )
        assert len(tools) == num_operations
        assert "$ref" not in json.dumps([tool.model_dump() for tool in tools])
