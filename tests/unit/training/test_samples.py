from dataclasses import replace
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from evals.synthesis.tasks import TaskSource, load_manifest
from model_server.chat.markers import IM_END, THINK
from training.episodes import EpisodeMix, Expert, passage_of
from training.samples import DataMix, Encoder, SampleStream, collate
from training.tokenizer import fixed_strings, train_tokenizer
from training.train_nano import prepare_texts

_MIX = DataMix(EpisodeMix(), num_bugs=(0.5, 0.5), clean=0.0, observation_weight=0.1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(prepare_texts(150, seed=1), vocab_size=700)


def test_fixed_strings_of_production_are_one_token_each(tokenizer: Tokenizer) -> None:
    lengths = {text[:30]: len(tokenizer.encode(text, add_special_tokens=False).ids) for text in fixed_strings()}
    assert set(lengths.values()) == {1}, lengths


def test_an_identifier_is_the_same_tokens_wherever_it_stands(tokenizer: Tokenizer) -> None:
    name = tokenizer.encode("vosstut_kam", add_special_tokens=False).tokens
    for text in (
        "x = vosstut_kam\n",
        "def vosstut_kam(a):",
        "    return vosstut_kam",
        "`vosstut_kam` is",
        "(vosstut_kam)",
    ):
        tokens = tokenizer.encode(text, add_special_tokens=False).tokens
        starts = [i for i in range(len(tokens)) if tokens[i : i + len(name)] == name]
        assert starts, (text, tokens)


def test_loss_is_on_what_the_agent_writes_and_never_on_its_mistakes(tokenizer: Tokenizer) -> None:
    random = Random(5)
    source = TaskSource(random, load_manifest())
    expert = Expert(random, EpisodeMix(wrong_edit=1.0))
    while True:
        episode = expert.solve(source.make())
        if 0.0 in episode.weights:
            break
    sample = Encoder(tokenizer).encode(episode, replace(_MIX, observation_weight=0.0))
    trained = tokenizer.decode(
        [i for i, w in zip(sample.ids, sample.weights, strict=True) if w], skip_special_tokens=False
    )
    spoken = trained.split(IM_END)[:-1]
    assert len(spoken) == sum(weight > 0 for weight in episode.weights)
    assert all(turn.startswith(THINK) for turn in spoken)
    assert spoken[-1].endswith("<tool_call>\n<function=finish>\n</function>\n</tool_call>")


def test_code_that_is_shown_broken_is_learned_as_it_should_be(tokenizer: Tokenizer) -> None:
    source = TaskSource(Random(3), load_manifest())
    for _ in range(20):
        task = source.make()
        episode = Expert(Random(1), EpisodeMix()).look(task)
        sample = Encoder(tokenizer).encode(episode, replace(_MIX, observation_weight=1.0))
        departures = [i for i, (a, b) in enumerate(zip(sample.ids, sample.targets, strict=True)) if a != b]
        assert len(departures) == 1
        at = departures[0]
        assert sample.weights[at] == 1.0
        text = tokenizer.decode([*sample.ids[:at], sample.targets[at]], skip_special_tokens=False)
        right = passage_of(task.fixed[task.bugs[0].path], task.bugs[0].function)
        assert right.startswith(text[text.index(right.splitlines()[0]) :])


def test_what_a_repair_changes_weighs_more_than_what_it_copies(tokenizer: Tokenizer) -> None:
    source = TaskSource(Random(4), load_manifest())
    task = source.make()
    episode = Expert(Random(1), EpisodeMix(0, 0, 1)).solve(task)
    sample = Encoder(tokenizer).encode(episode, replace(_MIX, repair_weight=5.0))
    changed = tokenizer.decode([i for i, w in zip(sample.ids, sample.weights, strict=True) if w == 5.0])
    assert changed.strip()
    assert changed in task.bugs[0].fixed_line


def test_the_same_pool_is_drawn_again_exactly(tokenizer: Tokenizer) -> None:
    streams = [SampleStream(Encoder(tokenizer), load_manifest(), 1, 4096) for _ in range(2)]
    first, second = (stream.pool(3, _MIX) for stream in streams)
    assert len(first) == len(second)
    assert all(
        torch.equal(a.ids, b.ids) and torch.equal(a.weights, b.weights) for a, b in zip(first, second, strict=True)
    )


def test_padding_carries_no_weight(tokenizer: Tokenizer) -> None:
    random = Random(2)
    expert, source, encoder = Expert(random, EpisodeMix()), TaskSource(random, load_manifest()), Encoder(tokenizer)
    batch = collate([encoder.encode(expert.solve(source.make()), _MIX) for _ in range(3)])
    assert batch.weights[batch.positions < 0].eq(0).all()
    assert batch.ids.shape[1] % 16 == 0
