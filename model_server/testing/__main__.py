"""``python -m model_server.testing``: a fake SGLang as a process, with the command line of the real one.

It understands a few of SGLang's flags, ignores the others, and has some of its own:

    --fake-answer TEXT      said to everyone, again and again where an answer may be longer (default "hello")
    --fake-model            continue with the checkpoint at --model-path instead
    --fake-load-s SECONDS   do not listen before that
    --fake-interval-s SECONDS   between two tokens
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from model_server.chat.markers import END_THINK, IM_END
from model_server.chat.tokens import ChatTokenizer
from model_server.config import load_config
from model_server.engine.scripted import ScriptedEngine
from model_server.testing.fake_sglang import FakeSGLang, GrammarFields, State
from model_server.types import Engine, Grammar

_POLL_S = 0.1


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM, then until nothing runs any more."""
    options, _ = _parser().parse_known_args(arguments)
    tokenizer, config = ChatTokenizer.load(options.model_path), load_config(options.model_path)
    context_length = options.context_length or config.max_position_embeddings
    engine = (_model if options.fake_model else _script)(options, tokenizer, context_length)
    fake = FakeSGLang(
        engine,
        config=config,
        end_think_id=tokenizer.marker_id(END_THINK),
        grammar=_forms(tokenizer) if options.fake_model else lambda fields: None,
        incremental=options.incremental_streaming_output,
    )
    asyncio.run(_serve(fake, options))


async def _serve(fake: FakeSGLang, options: argparse.Namespace) -> None:
    await asyncio.sleep(options.fake_load_s)
    server = uvicorn.Server(uvicorn.Config(fake.app, host=options.host, port=options.port, log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(_POLL_S)
    draining = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, draining.set)
    await asyncio.wait([serving, drained := asyncio.create_task(_drain(fake, draining))], return_when="FIRST_COMPLETED")
    drained.cancel()
    server.should_exit = True
    await serving


async def _drain(fake: FakeSGLang, asked: asyncio.Event) -> None:
    """As SGLang does: unhealthy at once, gone once nothing runs."""
    await asked.wait()
    fake.state = State.DRAINING
    while fake.num_running:  # noqa: ASYNC110 (SGLang looks now and then too)
        await asyncio.sleep(_POLL_S)


def _script(options: argparse.Namespace, tokenizer: ChatTokenizer, context_length: int) -> Engine:
    answer = [*tokenizer.encode_text(options.fake_answer), tokenizer.marker_id(IM_END)]
    return ScriptedEngine(
        lambda request: answer * (1 + request.sampling.max_tokens // len(answer)),
        context_length=context_length,
        interval_s=options.fake_interval_s,
    )


def _model(options: argparse.Namespace, tokenizer: ChatTokenizer, context_length: int) -> Engine:
    import torch

    from model_server.engine.engine import EmbeddedEngine
    from model_server.weights.load import load_model

    torch.set_num_threads(1)
    return EmbeddedEngine(load_model(options.model_path, torch.float32), context_length=context_length)


def _forms(tokenizer: ChatTokenizer) -> Callable[[GrammarFields], Grammar | None]:
    from model_server.testing.forms import FormReader

    return FormReader(tokenizer)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_server.testing", allow_abbrev=False)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30_000)
    parser.add_argument("--context-length", type=int)
    parser.add_argument("--incremental-streaming-output", action="store_true")
    parser.add_argument("--fake-answer", default="hello")
    parser.add_argument("--fake-model", action="store_true")
    parser.add_argument("--fake-load-s", type=float, default=0.0)
    parser.add_argument("--fake-interval-s", type=float, default=0.0)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
