"""What crosses from those who ask to the engine's thread, and the way back."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass

from model_server.engine.backend import Loaded
from model_server.engine.sequence import Sequence
from model_server.types import EngineError, TokenEvent


@dataclass(eq=False, slots=True)
class Stream:
    """A sequence and the way back to who asked for it."""

    sequence: Sequence
    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[TokenEvent | EngineError]"


News = tuple[Stream, TokenEvent | EngineError]


@dataclass(frozen=True, slots=True)
class Submit:
    stream: Stream


@dataclass(frozen=True, slots=True)
class Cancel:
    stream: Stream


@dataclass(frozen=True, slots=True)
class Call:
    """Something to do between two steps."""

    work: Callable[[], bool]
    done: "concurrent.futures.Future[bool]"


@dataclass(frozen=True, slots=True)
class Change:
    """New weights, to be taken once nothing runs that began under the old ones."""

    loaded: Loaded
    version: str
    abort: bool
    done: "concurrent.futures.Future[None]"


@dataclass(frozen=True, slots=True)
class Close:
    pass


Message = Submit | Cancel | Call | Change | Close
