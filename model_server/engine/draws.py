"""The tokens of a step: rows that draw freely and alike share one pass, the others are drawn one by one."""

from collections import defaultdict

from torch import Tensor

from model_server.engine.sampler import Drawing, Place, draw
from model_server.engine.scheduler import ScheduledSequence
from model_server.engine.sequence import Sequence
from model_server.kernels.batch import StepOutput


def draw_together(step: list[ScheduledSequence], output: StepOutput) -> list[int]:
    """A token for each row of logits whose sequence draws freely, as if all guesses before the row held."""
    logits = output.logits
    drawn = [0] * len(logits) if output.likeliest is None else output.likeliest.tolist()
    alike: defaultdict[Drawing, dict[int, Place]] = defaultdict(dict)
    """Rows and their places."""
    row = 0
    for part in step:
        sequence = part.sequence
        row += part.num_known
        is_drawn = output.likeliest is not None and sequence.drawing.takes_likeliest
        if part.samples and sequence.draws_freely and not is_drawn:
            places, position = alike[sequence.drawing], len(sequence.ids)
            for ahead in range(len(part.guess.tokens) + 1):
                places[row - 1 + ahead] = (sequence.seed, position + ahead)
        row += len(part.guess.tokens)
    for drawing, places in alike.items():
        rows = logits if len(places) == len(logits) else logits[list(places)]
        for row, token in zip(places, draw(rows, drawing, places.values()), strict=True):
            drawn[row] = token
    return drawn


def draw_alone(sequence: Sequence, logits: Tensor) -> int:
    """The token after a sequence's newest, under its penalties and its grammar."""
    if sequence.penalties is not None:
        logits = sequence.penalties.apply(logits, sequence.ids)
    if sequence.grammar is not None:
        logits = sequence.grammar.mask(logits)
    (token,) = draw(logits[None], sequence.drawing, [(sequence.seed, len(sequence.ids))])
    return token
