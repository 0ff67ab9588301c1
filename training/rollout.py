"""The model at work on many synthetic repositories at once, without a server or a sandbox.

Good for watching training and for collecting the model's own mistakes. What is published about a checkpoint comes from
``evals``, through the production path.
"""

import re
from dataclasses import dataclass, field
from datetime import date
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from agent.tools.bash import observe
from agent.tools.str_replace import replace
from evals.synthesis.statements import statement
from evals.synthesis.tasks import Endless, RepairTask, first_failure
from model_server.chat.markers import IM_END
from model_server.config import ModelConfig
from model_server.models.mimo_v2_flash import MiMoV2Flash
from sandbox.types import Exited
from training.episodes import TEST_COMMAND, VIEW, Episode, conversation_start, source_of
from training.pytest_text import pytest_output
from training.samples import Encoder

_CALL = re.compile(r"<think>(.*?)</think>(.*?)<tool_call>\n<function=(\w+)>\n(.*?)</function>\n</tool_call>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=(\w+)>(.*?)</parameter>\n", re.DOTALL)
_VIEW = re.compile(
    re.escape(VIEW.format(name="NAME", path="PATH")).replace("NAME", r"(?P<name>\w+)").replace("PATH", "(?P<path>.*)")
)
_MAX_NEW = 320
_SAME_TURNS = 3


class GrowingCache:
    """Keys and values of a batch of left-padded sequences, with room for ``capacity`` tokens each.

    All rows end together, so the keys a window layer needs are the newest columns.
    """

    def __init__(self, config: ModelConfig, capacity: int) -> None:
        self._config = config
        self._capacity = capacity
        self._positions: Tensor | None = None
        self._num_tokens = self._num_new = 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, positions: Tensor) -> None:
        """Announce the positions [B, T] of the tokens that come next."""
        if self._positions is None:
            self._positions = positions.new_empty(len(positions), self._capacity)
        self._num_new = positions.shape[1]
        self._positions[:, self._num_tokens : self._num_tokens + self._num_new] = positions
        self._num_tokens += self._num_new

    def key_positions(self, window: bool) -> Tensor:
        assert self._positions is not None
        return self._positions[:, self._seen(window)]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self._kept:
            self._kept[layer] = (_room(k, self._capacity), _room(v, self._capacity))
        kept_k, kept_v = self._kept[layer]
        new = slice(self._num_tokens - self._num_new, self._num_tokens)
        kept_k[:, :, new], kept_v[:, :, new] = k, v
        seen = self._seen(bool(self._config.hybrid_layer_pattern[layer]))
        return kept_k[:, :, seen], kept_v[:, :, seen]

    def _seen(self, window: bool) -> slice:
        oldest = self._num_tokens - self._num_new + 1 - self._config.window_keys
        return slice(max(0, oldest) if window else 0, self._num_tokens)


def _room(like: Tensor, capacity: int) -> Tensor:
    return like.new_empty(*like.shape[:2], capacity, like.shape[3])


