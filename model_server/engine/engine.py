"""The embedded engine: a step loop on its own thread, asyncio at its edge.

Each step admits, schedules, guesses ahead, runs the model once, draws a token for every sequence that is due and
reports it. Requests and cancellations cross to the thread through a queue that is emptied before every step; tokens
cross back through the event loop of whoever asked.
"""

import asyncio
import concurrent.futures
import dataclasses
import logging
import queue
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from model_server.engine.admission import check_request
from model_server.engine.ahead import MOST_AT_ONCE, Ahead
from model_server.engine.backend import DecodingBackend, Loaded, StepBackend
from model_server.engine.cache_plan import CachePlan, plan_cache
from model_server.engine.draft_policy import DraftPolicy, Speculation
from model_server.engine.drafter import Drafter
from model_server.engine.drafting import TokenDrafter
from model_server.engine.draws import draw_together
from model_server.engine.guesser import NOTHING, Guess, Guesser
from model_server.engine.inbox import Call, Cancel, Change, Close, Message, News, Stream, Submit
from model_server.engine.kv_cache import KVCache
from model_server.engine.result import StepResult
from model_server.engine.routes import Routes
from model_server.engine.scheduler import ScheduledSequence, Scheduler
from model_server.engine.sequence import Sequence, cache_of
from model_server.engine.torch_backend import TorchBackend
from model_server.kernels.batch import TILE, StepOutput, new_pools, ring_size
from model_server.kernels.memory import is_exhausted
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.types import (
    EngineError,
    EngineStats,
    EngineUnavailable,
    GenerateRequest,
    OutOfMemory,
    Overloaded,
    TokenEvent,
    UnsupportedRequest,
    WeightsRefused,
)
from model_server.weights.files import CheckpointError

_log = logging.getLogger(__name__)

_SPECULATION = Speculation()

SESSION_IDLE_S = 3600.0
"""A person who thinks about an answer comes back within the hour; after that a prompt is read again."""

_NAP_S = 30.0
"""How long an engine with nothing to do sleeps at most: sessions are to be forgotten then too, s."""

