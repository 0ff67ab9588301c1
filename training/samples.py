"""Episodes as token ids with a loss weight per token, and batches of them that can be drawn again exactly."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from evals.synthesis.tasks import Endless, Manifest, RepairTask, TaskSource
from model_server.chat.markers import IM_END, IM_START
from model_server.chat.template import render
from training.episodes import TOOLS, Episode, EpisodeMix, Expert, Mistake

_DRILLED = 4
"""Broken functions in a drill."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One tokenized episode. ``weights[i]`` is the loss weight of predicting ``ids[i]``."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Batch:
    """ids [B, T], weights [B, T] and positions [B, T], -1 where padded."""

    ids: Tensor
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
    """Loss weight of what tools answer. Code that is predicted well makes a wrong token stand out."""
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
        self._start, self._end = self._controls[IM_START], self._controls[IM_END]

    def encode(self, episode: Episode, observation_weight: float) -> Sample:
        """Assistant turns get their own weight, tool turns ``observation_weight``, the rest none."""
        ids: list[int] = []
        for span in render(episode.messages, TOOLS, enable_thinking=True, add_generation_prompt=False):
            if span.control:
                ids.append(self._controls[span.text])
            else:
                ids.extend(self._tokenizer.encode(span.text, add_special_tokens=False).ids)
        return Sample(ids, self._weights(ids, episode.weights, observation_weight))

    def encode_prompt(self, episode: Episode) -> list[int]:
        """The conversation so far with the header of the assistant's turn."""
        ids: list[int] = []
        for span in render(episode.messages, TOOLS, enable_thinking=True, add_generation_prompt=True):
            if span.control:
                ids.append(self._controls[span.text])
            else:
                ids.extend(self._tokenizer.encode(span.text, add_special_tokens=False).ids)
        return ids

    def _weights(self, ids: list[int], turns: list[float], observation_weight: float) -> list[float]:
        assistant, tool = self._header("assistant\n"), self._header("tool\n<tool_response>\n")
        weights: list[float] = []
        remaining = iter(turns)
        current, header = 0.0, False
        for token in ids:
            if token == self._start:
                current, header = 0.0, True
            elif header:
                current = next(remaining) if token == assistant else observation_weight if token == tool else 0.0
                header = False
                weights.append(0.0)
                continue
            weights.append(current)
            if token == self._end:
                current = 0.0
        return weights

    def _header(self, text: str) -> int:
        (token,) = self._tokenizer.encode(text, add_special_tokens=False).ids
        return token


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

    def pool(self, number: int, mix: DataMix) -> list[Batch]:
        """All batches of pool ``number``, shuffled."""
        random = Random(f"{self._seed}/{number}")
        samples = sorted(self._samples(random, mix), key=lambda sample: len(sample.ids))
        batches = list(_batches(samples, self._tokens_per_batch))
        random.shuffle(batches)
        return batches

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
            yield self._encoder.encode(episode, mix.observation_weight)

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
    weights = torch.zeros(len(samples), length)
    positions = torch.full((len(samples), length), -1)
    for row, sample in enumerate(samples):
        size = len(sample.ids)
        ids[row, :size] = torch.tensor(sample.ids)
        weights[row, :size] = torch.tensor(sample.weights)
        positions[row, :size] = torch.arange(size)
    return Batch(ids, weights, positions)