@torch.inference_mode()
def generate(
    model: MiMoV2Flash, prompts: list[list[int]], stop: int, temperature: float, max_new: int = _MAX_NEW
) -> list[list[int]]:
    """Continue prompts to the stop token (left out) or ``max_new`` tokens; temperature 0 is greedy."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
    start = torch.tensor([length - len(prompt) for prompt in prompts])[:, None]
    positions = (torch.arange(length)[None] - start).clamp(min=-1)
    cache = GrowingCache(model.config, length + max_new)
    produced: list[list[int]] = [[] for _ in prompts]
    alive = set(range(len(prompts)))
    for _ in range(max_new):
        cache.extend(positions)
        hidden = model(ids, positions, cache).hidden[:, -1]
        logits = model.logits(hidden).float()
        chosen = (
            logits.argmax(-1) if temperature == 0 else torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
        )
        for row in list(alive):
            token = int(chosen[row])
            if token == stop:
                alive.remove(row)
            else:
                produced[row].append(token)
        if not alive:
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
    return produced


@dataclass(slots=True)
class Attempt:
    """One task in the hands of the model."""

    task: RepairTask
    files: dict[str, str]
    messages: list[dict[str, Any]]
    random: Random
    edits: list[tuple[str, str, str]] = field(default_factory=list)
    """Edits that applied, or that were refused because they change nothing: path, old text, new text."""
    num_turns: int = 0
    done: bool = False
    malformed: bool = False

    @property
    def resolved(self) -> bool:
        """Whether every case of every function passes."""
        functions = self.task.functions.values()
        try:
            return all(first_failure(self._function(f.path, f.name), f.name, f.cases) is None for f in functions)
        except (Endless, SyntaxError, NameError):
            return False

    def _function(self, path: str, name: str) -> str:
        return self.files[path]

    def act(self, text: str) -> None:
        """Take one assistant turn as text, and let the tool answer."""
        self.num_turns += 1
        match = _CALL.fullmatch(text)
        if match is None:
            self.done = self.malformed = True
            return
        thought, content, tool, body = match.groups()
        arguments = dict(_PARAMETER.findall(body))
        call = {"id": "call", "type": "function", "function": {"name": tool, "arguments": arguments}}
        message = {"role": "assistant", "content": content, "reasoning_content": thought, "tool_calls": [call]}
        self.messages.append(message)
        if tool == "finish" or self._goes_round(message):
            self.done = True
            return
        answer = self._edit(arguments) if tool == "str_replace" else self._bash(arguments.get("command", ""))
        self.messages.append({"role": "tool", "tool_call_id": "call", "content": answer})

    def _goes_round(self, message: dict[str, Any]) -> bool:
        """The same turn for the third time: greedily, it would come for ever."""
        return self.messages.count(message) >= _SAME_TURNS

    def _edit(self, arguments: dict[str, str]) -> str:
        path, old, new = (arguments.get(name, "") for name in ("path", "old_str", "new_str"))
        if path not in self.files:
            return f"[error] {path}: no such file"
        result, changed = replace(self.files[path], old, new)
        if changed is not None or (old == new and old in self.files[path]):
            self.edits.append((path, old, new))
        if changed is not None:
            self.files[path] = changed
        return result.text

    def _bash(self, command: str) -> str:
        output, code = f"bash: {command.split(' ')[0]}: command not found\n", 127
        if (viewed := _VIEW.fullmatch(command)) and viewed["path"] in self.files:
            text = self.files[viewed["path"]]
            output, code = source_of(text, viewed["name"]) if f"def {viewed['name']}(" in text else "", 0
        elif command.startswith("cat ") and (path := command.removeprefix("cat ")) in self.files:
            output, code = self.files[path], 0
        elif command.startswith("git checkout ") and (path := command.removeprefix("git checkout ")) in self.files:
            self.files[path] = self.task.files[path]
            output, code = "Updated 1 path from the index\n", 0
        elif command.startswith("grep -rn 'def ") and command.endswith("(' ."):
            wanted = command.removeprefix("grep -rn '").removesuffix("' .")
            hits = [
                f"./{path}:{number}:{line}\n"
                for path, text in self.files.items()
                for number, line in enumerate(text.split("\n"), 1)
                if wanted in line
            ]
            output, code = "".join(hits), 0 if hits else 1
        elif command == TEST_COMMAND:
            try:
                output, code = pytest_output(self.task, self.files, self.random)
            except (Endless, SyntaxError):
                output, code = "1 error in 0.05s\n", 2
        data = output.encode()
        return observe(Exited(code=code, output=data, total_bytes=len(data))).text


def attempt_all(
    model: MiMoV2Flash,
    tokenizer: Tokenizer,
    tasks: list[RepairTask],
    *,
    temperature: float = 0.0,
    max_turns: int = 12,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Attempt]:
    """Let the model work on every task until it finishes, writes something malformed, or runs out of turns."""
    random = Random(seed)
    encoder = Encoder(tokenizer)
    stop = tokenizer.get_vocab()[IM_END]
    attempts = [_begin(task, random) for task in tasks]
    for _ in range(max_turns):
        open_ones = [attempt for attempt in attempts if not attempt.done]
        open_ones.sort(key=lambda attempt: len(str(attempt.messages)))
        for first in range(0, len(open_ones), batch_size):
            group = open_ones[first : first + batch_size]
            prompts = [encoder.encode_prompt(Episode(attempt.messages, [])) for attempt in group]
            for attempt, ids in zip(group, generate(model, prompts, stop, temperature), strict=True):
                attempt.act(tokenizer.decode(ids, skip_special_tokens=False))
    return attempts


def _begin(task: RepairTask, random: Random) -> Attempt:
    text = "\n".join(statement(bug, random.randrange(4)) for bug in task.bugs)
    return Attempt(task, dict(task.files), conversation_start(text, date(2026, 11, 22)), Random(random.random()))
