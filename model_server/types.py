"""What the server asks of an engine, and what it gets back. Token ids only: text is the chat layer's."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. ``temperature`` 0 is greedy, ties to the lowest id."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    min_p: float = 0.0
    """Tokens less likely than this share of the likeliest are never drawn."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids and what is added to their logits, after penalties and before anything else."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time it was sampled."""
    presence_penalty: float = 0.0
    """Taken from the logit of each token that was sampled."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that were sampled or are in the prompt, or multiplies those below 0."""
    seed: int | None = None
    """A draw depends on (seed, position) only, never on what else runs; None takes a random seed."""
    max_tokens: int = 4096
    stop_ids: frozenset[int] = frozenset()
    num_logprobs: int | None = None
    """Report the logarithm of each sampled token's probability, and those of so many likeliest tokens beside it."""
    deadline: "TokenDeadline | None" = None
    grammar: "Grammar | None" = None
    """What may be drawn at all, before every other setting; None leaves all tokens."""


@dataclass(frozen=True, slots=True)
class TokenDeadline:
    """``token_id`` comes by itself among the first ``num_tokens`` tokens, or is put in as the one after them."""

    token_id: int
    num_tokens: int


class Grammar(Protocol):
    """What a continuation may say; shared by sequences, each with a state of its own."""

    @property
    def form(self) -> "TurnForm | None":
        """What it was made from, for engines that enforce forms themselves; None if that cannot be said."""

    def start(self) -> "GrammarState":
        """The state before the first sampled token."""


class GrammarState(Protocol):
    """One sequence's place in its grammar."""

    def mask(self, logits: "Tensor") -> "Tensor":
        """Logits [vocabulary] with minus infinity for every token that may not come next, at least one being left.

        Raises:
            UnfollowableGrammar: the grammar became too complex.
        """

    def accept(self, token_id: int) -> None:
        """Go past the next token.

        Raises:
            UnfollowableGrammar: it may not come here.
        """


@dataclass(frozen=True, slots=True)
class TurnForm:
    """A turn's form in words that another engine understands. With neither ``answer`` nor ``functions`` only calls
    within thinking are forbidden; with both, either may come."""

    thinking: bool
    """Thinking comes first, and is free."""
    answer: Mapping[str, Any] | None = None
    """JSON schema of the whole answer."""
    functions: tuple[Mapping[str, Any], ...] = ()
    """Those that may be called: ``name`` and ``parameters``, a JSON schema."""
    num_calls: int | None = None
    """Exactly so many calls; None allows any number from one on."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One sequence to continue."""

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    experts_from: int | None = None
    """Report the experts of every token from this position on."""
    forced_experts: "Tensor | None" = None
    """uint8 [S, M, K]: experts the first S prompt tokens use instead of the routers' choice. Such a request neither
    uses the shared cache nor adds to it: its keys and values are its own."""
    cache_salt: str = ""
    """Who may share cached prefixes: only requests with an equal salt do. Answer times tell what is cached."""
    session_id: str | None = None
    """A conversation that continues its own cache; named apart in each salt."""
    routing_key: str | None = None
    """Requests of one key begin alike, and belong where one cache is. None leaves that to ``session_id``."""
    priority: int = 0
    """Higher ones go first; none waits for ever."""
    scored_from: int | None = None
    """Report what the model thinks of the prompt's tokens after this position. What is cached from there on is computed
    again; not for sessions."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token. The last event of a sequence has a finish reason; a stop token is reported as ``stop`` with
    its id."""

    token_id: int
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were reused."""
    logprobs: "Logprobs | None" = None
    experts: "Tensor | None" = None
    """With the last event, where asked for: uint8 [S, M, K] for the positions that were run, which leaves out the
    last token."""
    segment: int | None = None
    """With the last event of a session: how often, before it, a prompt of the session did not begin with all tokens
    of the one before. Tokens of one segment are one text, each sampled after exactly those before it."""
    prompt_logprobs: "tuple[Logprobs, ...] | None" = None
    """With the last event, where asked for: of each token of the prompt after the position that was named."""
    weights_version: str | None = None
    """With the last event: the name of the weights that all tokens were sampled under; None if the engine has none."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of the model's own probabilities, before temperature and any cut."""

    sampled: float
    likeliest: tuple[tuple[int, float], ...]
    """Token ids, likeliest first."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A moment's view of the engine."""

    running: int
    waiting: int
    context_length: int
    """Longest prompt plus completion, tokens."""
    drafted: int = 0
    """Tokens guessed ahead since the start."""
    accepted: int = 0
    """Those of them that were sampled too."""
    cache: "CacheStats | None" = None
    """None where the engine cannot say."""
    weights_version: str | None = None
    """The name of the weights; None where the engine cannot say."""
    away_s: float = 0.0
    """How long the engine has not answered, because it loads or is gone, s; 0 while it does."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """A moment's view of the memory for keys and values, and counts since the start."""

    page_tokens: int
    """Tokens in a page of the global layers."""
    pages: int
    used_pages: int
    """Held by running sequences, by the prefix tree or by sessions, however many share one."""
    kept_pages: int
    """Those of them that only the prefix tree and sessions hold: given up as soon as a sequence needs them."""
    rings: int
    used_rings: int
    """Window layers of running sequences, of sessions, and snapshots."""
    snapshots: int
    """Points of the prefix tree from which a sequence can go on."""
    sessions: int
    used_bytes: int
    """Bytes of used pages and rings."""
    prompt_tokens: int = 0
    """Of all sequences admitted; again for each time one is resumed."""
    hit_tokens: int = 0
    """Those of them that were not computed again."""
    preemptions: int = 0


