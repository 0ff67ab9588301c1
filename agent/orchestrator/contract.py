"""Keeps a worker from taking runs while its model would not see what it thought."""

import asyncio
import logging

from agent.errors import ModelError
from agent.model import Model
from agent.probe import probe

_RETRY_S = 30.0
"""After a probe that failed or showed a broken contract."""

_log = logging.getLogger(__name__)


class ContractWatch:
    """Probes the endpoint at the start, and then every so often."""

    def __init__(self, model: Model, every_s: float, retry_s: float = _RETRY_S) -> None:
        self._model = model
        self._every_s = every_s
        self._retry_s = retry_s
        self.kept = False
        """Whether the newest probe that came to an end showed that reasoning reaches the model."""

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(self._every_s if self.kept else self._retry_s)

    async def _look(self) -> None:
        try:
            contract = await probe(self._model)
        except ModelError as error:
            # An endpoint that does not answer has not changed its mind.
            _log.warning("action=probe result=unknown kept=%s reason=%r", self.kept, str(error))
            return
        self.kept = contract.keeps_reasoning
        level = logging.INFO if self.kept else logging.ERROR
        _log.log(level, "action=probe result=%s reason=%r", "kept" if self.kept else "dropped", str(contract))
