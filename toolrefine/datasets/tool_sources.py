"""Tools from where they are served: a Model Context Protocol server, or an OpenAPI 3 document.

Servers and documents come from others: what they say is read as data, references are resolved inside the document
alone, and a document that unfolds without end is an error.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import DataError, RequestError, RowError
from toolrefine.json_schema import repair_schema
from toolrefine.types import Tool

SourceKind = Literal["auto", "mcp", "openapi"]

STDIO = "stdio:"
TIMEOUT_S = 60.0
MAX_BYTES = 64 * 2**20
"""Longest document to read."""
MAX_NODES = 200_000
"""Objects that the schemas of one operation or tool may unfold into."""

_DOCUMENTS = (".json", ".yaml", ".yml")
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_IGNORED_HEADERS = ("accept", "content-type", "authorization")  # OpenAPI 3.1, 4.8.12.1
_MEDIA_TYPES = ("application/json", "+json", "x-www-form-urlencoded", "multipart/form-data", "")
_NOT_FOR_MODELS = {
    *("$defs", "$schema", "definitions", "deprecated", "discriminator", "example", "externalDocs", "readOnly"),
    *("title", "writeOnly", "xml"),
}
_OF_SCHEMAS = ("properties", "patternProperties")
_OF_DATA = ("default", "const", "enum", "examples")
_ODD = re.compile(r"[^a-zA-Z0-9_-]+")
_MAX_NAME = 64


def load_tools(source: str, kind: SourceKind = "auto") -> list[Tool]:
    """The tools of a source: stdio:COMMAND or the URL of an MCP server, or a path or URL of an OpenAPI 3 document.

    auto takes a URL whose path ends in .json, .yaml or .yml for a document, and any other for a server.

    Raises:
        RequestError: the source cannot be reached or read, or holds no tool.
    """
    is_url = source.startswith(("http://", "https://"))
    is_server = source.startswith(STDIO) or (is_url and not urlsplit(source).path.endswith(_DOCUMENTS))
    if kind == "mcp" and not (is_url or source.startswith(STDIO)):
        raise RequestError(f"{source}: an MCP server is {STDIO}COMMAND, or a URL that begins with http:// or https://")
    try:
        listed = _list_mcp(source) if kind == "mcp" or (kind == "auto" and is_server) else _read_openapi(source)
        if not listed:
            raise DataError(f"{source}: no tool in it")
        # Half of a character, or thousands of digits, can be read and not written.
        json.dumps(listed, ensure_ascii=False).encode()
        return list(read_tools(listed))
    except RowError as error:
        raise DataError(f"{source}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: holds what cannot be written as JSON: {error}") from None


def _list_mcp(source: str) -> list[dict[str, Any]]:
    try:
        from mcp import Client, StdioServerParameters
    except ImportError:
        raise RequestError("MCP needs its client; pip install '.[mcp]' in the checkout") from None

    async def list_tools(server: str | StdioServerParameters) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        async with asyncio.timeout(TIMEOUT_S), Client(server) as client:
            cursor: str | None = None
            while True:
                page = await client.list_tools(cursor=cursor)
                for tool in page.tools:
                    schema = unfold(tool.input_schema, tool.input_schema)
                    listed.append({"name": tool.name, "description": tool.description, "parameters": schema})
                cursor = page.next_cursor
                if not cursor:
                    break
        return listed

    server: str | StdioServerParameters = source
    if source.startswith(STDIO):
        try:
            command, *arguments = shlex.split(source.removeprefix(STDIO))
        except ValueError:
            raise RequestError(f"{source}: no command; write {STDIO}COMMAND ARGUMENT ... with quotes closed") from None
        server = StdioServerParameters(command=command, args=arguments)
    try:
        return asyncio.run(list_tools(server))
    except TimeoutError:
        raise DataError(f"{source}: the MCP server did not answer in {TIMEOUT_S:.0f} s") from None
    except RequestError:
        raise
    except Exception as error:  # the client raises groups of errors of several libraries
        cause = _first_cause(error)
        raise DataError(f"{source}: the MCP server cannot be used: {cause}; check the command or the URL") from error


def _first_cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _read_openapi(source: str) -> list[dict[str, Any]]:
    text = _fetch(source) if source.startswith(("http://", "https://")) else _read(Path(source))
    document = _parse(text, source)
    version = document.get("openapi") if isinstance(document, dict) else None
    if not str(version).startswith("3."):
        raise DataError(f"{source}: not an OpenAPI 3 document (openapi: {version!r}); convert older ones first")
    try:
        return build_openapi_tools(document)
    except RowError as error:
        raise DataError(f"{source}: {error}") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _decode(file.read(MAX_BYTES + 1), str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; source is {STDIO}COMMAND, a URL, or the path of a document") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _fetch(url: str) -> str:
    import httpx2

    try:
        with httpx2.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as response:
            response.raise_for_status()
            content = b""
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DataError(f"{url}: cannot be fetched: {_first_cause(error)}") from None
    return _decode(content, url)


def _decode(content: bytes, source: str) -> str:
    if len(content) > MAX_BYTES:
        raise DataError(f"{source}: longer than {MAX_BYTES // 2**20} MiB; cut it down to the operations you need")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8: {error.reason}; save it as UTF-8") from None


def _parse(text: str, source: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: not readable JSON: {error}") from None
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except Exception as error:  # of values that do not fit their tags PyYAML raises whatever it stumbles over
        problem = " ".join(str(error).split())
        raise DataError(f"{source}: not readable YAML: {problem}") from None


def build_openapi_tools(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One tool for each operation of an OpenAPI 3 document, named by its operationId, else METHOD_path.

    Its arguments are the parameters of path, query, header and cookie, and the properties of the request body, in one
    object. Where names collide, the later one gets its place behind it: id and id_query. A body that is no object is
    the argument body.

    Raises:
        RowError: a reference leads nowhere, or the schemas unfold without end.
    """
    tools: list[dict[str, Any]] = []
    names: set[str] = set()
    for path, item in _mapping(document.get("paths")).items():
        item = _follow(item, document)
        for method in _METHODS:
            operation = item.get(method)
            if not isinstance(operation, dict):
                continue
            name = _unique(_name(operation.get("operationId") or f"{method}_{str(path).lstrip('/')}"), names)
            texts = [text.strip() for key in ("summary", "description") if isinstance(text := operation.get(key), str)]
            try:
                parameters = _arguments(item, operation, document)
            except RowError as error:
                raise RowError(f"{method.upper()} {path}: {error}") from None
            description = "\n".join(dict.fromkeys(filter(None, texts)))
            tools.append({"name": name, "description": description, "parameters": parameters})
    return tools