class EngineError(Exception):
    """The engine cannot serve a request."""


class ContextLengthExceeded(EngineError):
    """Prompt and requested tokens do not fit the context; the message has both numbers."""


class CacheTooSmall(ContextLengthExceeded):
    """They fit the context, but not the memory for keys and values; the message has the numbers."""


class Overloaded(EngineError):
    """The wait queue is full; try again later."""


class EngineUnavailable(EngineError):
    """The engine takes no requests now: it starts, drains, or is gone. The message says which; try again later."""


class OutOfMemory(EngineError):
    """The machine had no memory for what a request needs in a step; others go on."""


class UnsupportedRequest(EngineError):
    """This engine cannot do what a request asks for; the message says what."""


class UnfollowableGrammar(EngineError):
    """A sequence cannot go on under its grammar."""


class WeightsRefused(EngineError):
    """New weights cannot be loaded; the message says why. The engine goes on with those it has."""


class Engine(Protocol):
    """Continues sequences, many at once."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """Stream the continuation. Closing the generator cancels the sequence within one step.

        Raises:
            ContextLengthExceeded, CacheTooSmall, Overloaded, EngineUnavailable, UnsupportedRequest: before the first
                token.
            EngineError: the engine failed.
        """

    async def drop_session(self, cache_salt: str, session_id: str) -> bool:
        """Forget a session and what is cached of it; one in use is forgotten when its answer ends. False if there is
        none. Raises EngineError."""

    async def flush_cache(self) -> None:
        """Forget what is cached of ended sequences; sessions go on without their caches. Raises EngineError."""

    async def load_weights(self, folder: str, version: str, *, abort: bool = False) -> None:
        """Go on with the weights of a checkpoint of the same model, known as ``version``. What runs ends under the old
        ones, or at once with ``abort``; what comes meanwhile waits. Nothing cached outlives its weights.

        Raises:
            WeightsRefused, EngineUnavailable, UnsupportedRequest: the old weights stay.
        """

    def stats(self) -> EngineStats:
        """What runs and what waits."""

    async def series(self) -> str:
        """What an engine in another process measures, in Prometheus' text format; empty where there is none, or where
        it does not answer."""

    async def close(self) -> None:
        """End all sequences and the engine's thread."""
