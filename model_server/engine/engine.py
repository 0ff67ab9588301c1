"""The embedded engine: a step loop on its own thread, asyncio at its edge.

Each step admits, schedules, runs the model once, draws a token for every sequence that is due and reports it. Requests
and cancellations cross to the thread through a queue that is emptied before every step; tokens cross back through the
event loop of whoever asked.
"""

import asyncio
import logging
import queue
import secrets
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from torch import Tensor

from model_server.engine.prefix_cache import PrefixCache
from model_server.engine.runner import Runner
from model_server.engine.sampler import draw, logprobs
from model_server.engine.scheduler import ScheduledSequence, Scheduler, Sequence
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.types import (
    ContextLengthExceeded,
    EngineError,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Logprobs,
    Overloaded,
    TokenEvent,
)

_log = logging.getLogger(__name__)

_CHUNK_TOKENS = 512
"""Prompt tokens per step: long enough for efficient matrix products, short enough not to stall who decodes."""


@dataclass(eq=False, slots=True)
class _Stream:
    """A sequence and the way back to who asked for it."""

    sequence: Sequence
    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[TokenEvent | EngineError]"

    def send(self, event: TokenEvent | EngineError) -> bool:
        """False when the loop is closed: nobody listens any more, and nobody can cancel."""
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Submit:
    stream: _Stream


@dataclass(frozen=True, slots=True)
class _Cancel:
    stream: _Stream


@dataclass(frozen=True, slots=True)
class _Close:
    pass


_Message = _Submit | _Cancel | _Close


