"""Which SGLang our server stands in front of: one that runs already, or one that it starts and stops."""

import argparse
import os
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from model_server.chat.markers import END_THINK
from model_server.chat.tokens import ChatTokenizer
from model_server.config import ModelConfig
from model_server.sglang.arguments import LaunchSettings, launch, load_preset
from model_server.sglang.client import Endpoint, SGLangEngine
from model_server.sglang.command import API_KEY_VARIABLE, read_settings
from model_server.sglang.health import until_generating
from model_server.sglang.native import Vocabulary
from model_server.sglang.process import COMMAND, SGLangProcess, running


@dataclass(frozen=True, slots=True)
class Attachment:
    """An SGLang and the model it serves."""

    endpoint: Endpoint
    vocabulary: Vocabulary
    config: ModelConfig
    process: SGLangProcess | None = field(default=None, compare=False)
    """None where somebody else runs it."""

    def engine(self) -> SGLangEngine:
        """A client of its own connections; they belong to the event loop that uses it first."""
        return SGLangEngine(self.endpoint, self.vocabulary, self.config)

    def running(self, stop_serving: Callable[[], None]) -> AbstractContextManager[None]:
        """While our server serves; see :func:`model_server.sglang.process.running`."""
        if self.process is None:
            return nullcontext()
        return running(self.process, self._first_token, stop_serving)

    async def _first_token(self) -> float:
        assert self.process is not None, self.endpoint
        engine, process = self.engine(), self.process
        try:
            return await until_generating(engine, is_alive=lambda: process.is_alive)
        finally:
            await engine.close()


def attach(options: argparse.Namespace, tokenizer: ChatTokenizer, config: ModelConfig) -> Attachment:
    """The SGLang that the options of our command line name (``sglang_url`` or ``sglang_start``, ``sglang_groups``,
    ``sglang_command``, ``context_length``); nothing is started yet.

    Raises:
        OSError, ValidationError: the settings cannot be read.
        ImpossibleLaunch: SGLang would not start with them.
    """
    vocabulary = Vocabulary(tokenizer.end_ids, tokenizer.marker_id(END_THINK))
    key = os.environ.get(API_KEY_VARIABLE)
    if options.sglang_start is None:
        context_length = options.context_length or config.max_position_embeddings
        endpoint = Endpoint(options.sglang_url.rstrip("/"), context_length, options.sglang_groups, key)
        return Attachment(endpoint, vocabulary, config)
    given: dict[str, object] = {} if key is None else {"api_key": key}
    if options.context_length is not None:
        given["context_length"] = options.context_length
    settings = read_settings(options.sglang_start, given)
    command = COMMAND if options.sglang_command is None else shlex.split(options.sglang_command)
    process = SGLangProcess(launch(settings, load_preset(settings.version), config), command)
    return Attachment(_endpoint(settings), vocabulary, config, process)


def _endpoint(settings: LaunchSettings) -> Endpoint:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 (not bound to)
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return Endpoint(f"http://{host}:{settings.port}", settings.context_length, settings.attention_groups, key)
