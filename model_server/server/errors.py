"""What a caller sees when something is wrong: a status, a code, and a message that says what to do."""

from model_server.types import (
    ContextLengthExceeded,
    EngineError,
    EngineUnavailable,
    OutOfMemory,
    Overloaded,
    UnfollowableGrammar,
    UnsupportedRequest,
    WeightsRefused,
)

_RETRY_AFTER_S = 2
"""A sequence of a small model ends in seconds; clients back off by themselves after that."""


class ApiError(Exception):
    """An answer that is not a completion. ``param`` is the path of the offending field."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(_encodable(message))
        self.status = status
        self.code = code
        self.param = None if param is None else _encodable(param)
        self.retry_after_s = retry_after_s


def _encodable(text: str) -> str:
    """What a caller sent is repeated in messages, and may hold half a surrogate pair."""
    return text.encode(errors="backslashreplace").decode()


def from_engine(error: EngineError, request_id: str) -> ApiError:
    """An engine's refusal or failure, as the caller sees it. A failure's details stay in the log."""
    match error:
        case ContextLengthExceeded():
            message = f"{error}. Shorten the conversation or ask for fewer tokens."
            return ApiError(message, code="context_length_exceeded")
        case Overloaded():
            message = "The server has as many requests as it can hold. Wait and send the request again."
            return _later(message, "overloaded", status=429)
        case EngineUnavailable():
            message = f"The engine takes no requests now: {error}. Wait and send the request again."
            return _later(message, "engine_unavailable")
        case OutOfMemory():
            message = "The server has too little memory for this request. Send it again, or make its prompt shorter."
            return _later(message, "out_of_memory")
        case UnsupportedRequest():
            return ApiError(f"This server's engine cannot do that: {error}.", code="unsupported_parameter")
        case WeightsRefused():
            message = f"The weights cannot be loaded, and the old ones stay: {error}."
            return ApiError(message, code="invalid_weights", param="model_path")
        case UnfollowableGrammar():
            message = f"The schema became too complex to follow ({error}). Simplify it."
            return ApiError(message, code="invalid_schema")
        case _:
            return internal(request_id)


def internal(request_id: str) -> ApiError:
    """A fault of ours."""
    return ApiError(
        f"The server failed to answer. Send the request again, and report request {request_id} if it fails again.",
        status=500,
        code="internal_error",
    )


def stopping() -> ApiError:
    """The engine was closed under a running request."""
    return _later("The server is shutting down. Send the request again.", "shutting_down")


def _later(message: str, code: str, status: int = 503) -> ApiError:
    return ApiError(message, status=status, code=code, retry_after_s=_RETRY_AFTER_S)
