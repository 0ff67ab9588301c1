"""What the tokens of a sequence so far take from the chances of the same tokens to come."""

from array import array

import torch
from torch import Tensor

from model_server.types import SamplingParams


class Penalties:
    """Of one sequence. With the first draw it takes memory for two numbers per token of the vocabulary, so only a
    request that has any penalties has one."""

    def __init__(self, sampling: SamplingParams, num_prompt: int) -> None:
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        self._repetition = sampling.repetition_penalty
        self._num_prompt = num_prompt
        self._num_counted = 0
        self._sampled = torch.empty(0)
        """How often each token was sampled, f32 [vocabulary]."""
        self._seen = torch.empty(0, dtype=torch.bool)
        """Which tokens were sampled or are in the prompt, [vocabulary]."""

    @property
    def any(self) -> bool:
        return bool(self._frequency or self._presence) or self._repetition != 1

    def apply(self, logits: Tensor, ids: "array[int]") -> Tensor:
        """Logits [vocabulary] of the token after ``ids``, which go on from those of the last call.

        Frequency and presence are those of OpenAI, over sampled tokens; repetition is that of Keskar et al. 2019
        (arXiv:1909.05858, 4.1), over the prompt too, with negative logits multiplied, as transformers has it.
        """
        self._count(ids, len(logits))
        logits = logits - self._frequency * self._sampled - self._presence * (self._sampled > 0)
        if self._repetition == 1:
            return logits
        scaled = torch.where(logits < 0, logits * self._repetition, logits / self._repetition)
        return torch.where(self._seen, scaled, logits)

    def _count(self, ids: "array[int]", vocab_size: int) -> None:
        if not self._num_counted:
            self._sampled, self._seen = torch.zeros(vocab_size), torch.zeros(vocab_size, dtype=torch.bool)
        news = torch.tensor(ids[self._num_counted :])
        sampled = news[max(self._num_prompt - self._num_counted, 0) :]
        self._seen[news] = True
        self._sampled.index_add_(0, sampled, torch.ones(len(sampled)))
        self._num_counted = len(ids)
