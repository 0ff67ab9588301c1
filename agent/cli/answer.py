"""``mimo run --output-schema``: the result as JSON of a shape that the caller names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema
from httpx_sse import SSEError, aconnect_sse

from agent.api.schemas import TaskView
from agent.cli.failure import ExitCode, Failure
from agent.config import ModelSettings
from agent.history import assistant_message
from agent.types import AssistantMessage, Message

_TRIES = 3
_MAX_PATCH_CHARS = 20_000
_MAX_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """A JSON schema that the answer has to meet."""

    schema: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "AnswerForm":
        """
        Raises:
            Failure: the file holds no schema.
        """
        try:
            schema = json.loads(path.read_text("utf-8"))
            jsonschema.Draft202012Validator.check_schema(schema)
        except (OSError, ValueError, jsonschema.SchemaError) as error:
            raise Failure(
                ExitCode.USAGE, f"--output-schema: {path}: {_first_line(error)}", "name a file with a JSON schema"
            ) from error
        if not isinstance(schema, dict):
            raise Failure(
                ExitCode.USAGE, f"--output-schema: {path}: it is no JSON object", "name a file with a JSON schema"
            )
        return cls(schema)

    def problem(self, text: str) -> str:
        """Why a text does not meet the schema; empty where it does."""
        try:
            jsonschema.validate(json.loads(text), self.schema, cls=jsonschema.Draft202012Validator)
        except (ValueError, jsonschema.ValidationError) as error:
            return _first_line(error)
        return ""


async def answer(form: AnswerForm, task: TaskView, said: str, model: ModelSettings) -> str:
    """Have the model put what came of a task into the form.

    Args:
        said: the agent's last words.

    Raises:
        Failure: it does not manage to, or cannot be asked.
    """
    messages: list[Message] = [{"role": "user", "content": _question(form, task, said)}]
    enforced = True
    problem = "no answer"
    for _ in range(_TRIES):
        try:
            text = await _ask(model, messages, form if enforced else None)
        except httpx.HTTPStatusError as error:
            if not enforced or error.response.status_code not in (400, 422):
                raise _away(error) from error
            enforced = False  # The endpoint does not know how to; the check below holds all the same.
            continue
        except (httpx.HTTPError, SSEError, ValueError) as error:
            raise _away(error) from error
        if not (problem := form.problem(text)):
            return text
        messages += [
            assistant_message(AssistantMessage(content=text)),
            {"role": "user", "content": f"Not of that schema: {problem}"},
        ]
    raise Failure(
        ExitCode.FAILED, f"the answer is not of the schema: {problem}", "ask for less, or for a simpler schema"
    )


def _question(form: AnswerForm, task: TaskView, said: str) -> str:
    return (
        f"This was the task:\n\n{task.problem_statement}\n\nThis was said at its end:\n\n{said or '(nothing)'}\n\n"
        f"This is the patch:\n\n{task.patch[:_MAX_PATCH_CHARS] or '(none)'}\n\n"
        f"Give the result as JSON of this schema, and nothing else:\n\n{json.dumps(form.schema)}"
    )


async def _ask(model: ModelSettings, messages: list[Message], form: AnswerForm | None) -> str:
    body: dict[str, Any] = {
        "model": model.name,
        "messages": messages,
        "stream": True,
        "max_tokens": _MAX_TOKENS,
        "temperature": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    if form is not None:
        shape = {"name": "answer", "schema": form.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    key = model.api_key
    headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
    timeout = httpx.Timeout(model.idle_s, connect=model.connect_timeout_s, read=model.first_token_s)
    url = f"{model.url.rstrip('/')}/chat/completions"
    parts: list[str] = []
    async with (
        httpx.AsyncClient(timeout=timeout) as client,
        aconnect_sse(client, "POST", url, json=body, headers=headers) as source,
    ):
        source.response.raise_for_status()
        async for event in source.aiter_sse():
            if event.data == "[DONE]":
                break
            choices = json.loads(event.data).get("choices") or [{}]
            parts.append(choices[0].get("delta", {}).get("content") or "")
    return "".join(parts).strip()


def _away(error: Exception) -> Failure:
    return Failure(ExitCode.RETRYABLE, f"the model cannot be asked for the answer: {_first_line(error)}", "try again")


def _first_line(error: Exception) -> str:
    message = error.message if isinstance(error, jsonschema.ValidationError | jsonschema.SchemaError) else str(error)
    return (message or type(error).__name__).splitlines()[0][:500]
