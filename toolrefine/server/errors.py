"""What the server itself has to refuse, in the words of the OpenAI API."""

from __future__ import annotations

import json

from toolrefine.errors import ToolrefineError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class RefusalError(ToolrefineError):
    """A request that is answered with an error of the server's own."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}
        self.param = param

    def body(self) -> bytes:
        """The error as the OpenAI API has it."""
        kind = TYPES.get(self.status, "server_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


class UpstreamError(RefusalError):
    """The upstream gave no whole answer."""


def unreachable(reason: str) -> UpstreamError:
    """The upstream cannot be reached, or breaks off."""
    return UpstreamError(502, "upstream_connection", f"the upstream broke off or cannot be reached ({reason})")


def out_of_time() -> UpstreamError:
    """The upstream did not answer before the deadline."""
    return UpstreamError(504, "upstream_timeout", "no answer from the upstream before the deadline")
