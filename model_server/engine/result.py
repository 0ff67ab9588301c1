"""The tokens that come of a step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_server.engine.draws import draw_alone
from model_server.engine.sampler import logprobs
from model_server.engine.scheduler import ScheduledSequence
from model_server.engine.sequence import Sequence
from model_server.kernels.batch import StepOutput
from model_server.types import FinishReason, TokenEvent


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step has computed: rows of all its parts, one after another."""

    output: StepOutput
    experts: "NDArray[np.uint8]"
    drawn: list[int]
    """A token for each row of logits whose sequence draws freely."""

    def score(self, part: ScheduledSequence, first: int) -> None:
        """Note what the model thinks of the prompt's tokens after the rows from ``first`` on, where that was asked
        for."""
        sequence = part.sequence
        first_scored, count = sequence.first_scored, sequence.request.sampling.num_logprobs or 0
        if first_scored is not None:
            tokens = sequence.request.prompt_ids[first_scored + 1 :]
            # After the prompt's last token is none.
            rows = zip(self.output.logits[first : first + part.num_known], tokens, strict=False)
            sequence.prompt_logprobs += [logprobs(row, token, count) for row, token in rows]

    def sampled(self, sequence: Sequence, guess: list[int], newest: int) -> Iterator[TokenEvent]:
        """The tokens after row ``newest`` of the logits and those of the guess. A guessed token holds if it is what
        would have been sampled in its place anyway, so guesses change how fast tokens come and never which, under a
        grammar too."""
        grammar, num_logprobs = sequence.grammar, sequence.request.sampling.num_logprobs
        for row, guessed in enumerate((*guess, None), start=newest):
            token = _overdue(sequence)
            if token is None:
                free = sequence.draws_freely
                token = self.drawn[row] if free else draw_alone(sequence, self.output.logits[row])
            if grammar is not None:
                grammar.accept(token)
            scores = None if num_logprobs is None else logprobs(self.output.logits[row], token, num_logprobs)
            sequence.ids.append(token)
            reason = _finish_reason(sequence, token)
            yield TokenEvent(token, reason, sequence.cached_tokens or 0, scores)
            if reason is not None or token != guessed:
                return


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
