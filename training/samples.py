"""Episodes as token ids with a loss weight per token, and batches of them that can be drawn again exactly."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from operator import itemgetter
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from evals.synthesis.tasks import Endless, Manifest, RepairTask, TaskSource
from model_server.chat.markers import IM_START
from model_server.chat.template import render
from training.episodes import TOOLS, Episode, EpisodeMix, Expert, Mistake

_ASSISTANT, _TOOL = "assistant\n", "tool\n<tool_response>\n"
"""How turns begin: a token each."""
_DOCSTRING = '"""'
_DRILLED = 2
"""Broken functions in a drill."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One tokenized episode. ``targets[i]`` is what should stand where ``ids[i]`` does, ``weights[i]`` the loss weight
    of predicting it."""

    ids: list[int]
    targets: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Batch:
    """ids [B, T], targets [B, T], weights [B, T] and positions [B, T], -1 where padded."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    positions: Tensor


@dataclass(frozen=True, slots=True)
class DataMix:
    """What a stage trains on."""

    episodes: EpisodeMix
    num_bugs: tuple[float, ...]
    """Shares of tasks with one, two, ... broken functions: more decisions for one reading of the file."""
    clean: float
    """Share of episodes in which nothing is broken and the file is only read."""
    observation_weight: float
    """Loss weight of the code that tools show. Code that is predicted well makes a wrong token stand out."""
    repair_weight: float = 2.0
    """Loss weight of what a repair changes: a fault that is passed over costs more than a needless change."""
    drills: float = 0.0
    """Share of episodes in which several functions are repaired and nothing else."""
    own_mistakes: float = 0.0
    """Share of episodes that begin with one of the model's own mistakes, where there are any."""


def numbered_task(number: int, manifest: Manifest) -> RepairTask:
    """The same task for the same number, one bug; no pool has it."""
    return TaskSource(Random(f"mistakes/{number}"), manifest).make()


def read_mistakes(path: Path | None) -> list[Mistake]:
    """What ``training.mistakes`` wrote; nothing without a file."""
    return [Mistake(**json.loads(line)) for line in path.read_text("utf-8").splitlines()] if path else []


class Encoder:
    """Tokenizes rendered conversations and weighs their tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._controls = tokenizer.get_vocab()

    def encode(self, episode: Episode, mix: "DataMix") -> Sample:
        """Assistant turns get their own weight, code that tools show ``mix.observation_weight``, the rest none.

        Where code is shown broken, the target is the right token: what is learned is how code should go on. The tokens
        in which a repair differs from what was there weigh ``mix.repair_weight`` times as much as those it copies.
        """
        sample = Sample([], [], [])
        turns = iter(episode.weights)
        weight = 0.0
        for span in render(episode.messages, TOOLS, enable_thinking=True, add_generation_prompt=False):
            ids = targets = [self._controls[span.text]] if span.control else self._ids(span.text)
            if span.control and span.text == IM_START:
                weight = 0.0
            weights = [weight] * len(ids)
            if span.text == _ASSISTANT:
                weight = next(turns)
            elif span.text.startswith(_TOOL):
                targets = self._mended(ids, span.text, episode)
                weights[1:] = [mix.observation_weight if _DOCSTRING in span.text else 0.0] * (len(ids) - 1)
            elif weight and not span.control:
                weights = self._weights(ids, span.text, episode, weight, mix.repair_weight)
            sample.ids.extend(ids)
            sample.targets.extend(targets)
            sample.weights.extend(weights)
        return sample

    def encode_prompt(self, episode: Episode) -> list[int]:
        """The conversation so far with the header of the assistant's turn."""
        ids: list[int] = []
        for span in render(episode.messages, TOOLS, enable_thinking=True, add_generation_prompt=True):
            ids.extend([self._controls[span.text]] if span.control else self._ids(span.text))
        return ids

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _mended(self, ids: list[int], text: str, episode: Episode) -> list[int]:
        """The tokens, and where broken code departs from the right one, the right token."""
        targets = list(ids)
        for broken, fixed in episode.repairs:
            if broken in text:
                mended = self._ids(text.replace(broken, fixed))
                for here, there in _departures(ids, mended):
                    targets[here.start] = mended[there.start]
        return targets

    def _weights(self, ids: list[int], text: str, episode: Episode, weight: float, repair_weight: float) -> list[float]:
        weights = [weight] * len(ids)
        for broken, fixed in episode.repairs:
            if fixed in text:
                for _, there in _departures(self._ids(text.replace(fixed, broken)), ids):
                    weights[there.start : there.stop] = [weight * repair_weight] * len(there)
        return weights