def _arguments(item: dict[str, Any], operation: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []

    def add(name: str, place: str, schema: dict[str, Any], is_required: bool) -> None:
        name = name if name not in properties else _unique(f"{name}_{place}", set(properties))
        properties[name] = schema
        if is_required:
            required.append(name)

    given: dict[tuple[str, str], dict[str, Any]] = {}
    for raw in (*_list(item.get("parameters")), *_list(operation.get("parameters"))):
        parameter = _follow(raw, document)
        if isinstance(parameter.get("name"), str):
            given[parameter["name"], str(parameter.get("in"))] = parameter
    for (name, place), parameter in given.items():
        if place == "header" and name.lower() in _IGNORED_HEADERS:
            continue
        schema = unfold(parameter.get("schema", _media_schema(parameter)), document)
        if isinstance(parameter.get("description"), str):
            schema.setdefault("description", parameter["description"].strip())
        add(name, place, schema, place == "path" or parameter.get("required") is True)
    body = _follow(operation.get("requestBody"), document)
    if body:
        schema = _flat(repair_schema(unfold(_media_schema(body), document, writing=True)))
        is_required = body.get("required") is True
        if isinstance(schema.get("properties"), dict):
            for name, inner in schema["properties"].items():
                add(name, "body", inner, is_required and name in schema.get("required", []))
        else:
            schema.setdefault("description", str(body.get("description") or "The request body."))
            add("body", "body", schema, is_required)
    return {"type": "object", "properties": properties, "required": required}


def _media_schema(holder: dict[str, Any]) -> Any:
    """The schema of a parameter or body that has one for each media type; JSON before forms before the rest."""
    content = _mapping(holder.get("content"))
    for wanted in _MEDIA_TYPES:
        for media_type, media in content.items():
            if wanted in str(media_type).lower():
                return _mapping(media).get("schema", {})
    return {}


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """An object schema with the properties of its allOf parts among its own."""
    parts = schema.get("allOf")
    if not isinstance(parts, list):
        return schema
    properties, required = dict(_mapping(schema.get("properties"))), list(_list(schema.get("required")))
    for part in map(_flat, parts):
        if not isinstance(part.get("properties"), dict):
            return schema
        properties |= part["properties"]
        required += part.get("required", [])
    rest = {key: value for key, value in schema.items() if key != "allOf"}
    return {**rest, "type": "object", "properties": properties, "required": required}


def unfold(schema: Any, document: dict[str, Any], *, writing: bool = False) -> dict[str, Any]:
    """A schema with its references to the document resolved, and without what says nothing about values.

    Where a schema contains itself, the inner one allows everything of its type. writing leaves out properties that
    are readOnly.

    Raises:
        RowError: a reference leads nowhere or out of the document, or there is no end to it.
    """
    num_nodes = 0

    def walk(node: Any, open_refs: tuple[str, ...] | None) -> Any:
        """A part of a schema; of plain data where open_refs is None."""
        nonlocal num_nodes
        num_nodes += 1
        if num_nodes > MAX_NODES:
            raise RowError(f"the schema unfolds into more than {MAX_NODES} parts; simplify it")
        match node:
            case list():
                return [walk(item, open_refs) for item in node]
            case dict() if open_refs is None:
                return {str(key): walk(item, None) for key, item in node.items()}
            case {"$ref": str() as ref, **beside} if open_refs is not None:
                target = _lookup(ref, document)
                if ref in open_refs:
                    return {key: target[key] for key in ("type",) if key in target}
                return walk({**target, **beside}, (*open_refs, ref))
            case dict():
                return dict(
                    _walk_members(node, lambda item, data=False: walk(item, None if data else open_refs), writing)
                )
            case float() if not math.isfinite(node):
                return str(node)
            case str() | int() | float() | None:
                return node
            case _:  # a date, say, which YAML has and JSON has not
                return str(node)

    try:
        unfolded = walk(schema if isinstance(schema, dict) else {}, ())
    except RecursionError:
        raise RowError("the schema is nested without end; simplify it") from None
    return dict(unfolded)


def _walk_members(node: dict[str, Any], walk: Callable[..., Any], writing: bool) -> Iterator[tuple[str, Any]]:
    hidden = {
        name
        for name, item in _mapping(node.get("properties")).items()
        if writing and isinstance(item, dict) and item.get("readOnly") is True
    }
    for key, value in node.items():
        if key in _OF_SCHEMAS and isinstance(value, dict):
            yield key, {str(name): walk(item) for name, item in value.items() if name not in hidden}
        elif key in _OF_DATA:
            yield key, walk(value, data=True)
        elif key == "required" and isinstance(value, list):
            yield key, [name for name in value if isinstance(name, str) and name not in hidden]
        elif key in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
            # In OpenAPI 3.0 a mark on the limit beside it, since then the limit itself.
            limit = node.get(key.replace("exclusiveM", "m"))
            if value and limit is not None:
                yield key, walk(limit, data=True)
        elif key not in _NOT_FOR_MODELS and not str(key).startswith("x-"):
            yield str(key), walk(value)


def _follow(node: Any, document: dict[str, Any]) -> dict[str, Any]:
    """An object of the document, or the one that it refers to."""
    seen: set[str] = set()
    while isinstance(node, dict) and isinstance(ref := node.get("$ref"), str):
        if ref in seen:
            raise RowError(f"$ref {ref!r} refers to itself")
        seen.add(ref)
        node = _lookup(ref, document)
    return _mapping(node)


def _lookup(ref: str, document: dict[str, Any]) -> dict[str, Any]:
    if not ref.startswith("#"):
        raise RowError(f"$ref {ref!r} leads out of the document; bundle it into one file first")
    node: Any = document
    for part in ref.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        index = int(key) if isinstance(node, list) and key.isdecimal() else None
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and index is not None and index < len(node):
            node = node[index]
        else:
            raise RowError(f"$ref {ref!r} leads nowhere")
    if not isinstance(node, dict):
        raise RowError(f"$ref {ref!r} leads to something that is no object")
    return node


def _name(text: Any) -> str:
    """A name that servers of models accept: letters, digits, _ and -, 64 at most."""
    return _ODD.sub("_", str(text)).strip("_")[:_MAX_NAME] or "tool"


def _unique(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name[: _MAX_NAME - len(str(number)) - 1]}_{number}"
    taken.add(unique)
    return unique


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
