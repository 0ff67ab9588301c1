"""``python -m model_server``: serve a checkpoint over the OpenAI protocol.

``python -m model_server plan`` says instead what a machine with GPUs holds of the published model, and
``python -m model_server sglang-args`` how SGLang is started there.
"""

import argparse
import gc
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from model_server.loopback import is_loopback

if TYPE_CHECKING:
    from fastapi import FastAPI

API_KEY_VARIABLE = "MIMO_MODEL_API_KEY"
_MAX_THREADS = 1024
"""Where the system has no room for so many, creating them ends the process."""
_DRAIN_S = 60
"""After SIGTERM, running answers have this long to end, s."""

logger = logging.getLogger("model_server")


class StartError(Exception):
    """The server cannot start; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then finish what runs. Exit code 2 is a mistake the caller can correct."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["plan"]:
        from model_server.plan import main as plan

        return plan(arguments[1:])
    if arguments[:1] == ["sglang-args"]:
        from model_server.sglang.command import main as sglang_args

        return sglang_args(arguments[1:])
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        checkpoint = find_checkpoint(options.checkpoint)
        # An empty one is none: every request without a key would have it.
        key = options.api_key or os.environ.get(API_KEY_VARIABLE) or None
        _check_exposure(options.host, key)
        with _bound(options.host, options.port) as listener:
            if options.sglang_url or options.sglang_start:
                return _serve_sglang(checkpoint, key, options, listener)
            _serve(_fitting_app(checkpoint, key, options), listener, checkpoint)
    except StartError as error:
        print(f"model_server: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def find_checkpoint(name: str) -> Path:
    """A checkpoint folder by its path, or by the name of one that ships with this package.

    Raises:
        StartError: there is no such folder, or it lacks a file.
    """
    shipped = Path(__file__).parent / "checkpoints"
    folder = next(
        (path for path in (Path(name), shipped / name, shipped / name.replace("-", "_")) if path.is_dir()), None
    )
    if folder is None:
        names = ", ".join(sorted(served_name(path) for path in shipped.glob("*") if (path / "config.json").is_file()))
        raise StartError(f"no checkpoint {name!r}: give a folder, or one of the shipped ones ({names or 'none'})")
    missing = [file for file in ("config.json", "tokenizer.json") if not (folder / file).is_file()]
    if missing:
        raise StartError(f"{folder} is no checkpoint: it has no {' and no '.join(missing)}")
    return folder


def served_name(checkpoint: Path) -> str:
    """The model name callers use for a checkpoint folder."""
    return checkpoint.resolve().name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_server", description=__doc__)
    parser.add_argument(
        "--checkpoint", "--tokenizer", required=True, help="folder, or the name of a shipped checkpoint"
    )
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one, which the log names")
    parser.add_argument("--host", default="127.0.0.1", help="other than loopback needs a key")
    parser.add_argument(
        "--api-key", help=f"bearer key for /v1; better set in {API_KEY_VARIABLE}, which ps does not show"
    )
    parser.add_argument("--max-running", type=_positive, default=8, help="sequences generated at once")
    parser.add_argument("--context-length", type=_positive, help="tokens; default: what the checkpoint was made for")
    parser.add_argument(
        "--kv-memory",
        type=_bytes,
        help="bytes for keys and values, or with K, M, G; default: for twice --max-running contexts, at most 2G",
    )
    parser.add_argument(
        "--threads",
        type=_threads,
        default=1,
        help="of PyTorch; and those that share a compiled step where that is faster. One is best for small models",
    )
    parser.add_argument(
        "--session-idle", type=_positive, help="seconds after which an unused session is forgotten; default: an hour"
    )
    parser.add_argument("--no-speculation", action="store_true", help="never guess tokens ahead")
    parser.add_argument(
        "--kernels",
        choices=("auto", "ref", "cpu", "cpu-bf16"),
        default="auto",
        help="what runs the model: ref is PyTorch, cpu compiled C++ (made on first use), auto cpu where it can be;"
        " cpu-bf16 multiplies matrices stored in bf16 with inputs rounded to bf16, where the processor can",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    sglang = parser.add_argument_group("SGLang as the engine; of the checkpoint only config and tokenizer are read")
    kind = sglang.add_mutually_exclusive_group()
    kind.add_argument("--sglang-url", help="one that runs; its key, if it has one, in MIMO_SGLANG_API_KEY")
    kind.add_argument("--sglang-start", type=Path, metavar="FILE", help="start one with the settings of a JSON file")
    sglang.add_argument("--sglang-groups", type=_positive, default=1, help="attention groups of the one that runs")
    sglang.add_argument("--sglang-command", help="what starts it; default: python3 -m sglang.launch_server")
    return parser


def _positive(text: str) -> int:
    if re.fullmatch("0*[1-9][0-9]{0,17}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _threads(text: str) -> int:
    if _positive(text) > _MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text} are more than {_MAX_THREADS}")
    return int(text)


def _bytes(text: str) -> int:
    parts = re.fullmatch("([0-9]+)([KMG]?)", text)
    if parts is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 500M or 2G")
    return _positive(parts[1]) << 10 * " KMG".index(parts[2] or " ")


def _check_exposure(host: str, key: str | None) -> None:
    if key is None and not is_loopback(host):
        raise StartError(f"{host} can be reached by others: set {API_KEY_VARIABLE} or --api-key, or use 127.0.0.1")


def _bound(host: str, port: int) -> socket.socket:
    """A socket that owns its port before the model loads, but takes no connection until it has."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise StartError(f"cannot listen on {host} port {port} ({error}): choose another with --port") from error
    return listener


