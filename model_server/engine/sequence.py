"""A request inside the engine, and what it holds of the memory for keys and values."""

from array import array
from dataclasses import dataclass, field

from model_server.engine.hidden_tail import HiddenTail
from model_server.engine.penalties import Penalties
from model_server.engine.prefix_tree import Node
from model_server.engine.routes import Routes
from model_server.engine.sampler import Drawing
from model_server.kernels.batch import PAGE
from model_server.types import GenerateRequest, GrammarState, Logprobs

_SNAPSHOT_EVERY = 1024
"""Tokens between two snapshots of a long text. A ring costs about as much as the pages of so many tokens (published
model, bf16: 26 MB and 23 MB)."""


@dataclass(eq=False, slots=True)
class SequenceCache:
    """Pages and ring of one sequence, which alone writes to them. Full pages may be read by others too."""

    pages: "array[int]"
    """Type code "i"."""
    ring: int
    num_tokens: int
    """Tokens whose keys and values are complete in every layer."""
    written: int
    """One past the last position ever written to the ring: beyond ``num_tokens`` where tokens were taken back."""
    hidden: HiddenTail
    """Of the newest of these tokens."""
    node: Node | None = None
    """What the sequence locks in the prefix tree."""
    branch: int = 0
    """Where the prompt leaves what other sequences had, if that is behind ``num_tokens`` at the start: a point worth
    remembering."""

    @property
    def room(self) -> int:
        """Tokens that still fit the pages."""
        return len(self.pages) * PAGE - self.num_tokens

    @property
    def next_stop(self) -> int:
        """Where the next part of a prompt ends at the latest, so that a snapshot can be taken there."""
        regular = (self.num_tokens // _SNAPSHOT_EVERY + 1) * _SNAPSHOT_EVERY
        return min(self.branch, regular) if self.branch > self.num_tokens else regular

    def has_stopped(self, before: int) -> bool:
        """Whether a snapshot is due after the tokens since ``before``."""
        end = self.num_tokens
        return end == self.branch or end // _SNAPSHOT_EVERY > before // _SNAPSHOT_EVERY

    def commit(self, num_written: int, num_kept: int) -> None:
        """Of ``num_written`` tokens that a step has stored after :attr:`num_tokens`, count the first ``num_kept``."""
        self.written = max(self.written, self.num_tokens + num_written)
        self.num_tokens += num_kept


@dataclass(eq=False, slots=True)
class Sequence:
    """``cache`` is set while it runs."""

    request: GenerateRequest
    seed: int
    routes: Routes
    """Experts of the tokens that were run, or are to be used when they are."""
    arrival: int = 0
    """Order among all sequences."""
    segment: int | None = None
    """See :class:`model_server.types.TokenEvent`; set when a session's sequence is admitted first."""
    continues_session: bool = False
    ids: "array[int]" = field(init=False)
    """Prompt and sampled tokens; type code "i"."""
    cache: SequenceCache | None = None
    cached_tokens: int | None = None
    """Prompt tokens that were not computed, when it was admitted first; None before."""
    num_overtaken: int = 0
    """Sequences that arrived later and were admitted earlier."""
    session_id: str | None = field(init=False)
    """The request's, until its session is dropped."""
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    """Of the tokens after ``request.scored_from``, as far as they are known."""
    grammar: GrammarState | None = field(init=False)
    penalties: Penalties | None = field(init=False)
    drawing: Drawing = field(init=False)
    most_cached: int = field(init=False)
    """Tokens in the cache at the end, at most: the last one sampled is not run."""

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.ids = array("i", self.request.prompt_ids)
        self.session_id = self.request.session_id
        self.grammar = None if sampling.grammar is None else sampling.grammar.start()
        penalties = Penalties(sampling, len(self.ids))
        self.penalties = penalties if penalties.any else None
        self.drawing = Drawing.of(sampling)
        self.most_cached = len(self.ids) + sampling.max_tokens - 1

    @property
    def draws_freely(self) -> bool:
        """Whether logits alone say what may come, not the tokens before."""
        return self.grammar is None and self.penalties is None

    @property
    def num_sampled(self) -> int:
        return len(self.ids) - len(self.request.prompt_ids)

    @property
    def num_pending(self) -> int:
        """Tokens not yet in the cache: one while decoding."""
        return len(self.ids) - (self.cache.num_tokens if self.cache else 0)

    @property
    def has_begun(self) -> bool:
        """Whether it was admitted before."""
        return self.cached_tokens is not None

    @property
    def first_scored(self) -> int | None:
        """The position whose logits are needed next for a token of the prompt; None where none are."""
        start = self.request.scored_from
        if start is None:
            return None
        position = start + len(self.prompt_logprobs)
        return position if position < len(self.request.prompt_ids) - 1 else None


def cache_of(sequence: Sequence) -> SequenceCache:
    """The cache of a sequence that runs."""
    assert sequence.cache is not None, sequence.request.request_id
    return sequence.cache