class EmbeddedEngine:
    """``types.Engine`` over a model in this process.

    ``max_running`` sequences share a step, ``max_waiting`` more may queue; past that a request is refused at once.
    ``context_length`` bounds prompt plus completion and defaults to the model's own. ``max_kept`` finished sequences
    stay in memory for prompts that continue them.
    """

    def __init__(
        self,
        model: MiMoV2Flash,
        max_running: int = 8,
        max_waiting: int = 64,
        context_length: int | None = None,
        max_kept: int = 16,
    ) -> None:
        self._context_length = context_length or model.config.max_position_embeddings
        self._vocab_size = model.config.vocab_size
        self._max_running = max_running
        self._max_live = max_running + max_waiting
        self._runner = Runner(model, self._context_length)
        self._scheduler = Scheduler(max_running, _CHUNK_TOKENS)
        self._prefixes = PrefixCache(max_kept)
        self._streams: dict[Sequence, _Stream] = {}
        self._live: set[_Stream] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """See :class:`model_server.types.Engine`."""
        stream = self._submit(request)
        try:
            while True:
                event = await stream.events.get()
                if isinstance(event, EngineError):
                    raise event
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            self._inbox.put(_Cancel(stream))  # no effect on a sequence that has ended

    def stats(self) -> EngineStats:
        """See :class:`model_server.types.Engine`."""
        with self._lock:
            num_live = len(self._live)
        running = min(num_live, self._max_running)
        return EngineStats(running, num_live - running, self._context_length)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held now, by running and by kept sequences."""
        running = [sequence.cache.num_bytes for sequence in list(self._streams) if sequence.cache is not None]
        return sum(running) + self._prefixes.num_bytes

    async def close(self) -> None:
        """See :class:`model_server.types.Engine`. Sequences that still run end with an error."""
        with self._lock:
            self._closed = True
        self._inbox.put(_Close())
        await asyncio.to_thread(self._thread.join)

    def _submit(self, request: GenerateRequest) -> _Stream:
        num_prompt, num_asked = len(request.prompt_ids), request.sampling.max_tokens
        if num_prompt + num_asked > self._context_length:
            raise ContextLengthExceeded(
                f"the prompt has {num_prompt} tokens and {num_asked} are asked for,"
                f" together more than the context of {self._context_length}"
            )
        if not request.prompt_ids or num_asked < 1:
            raise EngineError("a request needs at least one prompt token and one token to sample")
        named = [*request.prompt_ids, *(token for token, _ in request.sampling.logit_bias)]
        outside = next((token for token in named if not 0 <= token < self._vocab_size), None)
        if outside is not None:
            raise EngineError(f"token id {outside} is outside the vocabulary of {self._vocab_size}")
        seed = secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed
        stream = _Stream(Sequence(request, seed), asyncio.get_running_loop(), asyncio.Queue())
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            if len(self._live) >= self._max_live:
                raise Overloaded(f"{self._max_live} sequences are running or waiting already; try again later")
            self._live.add(stream)
        self._inbox.put(_Submit(stream))
        return stream

    # Everything below runs on the engine's thread.

    def _run(self) -> None:
        while self._receive():
            try:
                self._admit()
                self._step(self._scheduler.schedule())
            except Exception as error:  # noqa: BLE001 (outermost loop: a bad step ends its sequences, not the engine)
                _log.exception("engine.step_failed")
                for sequence in list(self._scheduler.running):
                    self._fail(sequence, EngineError(f"the step failed: {error!r}"))
        for sequence in list(self._streams):
            self._fail(sequence, EngineError("the engine was closed"))

    def _receive(self) -> bool:
        """Take in all messages; sleep while there is nothing to do. False when the engine is to end."""
        while True:
            try:
                message = self._inbox.get(block=not self._streams)
            except queue.Empty:
                return True
            match message:
                case _Submit(stream):
                    self._streams[stream.sequence] = stream
                    self._scheduler.add(stream.sequence)
                case _Cancel(stream):
                    if stream.sequence in self._streams:
                        self._retire(stream.sequence)
                case _Close():
                    return False

    def _admit(self) -> None:
        for sequence in self._scheduler.admit():
            sequence.cache = self._prefixes.take(sequence.ids)
            if sequence.cache is None:
                sequence.cache = self._runner.new_cache()
            sequence.cached_tokens = sequence.cache.num_tokens

    def _step(self, step: list[ScheduledSequence]) -> None:
        if not step:
            return
        logits = self._runner.forward([part.segment for part in step])
        finite = logits.isfinite().all(-1).tolist()
        for part, row, usable in zip(step, logits, finite, strict=True):
            if not usable:
                _log.error("engine.logits_not_finite", extra={"request_id": part.sequence.request.request_id})
                self._fail(part.sequence, EngineError("the model's logits are not finite"))
            elif part.samples:
                sequence = part.sequence
                if sequence.num_sampled == 0:
                    part.segment.cache.mark()
                self._sample(sequence, row)

    def _sample(self, sequence: Sequence, logits: Tensor) -> None:
        sampling = sequence.request.sampling
        token = _overdue(sequence)
        if token is None:
            token = draw(logits, sampling, sequence.seed, len(sequence.ids))
        asked = sampling.num_logprobs
        self._report(sequence, token, None if asked is None else logprobs(logits, token, asked))

    def _report(self, sequence: Sequence, token: int, scores: Logprobs | None) -> None:
        sequence.ids.append(token)
        reason = _finish_reason(sequence, token)
        stream = self._streams[sequence]
        if reason is not None:  # before the news is out: whoever hears it may ask again at once
            assert sequence.cache is not None, sequence.request.request_id
            self._prefixes.keep(sequence.ids, sequence.cache)
            self._retire(sequence)
        if not stream.send(TokenEvent(token, reason, sequence.cached_tokens, scores)) and reason is None:
            self._retire(sequence)

    def _fail(self, sequence: Sequence, error: EngineError) -> None:
        stream = self._streams[sequence]
        self._retire(sequence)
        stream.send(error)

    def _retire(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        sequence.cache = None
        stream = self._streams.pop(sequence)
        with self._lock:
            self._live.discard(stream)


def _overdue(sequence: Sequence) -> int | None:
    """The token that must come now because it did not come by itself."""
    deadline = sequence.request.sampling.deadline
    if deadline is None or sequence.num_sampled != deadline.num_tokens:
        return None
    sampled = sequence.ids[len(sequence.request.prompt_ids) :]
    return None if deadline.token_id in sampled else deadline.token_id


def _finish_reason(sequence: Sequence, token: int) -> FinishReason | None:
    sampling = sequence.request.sampling
    if token in sampling.stop_ids:
        return "stop"
    return "length" if sequence.num_sampled >= sampling.max_tokens else None