def _fitting_app(checkpoint: Path, key: str | None, options: argparse.Namespace) -> "FastAPI":
    """Raises StartError where the machine has too little memory for it."""
    try:
        return _app(checkpoint, key, options)
    except (MemoryError, OSError, RuntimeError) as error:
        from model_server.kernels.memory import is_exhausted

        if not is_exhausted(error):
            raise
        remedy = "lower --kv-memory, --max-running or --context-length, or use --dtype bfloat16"
        raise StartError(f"this machine has too little memory: {remedy}") from error


def _app(checkpoint: Path, key: str | None, options: argparse.Namespace) -> "FastAPI":
    """Build everything. Imports are here because ``--help`` and mistakes should not wait for the tensor library."""
    try:
        import torch

        from model_server.chat.tokens import ChatTokenizer, TokenizerError
        from model_server.engine.backend import Loaded, choose_kernels
        from model_server.engine.cache_plan import plan_cache
        from model_server.engine.draft_policy import NO_SPECULATION, Speculation
        from model_server.engine.engine import SESSION_IDLE_S, EmbeddedEngine
        from model_server.kernels.cpu.build import NoLibrary
        from model_server.server.app import create_app
        from model_server.server.settings import ServerSettings
        from model_server.weights.files import CheckpointError
        from model_server.weights.load import load_model
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    torch.set_num_threads(options.threads)
    try:
        kernels = choose_kernels(options.kernels, options.threads)
    except NoLibrary as error:
        raise StartError(f"--kernels {options.kernels}: {error}") from error
    logger.info("kernels name=%s reason=%s", kernels.name, kernels.reason)
    # The reference dequantises for every use, which only memory is good for.
    load = partial(load_model, dtype=getattr(torch, options.dtype), keep_fp8=kernels.name == "cpu")
    try:
        tokenizer = ChatTokenizer.load(checkpoint)
        model = load(checkpoint)
    except (OSError, TokenizerError, CheckpointError) as error:
        raise StartError(f"{checkpoint} cannot be loaded: {error}") from error
    if tokenizer.vocab_size > model.config.vocab_size:
        raise StartError(
            f"{checkpoint}: tokenizer.json has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}:"
            " they are not of one checkpoint"
        )
    context_length = options.context_length or model.config.max_position_embeddings
    dtype = model.lm_head.weight.dtype
    try:
        backend, drafter = kernels.build(model, context_length)
    except ValueError as error:
        raise StartError(f"{checkpoint} cannot be loaded: {error}") from error
    num_hidden = 0 if options.no_speculation else drafter.num_hidden
    try:
        plan = plan_cache(model.config, dtype, options.max_running, context_length, options.kv_memory, num_hidden)
    except ValueError as error:
        raise StartError(f"--kv-memory: {error}") from error

    def reload(folder: Path) -> Loaded:
        found = load(folder)
        return Loaded(found.config, *kernels.build(found, context_length))

    engine = EmbeddedEngine(
        model,
        max_running=options.max_running,
        context_length=context_length,
        plan=plan,
        speculation=NO_SPECULATION if options.no_speculation else Speculation(),
        backend=backend,
        drafter=drafter,
        reload=reload,
        session_idle_s=options.session_idle or SESSION_IDLE_S,
    )
    settings = ServerSettings(model_name=served_name(checkpoint), api_key=key)
    return create_app(engine, tokenizer, settings, model.config)


def _not_installed(error: ModuleNotFoundError) -> Exception:
    if error.name is None or error.name.startswith("model_server"):
        return error
    return StartError(f"{error.name} is not installed: pip install 'mimo-coder[model]'")


def _serve_sglang(checkpoint: Path, key: str | None, options: argparse.Namespace, listener: socket.socket) -> int:
    """Serve over SGLang. Exit code 1: it did not come up, or ended by itself."""
    try:
        from pydantic import ValidationError

        from model_server.chat.tokens import ChatTokenizer, TokenizerError
        from model_server.config import load_config
        from model_server.server.app import create_app
        from model_server.server.settings import ServerSettings
        from model_server.sglang.arguments import ImpossibleLaunch
        from model_server.sglang.attachment import attach
        from model_server.sglang.command import complaint
        from model_server.sglang.health import SGLangFailed
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for every request to SGLang
    settings = ServerSettings(model_name=served_name(checkpoint), api_key=key)
    try:
        tokenizer, config = ChatTokenizer.load(checkpoint), load_config(checkpoint)
        attachment = attach(options, tokenizer, config)
        app = create_app(attachment.engine(), tokenizer, settings, config)
        _serve(app, listener, checkpoint, attachment.running)
    except (OSError, TokenizerError, ValidationError, ImpossibleLaunch) as error:
        raise StartError(complaint(error)) from error
    except SGLangFailed as error:
        print(f"model_server: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _serve(
    app: "FastAPI",
    listener: socket.socket,
    checkpoint: Path,
    beside: Callable[[Callable[[], None]], AbstractContextManager[None]] = lambda stop: nullcontext(),
) -> None:
    """``beside`` is entered while requests are served; what it is given stops that."""
    import uvicorn

    host, port = listener.getsockname()[:2]
    listener.listen()  # before it is said: whoever reads the line may connect, and waits until we answer
    logger.info("serving model=%s url=http://%s:%d/v1", served_name(checkpoint), host, port)
    # The server drains on these signals and then raises them again; by then there is nothing left to stop.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, _drained)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=_DRAIN_S)
    server = uvicorn.Server(config)
    gc.freeze()  # what is loaded stays: to look through it for garbage would stop every stream for 0.3 s
    with beside(lambda: setattr(server, "should_exit", True)):
        server.run(sockets=[listener])


def _drained(number: int, frame: FrameType | None) -> None:
    logger.info("stopped signal=%s", signal.Signals(number).name)


if __name__ == "__main__":
    sys.exit(main())
