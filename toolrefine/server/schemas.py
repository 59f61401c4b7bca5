"""What the OpenAPI document says about requests and answers that the server itself hands on."""

from __future__ import annotations

from typing import Any

_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
            "required": ["message"],
        }
    },
    "required": ["error"],
}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ERROR}}}


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The request does not fit"),
    401: _error("The API key is missing or wrong"),
    413: _error("The body is too long"),
    429: _error("Too many requests at once"),
    502: _error("The upstream broke off or cannot be reached"),
    504: _error("No answer before the deadline"),
}

_TOOL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "description": {"type": "string"},
                "parameters": {"type": "object"},
            },
            "required": ["name"],
        },
    },
    "required": ["type", "function"],
}

CHAT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "model": {"type": "string"},
                    "messages": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "properties": {"role": {"type": "string"}, "content": {}},
                            "required": ["role"],
                        },
                    },
                    "tools": {"type": "array", "items": _TOOL},
                    "tool_choice": {},
                    "parallel_tool_calls": {"type": "boolean"},
                    "stream": {"type": "boolean"},
                    "stream_options": {"type": ["object", "null"]},
                    "n": {"type": "integer", "minimum": 1},
                },
                "required": ["model", "messages"],
                "additionalProperties": True,
            }
        }
    },
}

CHAT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A chat completion, or a stream of its chunks",
        "content": {"application/json": {}, "text/event-stream": {}},
    },
    **_ERRORS,
}

MODELS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The models of the upstream", "content": {"application/json": {}}},
    **_ERRORS,
}


def _header(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"X-Toolrefine-{name}", "in": "header", "required": False, "schema": schema}


POLICY_HEADERS = [
    _header("Max-Rounds", {"type": "integer", "minimum": 0, "maximum": 8}),
    _header("When", {"enum": ["always", "invalid", "uncertain"]}),
    _header("How", {"enum": ["ask", "explain", "resample"]}),
    _header("Min-Logprob", {"type": "number", "maximum": 0}),
    _header("Accept", {"enum": ["always", "valid"]}),
]
