"""The embedded engine: a step loop on its own thread, asyncio at its edge.

Each step admits, schedules, runs the model once, draws a token for every sequence that is due and reports it. Requests
and cancellations cross to the thread through a queue that is emptied before every step; tokens cross back through the
event loop of whoever asked.
"""

import asyncio
import dataclasses
import logging
import queue
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from torch import Tensor

from model_server.engine.draft_length import DraftLength
from model_server.engine.drafter import Drafter, DraftState
from model_server.engine.prefix_cache import PrefixCache
from model_server.engine.runner import Runner, Segment
from model_server.engine.sampler import draw, logprobs
from model_server.engine.scheduler import ScheduledSequence, Scheduler, Sequence
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.types import (
    ContextLengthExceeded,
    EngineError,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Overloaded,
    TokenEvent,
    UnfollowableGrammar,
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
    stay in memory for prompts that continue them. ``speculate`` lets prediction layers, where the model has them, guess
    tokens ahead while that pays; the tokens are the same with and without.
    """

    def __init__(
        self,
        model: MiMoV2Flash,
        max_running: int = 8,
        max_waiting: int = 64,
        context_length: int | None = None,
        max_kept: int = 16,
        speculate: bool = True,
    ) -> None:
        self._context_length = context_length or model.config.max_position_embeddings
        self._vocab_size = model.config.vocab_size
        self._max_running = max_running
        self._max_live = max_running + max_waiting
        self._runner = Runner(model, self._context_length)
        self._drafter = Drafter(model, self._runner)
        self._draft_length = DraftLength(self._drafter.max_drafts if speculate else 0)
        self._num_drafted = self._num_accepted = 0
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
        return EngineStats(running, num_live - running, self._context_length, self._num_drafted, self._num_accepted)

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
            if self._draft_length.longest:
                sequence.draft_state = self._drafter.new_state(sequence.cached_tokens)

    def _step(self, step: list[ScheduledSequence]) -> None:
        if not step:
            return
        started = time.monotonic()
        drafts = self._draft(step)
        length = max(map(len, drafts))
        segments = [
            Segment([*part.segment.ids, *guessed], part.segment.cache, 1 + len(guessed))
            for part, guessed in zip(step, drafts, strict=True)
        ]
        output = self._runner.step(segments)
        accepted = [
            self._take(part, drafts[index], output.logits[index], output.hidden[index], output.experts[index])
            for index, part in enumerate(step)
        ]
        self._num_drafted += sum(map(len, drafts))
        self._num_accepted += sum(accepted)
        if _is_decoding(step):
            self._draft_length.observe(len(step), length, time.monotonic() - started, accepted)

    def _draft(self, step: list[ScheduledSequence]) -> list[list[int]]:
        """Guesses for every sequence of a step in which all decode; none beside a prompt, which sets the pace."""
        length = self._draft_length.choose(len(step)) if _is_decoding(step) else 0
        length = min([length, *(self._room(part.sequence) for part in step)])
        if length < 1:
            return [[] for _ in step]
        return self._drafter.draft([(part.sequence.ids, self._draft_state(part.sequence)) for part in step], length)

    def _room(self, sequence: Sequence) -> int:
        """Tokens that may still follow the one that is due."""
        return min(
            sequence.request.sampling.max_tokens - sequence.num_sampled - 1,
            self._context_length - len(sequence.ids) - 1,
        )

    def _draft_state(self, sequence: Sequence) -> DraftState:
        assert sequence.draft_state is not None, sequence.request.request_id
        return sequence.draft_state

    def _take(self, part: ScheduledSequence, drafts: list[int], logits: Tensor, hidden: Tensor, experts: Tensor) -> int:
        """Sample after the pending tokens, and after each draft as long as it is what was sampled; commit what holds
        and report it. Returns the number of accepted drafts."""
        sequence, cache = part.sequence, part.segment.cache
        if not bool(logits.isfinite().all()):
            _log.error("engine.logits_not_finite", extra={"request_id": sequence.request.request_id})
            self._fail(sequence, EngineError("the model's logits are not finite"))
            return 0
        is_first = part.samples and sequence.num_sampled == 0
        try:
            news = list(self._sampled(sequence, drafts, logits)) if part.samples else []
        except UnfollowableGrammar as error:
            _log.error("engine.grammar_failed", extra={"request_id": sequence.request.request_id})
            self._fail(sequence, error)
            return 0
        num_accepted = max(len(news) - 1, 0)
        cache.commit(len(part.segment.ids) + num_accepted, experts)
        if sequence.draft_state is not None:
            sequence.draft_state.absorb(hidden[: len(part.segment.ids) + num_accepted])
        if is_first:
            cache.mark()
        for event in news:
            self._report(sequence, event)
        return num_accepted

    def _sampled(self, sequence: Sequence, drafts: list[int], logits: Tensor) -> Iterator[TokenEvent]:
        """The tokens after one row of logits or more. A draft is accepted if it is what would have been sampled in its
        place anyway, so drafts change how fast tokens come and never which, under a grammar too."""
        sampling, grammar = sequence.request.sampling, sequence.grammar
        for row, draft in zip_longest(logits, drafts):
            token = _overdue(sequence)
            if token is None:
                possible = row if grammar is None else grammar.mask(row)
                token = draw(possible, sampling, sequence.seed, len(sequence.ids))
            if grammar is not None:
                grammar.accept(token)
            asked = sampling.num_logprobs
            scores = None if asked is None else logprobs(row, token, asked)
            sequence.ids.append(token)
            reason = _finish_reason(sequence, token)
            yield TokenEvent(token, reason, sequence.cached_tokens, scores)
            if reason is not None or token != draft:
                return

    def _report(self, sequence: Sequence, event: TokenEvent) -> None:
        stream = self._streams.get(sequence)
        if stream is None:
            return  # its reader went away in the middle of the step
        if event.finish_reason is not None:  # before the news is out: whoever hears it may ask again at once
            assert sequence.cache is not None, sequence.request.request_id
            start = sequence.request.experts_from
            if start is not None:
                event = dataclasses.replace(event, experts=sequence.cache.experts(start))
            self._prefixes.keep(sequence.ids, sequence.cache)
            self._retire(sequence)
        if not stream.send(event) and event.finish_reason is None:
            self._retire(sequence)

    def _fail(self, sequence: Sequence, error: EngineError) -> None:
        stream = self._streams[sequence]
        self._retire(sequence)
        stream.send(error)

    def _retire(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        sequence.cache = sequence.draft_state = None
        stream = self._streams.pop(sequence)
        with self._lock:
            self._live.discard(stream)


def _is_decoding(step: list[ScheduledSequence]) -> bool:
    return all(part.samples and len(part.segment.ids) == 1 for part in step)


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