def _departures(ids: list[int], others: list[int]) -> Iterator[tuple[range, range]]:
    """Where two sequences with the same last token differ: ranges in the first and in the second; one may be empty."""
    for kind, *bounds in SequenceMatcher(None, ids, others, autojunk=False).get_opcodes():
        if kind != "equal":
            yield range(*bounds[:2]), range(*bounds[2:])


class SampleStream:
    """An endless stream of batches, a function of (seed, pool number) only: training resumes by number.

    A pool is ``pool_size`` episodes sorted by length together, so that a batch holds little padding.
    """

    def __init__(
        self,
        encoder: Encoder,
        manifest: Manifest,
        seed: int,
        tokens_per_batch: int,
        pool_size: int = 192,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        self._encoder = encoder
        self._manifest = manifest
        self._seed = seed
        self._tokens_per_batch = tokens_per_batch
        self._pool_size = pool_size
        self._mistakes = mistakes

    def pool(self, number: int, mix: DataMix, order: int = 0) -> list[Batch]:
        """All batches of pool ``number``, shuffled. Pools of the same ``order`` are shuffled alike: of processes that
        train together, each on its own pool, none then waits for another's longer batch."""
        samples = sorted(self._samples(Random(f"{self._seed}/{number}"), mix), key=lambda sample: len(sample.ids))
        batches = list(_batches(samples, self._tokens_per_batch))
        places = [Random(f"{self._seed}/{order}/{index}").random() for index in range(len(batches))]
        return [batch for _, batch in sorted(zip(places, batches, strict=True), key=itemgetter(0))]

    def _samples(self, random: Random, mix: DataMix) -> Iterator[Sample]:
        source = TaskSource(random, self._manifest)
        expert = Expert(random, mix.episodes)
        made = 0
        while made < self._pool_size:
            try:
                episode = self._episode(random, mix, source, expert)
            except Endless:
                continue
            made += 1
            yield self._encoder.encode(episode, mix)

    def _episode(self, random: Random, mix: DataMix, source: TaskSource, expert: Expert) -> Episode:
        if self._mistakes and random.random() < mix.own_mistakes:
            mistake = random.choice(self._mistakes)
            return expert.solve(numbered_task(mistake.number, self._manifest), mistake)
        if random.random() < mix.drills:
            return expert.drill(source.make(_DRILLED))
        clean = random.random() < mix.clean
        (num_bugs,) = random.choices(range(1, len(mix.num_bugs) + 1), mix.num_bugs)
        task = source.make(num_bugs)
        return expert.read(task) if clean else expert.solve(task)


def _batches(samples: list[Sample], tokens_per_batch: int) -> Iterator[Batch]:
    group: list[Sample] = []
    for sample in samples:
        if group and len(sample.ids) * (len(group) + 1) > tokens_per_batch:
            yield collate(group)
            group = []
        group.append(sample)
    if group:
        yield collate(group)


def collate(samples: list[Sample]) -> Batch:
    """Right-pad to the longest sample, rounded up to 16 tokens: few shapes keep the kernel cache warm."""
    length = -(-max(len(sample.ids) for sample in samples) // 16) * 16
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    targets = torch.zeros(len(samples), length, dtype=torch.long)
    weights = torch.zeros(len(samples), length)
    positions = torch.full((len(samples), length), -1)
    for row, sample in enumerate(samples):
        size = len(sample.ids)
        ids[row, :size] = torch.tensor(sample.ids)
        targets[row, :size] = torch.tensor(sample.targets)
        weights[row, :size] = torch.tensor(sample.weights)
        positions[row, :size] = torch.arange(size)
    return Batch(ids, targets, weights, positions)