_PROMPT_TOKENS = 512
"""Of all prompts together in a step: enough for efficient matrix products, not so many that who decodes stalls."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Decoded:
    """Steps of sequences that all decode."""

    num_sequences: int
    num_steps: int
    is_plain: bool
    """Without guesses."""


class EmbeddedEngine:
    """``types.Engine`` over a model in this process.

    ``max_running`` sequences share a step, ``max_waiting`` more may queue; past that a request is refused at once.
    ``context_length`` bounds prompt plus completion and defaults to the model's own. ``plan`` says how much memory
    there is for keys and values of what runs and of what may be continued. ``speculation`` says how far tokens may be
    guessed ahead while that pays; the tokens are the same with and without. ``backend`` runs
    the steps, plain PyTorch unless one is given. ``weights_version`` names the weights, and ``reload`` makes what runs
    others. Sessions are forgotten when they were not used for ``session_idle_s``.
    """

    def __init__(
        self,
        model: MiMoV2Flash,
        max_running: int = 8,
        max_waiting: int = 64,
        context_length: int | None = None,
        plan: CachePlan | None = None,
        speculation: Speculation = _SPECULATION,
        backend: StepBackend | None = None,
        drafter: TokenDrafter | None = None,
        weights_version: str = "default",
        reload: Callable[[Path], Loaded] | None = None,
        session_idle_s: float = SESSION_IDLE_S,
    ) -> None:
        config, dtype = model.config, model.lm_head.weight.dtype
        self._config = config
        self._context_length = context_length or config.max_position_embeddings
        self._max_running = max_running
        self._max_live = max_running + max_waiting
        drafter = drafter or Drafter(model, self._context_length)
        policy = DraftPolicy(speculation.at_most(TILE - 1, drafter.max_drafts))
        self._max_drafts = drafter.max_drafts
        self._guesser = Guesser(drafter, policy)
        plan = plan or plan_cache(config, dtype, max_running, self._context_length, num_hidden=self._guesser.num_hidden)
        self.pools = new_pools(config, plan.num_pages, max_running + plan.num_snapshots + plan.num_sessions, dtype)
        self._weights_version = weights_version
        self._reload = reload
        self._reloading = threading.Lock()
        self._change: Change | None = None
        """New weights that wait for the end of what runs."""
        self._session_idle_s = session_idle_s
        self._backend = backend or TorchBackend(model, self._context_length)
        self._decoder = _decoder(self._backend)
        self._ahead = Ahead()
        self._cache = KVCache(
            self.pools,
            num_undoable=ring_size(config.window_keys) - (config.window_keys - 1),
            max_snapshots=plan.num_snapshots,
            max_sessions=plan.num_sessions,
            num_hidden=self._guesser.num_hidden,
        )
        most_new = max(policy.longest_of_all, MOST_AT_ONCE - 1 if self._decoder else 0)
        self._scheduler = Scheduler(self._cache, max_running, _PROMPT_TOKENS, most_new)
        self._streams: dict[Sequence, Stream] = {}
        self._news: defaultdict[asyncio.AbstractEventLoop, list[News]] = defaultdict(list)
        """What the step has for those who asked; sent at its end, since waking an event loop costs."""
        self._live: set[Stream] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
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
            self._inbox.put(Cancel(stream))  # no effect on a sequence that has ended

    def stats(self) -> EngineStats:
        with self._lock:
            num_live = len(self._live)
        running = min(num_live, self._max_running)
        return EngineStats(
            running=running,
            waiting=num_live - running,
            context_length=min(self._context_length, self._cache.max_tokens),
            drafted=self._guesser.num_guessed,
            accepted=self._guesser.num_held,
            cache=self._cache.stats(),
            weights_version=self._weights_version,
        )

    async def series(self) -> str:
        """All it measures is in :meth:`stats`."""
        return ""

    async def drop_session(self, cache_salt: str, session_id: str) -> bool:

        def drop() -> bool:
            in_use = [
                sequence
                for sequence in self._streams
                if sequence.session_id == session_id and sequence.request.cache_salt == cache_salt
            ]
            for sequence in in_use:
                sequence.session_id = None
            return self._cache.drop_session(cache_salt, session_id) or bool(in_use)

        return await self._call(drop)

    async def load_weights(self, folder: str, version: str, *, abort: bool = False) -> None:
        """Old and new weights are in memory together for a while."""
        if self._reload is None:
            raise UnsupportedRequest("this engine was given weights, and cannot load others")
        if not self._reloading.acquire(blocking=False):
            raise EngineUnavailable("other weights are being loaded")
        try:
            loaded = await asyncio.to_thread(self._reload, Path(folder))
        except (OSError, CheckpointError, ValueError) as error:
            raise WeightsRefused(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not is_exhausted(error):
                raise
            raise WeightsRefused("there is not enough memory for them beside the old ones") from error
        finally:
            self._reloading.release()
        self._check_weights(loaded)
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._send(Change(loaded, version, abort, done))
        await asyncio.shield(asyncio.wrap_future(done))

    async def flush_cache(self) -> None:

        def flush() -> bool:
            self._cache.flush()
            return True

        await self._call(flush)

    async def close(self) -> None:
        """Sequences that still run end with an error."""
        with self._lock:
            self._closed = True
        self._inbox.put(Close())
        await asyncio.to_thread(self._thread.join)

    async def _call(self, work: Callable[[], bool]) -> bool:
        done: concurrent.futures.Future[bool] = concurrent.futures.Future()
        self._send(Call(work, done))
        return await asyncio.wrap_future(done)

    def _send(self, message: "Call | Change") -> None:
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            self._inbox.put(message)

    def _check_weights(self, loaded: Loaded) -> None:
        if loaded.config != self._config:
            raise WeightsRefused("its config.json is not that of the model that runs")
        if loaded.drafter.max_drafts != self._max_drafts:
            raise WeightsRefused(
                f"it has {loaded.drafter.max_drafts} prediction layers, the model that runs {self._max_drafts}"
            )

    def _submit(self, request: GenerateRequest) -> Stream:
        config = self._config
        check_request(request, config, self._context_length, self._cache.max_tokens)
        num_layers = sum(config.moe_layer_freq)
        routes = Routes(num_layers, config.num_experts_per_tok if num_layers else 0)
        if request.forced_experts is not None:
            routes.record(0, request.forced_experts[: len(request.prompt_ids)].numpy())
        seed = secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed
        stream = Stream(Sequence(request, seed, routes), asyncio.get_running_loop(), asyncio.Queue())
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            if len(self._live) >= self._max_live:
                raise Overloaded(f"{self._max_live} sequences are running or waiting already; try again later")
            self._live.add(stream)
        self._inbox.put(Submit(stream))
        return stream

    # Everything below runs on the engine's thread.

    def _run(self) -> None:
        while self._receive():
            started = time.thread_time()  # of this thread: what other programs take of the machine says nothing
            decoded = None
            try:
                decoded = self._step()
            except Exception as error:  # noqa: BLE001 (outermost loop: a bad step ends its sequences, not the engine)
                _log.exception("engine.step_failed")
                for sequence in list(self._scheduler.running or self._scheduler.waiting):
                    self._fail(sequence, _failure(error))
            self._send_news()
            if decoded is not None:
                self._observe(decoded, time.thread_time() - started)
            self._change_weights()
            self._cache.drop_idle_sessions(time.monotonic() - self._session_idle_s)
        for sequence in list(self._streams):
            self._fail(sequence, EngineError("the engine was closed"))
        if self._change is not None:
            self._change.done.set_exception(EngineError("the engine was closed"))
        self._send_news()

    def _receive(self) -> bool:
        """Take in all messages; sleep while there is nothing to do. False when the engine is to end."""
        while True:
            try:
                is_idle = not self._streams and self._change is None
                message = self._inbox.get(block=is_idle, timeout=_NAP_S)
            except queue.Empty:
                return True
            match message:
                case Submit(stream):
                    self._streams[stream.sequence] = stream
                    self._scheduler.add(stream.sequence)
                case Cancel(stream):
                    if stream.sequence in self._streams:
                        self._cancel(stream.sequence)
                case Call(work, done):
                    if done.set_running_or_notify_cancel():
                        done.set_result(work())
                case Change():
                    self._await_change(message)
                case Close():
                    return False

    def _await_change(self, change: Change) -> None:
        if self._change is not None:
            change.done.set_exception(EngineUnavailable("other weights are being loaded"))
            return
        self._change, self._scheduler.is_closed = change, True
        for sequence in list(self._streams) if change.abort else ():
            self._fail(sequence, EngineUnavailable("other weights are being loaded"))

    def _change_weights(self) -> None:
        change = self._change
        if change is None or self._scheduler.has_begun:
            return
        self._backend, self._weights_version = change.loaded.backend, change.version
        self._decoder = _decoder(self._backend)
        self._guesser.replace_drafter(change.loaded.drafter)
        self._cache.outdate()
        self._change, self._scheduler.is_closed = None, False
        _log.info("engine.weights_changed", extra={"version": change.version})
        change.done.set_result(None)

    def _step(self) -> _Decoded | None:
        """What was done, where all sequences decode."""
        step = self._scheduler.schedule()
        if step and all(part.samples and part.num_tokens == 1 for part in step):
            return self._decode(step)
        if step:  # beside a prompt, which sets the pace, nothing is guessed
            self._execute(step)
        return None

    def _decode(self, step: list[ScheduledSequence]) -> _Decoded:
        """Several steps at once, or one with guesses. Of many sequences some always have a guess, which would end for
        all what saves as much: only one that is alone chooses."""
        count, sequences = len(step), [part.sequence for part in step]
        at_once = self._at_once(sequences)
        if count == 1 or at_once == 1:
            step = self._guessed(step)
            if any(part.guess.tokens for part in step):
                self._execute(step)
                return _Decoded(count, 1, is_plain=False)
            if at_once > 1 and self._guesser.goes_by_itself():
                at_once = 1
        at_once = min(at_once, self._ahead.room(sequences))
        return _Decoded(count, self._execute(step, at_once) // count, is_plain=True)

    def _at_once(self, sequences: list[Sequence]) -> int:
        if self._decoder is None or len(sequences) > self._decoder.most_together:
            return 1
        return self._ahead.most(sequences)

    def _observe(self, decoded: _Decoded, seconds: float) -> None:
        """It took so long, with all that is done between two steps."""
        count, step_s = decoded.num_sequences, seconds / decoded.num_steps
        if decoded.is_plain:
            self._ahead.observe(count, step_s)
        if count == 1 or decoded.num_steps == 1:  # several steps of a group say nothing of one with guesses
            self._guesser.observe_step(count, step_s, decoded.num_steps)

    def _guessed(self, step: list[ScheduledSequence]) -> list[ScheduledSequence]:
        guesses = self._guesser.guess([part.sequence for part in step])
        if not guesses:
            return step
        return [dataclasses.replace(part, guess=guesses.get(part.sequence, NOTHING)) for part in step]

    def _execute(self, step: list[ScheduledSequence], at_once: int = 1) -> int:
        """Run the model and take what comes of it: the number of rows. If the whole step fails its parts are run one by
        one, and end only their own sequences.

        Args:
            at_once: so many steps follow each other, at most; more than 1 of sequences that decode without guesses.
        """
        try:
            if at_once > 1:
                step, result = self._results_ahead(step, at_once)
            else:
                result = self._result(step)
        except Exception as error:  # noqa: BLE001 (whatever it was, those who are not to blame go on)
            _log.exception("engine.step_failed", extra={"num_sequences": len(step)})
            if len(step) == 1:
                self._fail(step[0].sequence, _failure(error))
            else:
                for part in step:
                    self._execute([part])
            return sum(part.num_rows for part in step)
        num_rows = num_logits = 0
        for part in step:
            self._take_or_fail(part, result, num_rows, num_logits)
            num_rows += part.num_rows
            num_logits += part.num_logits
        return num_rows

    def _result(self, step: list[ScheduledSequence]) -> StepResult:
        """Raises:
        EngineError: the model's logits are not finite.
        """
        return _drawn(step, self._backend.step([part.segment() for part in step], self.pools))

    def _results_ahead(self, step: list[ScheduledSequence], most: int) -> tuple[list[ScheduledSequence], StepResult]:
        """The same of several steps, whose tokens are the parts' guesses, all of which hold.

        Raises:
            EngineError: the model's logits are not finite.
        """
        assert self._decoder is not None
        stops = frozenset().union(*(part.sequence.request.sampling.stop_ids for part in step))
        keep_logits = any(part.sequence.request.sampling.num_logprobs is not None for part in step)
        segments = [part.segment() for part in step]
        output = self._decoder.decode(segments, self.pools, most, stops, keep_logits=keep_logits)
        assert output.likeliest is not None
        num_steps = len(output.likeliest) // len(step)
        tokens = [
            output.likeliest[first : first + num_steps - 1] for first in range(0, len(output.likeliest), num_steps)
        ]
        step = [
            dataclasses.replace(part, guess=Guess(known.tolist(), source=None))
            for part, known in zip(step, tokens, strict=True)
        ]
        return step, _drawn(step, output)

    def _take_or_fail(self, part: ScheduledSequence, result: StepResult, first_row: int, first_logit: int) -> None:
        try:
            self._take(part, result, first_row, first_logit)
        except EngineError as error:
            _log.error("engine.sequence_failed", extra={"request_id": part.sequence.request.request_id})
            self._fail(part.sequence, error)
        except Exception as error:  # noqa: BLE001 (the other sequences of the step go on)
            _log.exception("engine.sequence_failed", extra={"request_id": part.sequence.request.request_id})
            self._fail(part.sequence, _failure(error))

    def _take(self, part: ScheduledSequence, result: StepResult, first_row: int, first_logit: int) -> None:
        """Sample after the pending tokens, and after each guess as long as it is what was sampled; commit what holds
        and report it. The part's results begin at these rows.

        Raises:
            EngineError: the sequence cannot go on.
        """
        sequence, cache, guess = part.sequence, cache_of(part.sequence), part.guess
        result.score(part, first_logit)
        newest = first_logit + part.num_known - 1
        news = list(result.sampled(sequence, guess.tokens, newest)) if part.samples else []
        num_held = max(len(news) - 1, 0)
        num_kept, before = part.num_tokens + num_held, cache.num_tokens
        sequence.routes.record(before, result.experts[first_row : first_row + num_kept])
        cache.hidden.add(result.output.hidden, first_row, first_row + num_kept)
        self._guesser.judge(sequence, guess, num_held)
        cache.commit(part.num_rows, num_kept)
        self._cache.remember(sequence, before)
        for event in news:
            self._report(sequence, event)

    def _report(self, sequence: Sequence, event: TokenEvent) -> None:
        stream = self._streams.get(sequence)
        if stream is None:
            return  # its reader went away in the middle of the step
        if event.finish_reason is not None:  # before the news is out: whoever hears it may ask again at once
            start = sequence.request.experts_from
            experts = None if start is None else sequence.routes.view(start)
            event = dataclasses.replace(
                event,
                experts=experts,
                segment=sequence.segment,
                prompt_logprobs=None if sequence.request.scored_from is None else tuple(sequence.prompt_logprobs),
                weights_version=self._weights_version,
            )
            self._cache.finish(sequence)
            self._retire(sequence)
        self._news[stream.loop].append((stream, event))

    def _send_news(self) -> None:
        by_loop, self._news = self._news, defaultdict(list)
        for loop, news in by_loop.items():
            try:
                loop.call_soon_threadsafe(_hand_over, news)
            except RuntimeError:  # the loop is closed: nobody listens any more, and nobody can cancel
                for stream, _ in news:
                    if stream.sequence in self._streams:
                        self._cancel(stream.sequence)

    def _cancel(self, sequence: Sequence) -> None:
        self._cache.cancel(sequence)
        self._retire(sequence)

    def _fail(self, sequence: Sequence, error: EngineError) -> None:
        self._cache.fail(sequence)
        stream = self._retire(sequence)
        self._news[stream.loop].append((stream, error))

    def _retire(self, sequence: Sequence) -> Stream:
        self._scheduler.remove(sequence)
        self._guesser.forget(sequence)
        stream = self._streams.pop(sequence)
        with self._lock:
            self._live.discard(stream)
        return stream


def _hand_over(news: list[News]) -> None:
    """Runs in the event loop of those who asked."""
    for stream, event in news:
        stream.events.put_nowait(event)


def _failure(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    return OutOfMemory(str(error)) if is_exhausted(error) else EngineError(f"the step failed: {error!r}")


def _decoder(backend: StepBackend) -> DecodingBackend | None:
    return backend if isinstance(backend, DecodingBackend) else None


def _drawn(step: list[ScheduledSequence], output: StepOutput) -> StepResult:
    """Raises:
    EngineError: the model's logits are not finite.
    """
    if not output.is_finite:
        raise EngineError("the model's logits are not finite")
    return StepResult(output, output.experts.numpy(), draw_together(step, output))
