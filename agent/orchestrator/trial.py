"""Keeps a worker from taking runs while its sandboxes would not be held as their settings say."""

import asyncio
import logging

from sandbox.errors import NoRoom, SandboxError, SandboxUnavailable
from sandbox.toolbox.toolbox import Toolbox

_EVERY_S = 600.0
"""The backend believes what a trial showed for an hour; to ask more often costs nothing."""
_RETRY_S = 30.0
"""After a trial that could not be had, or showed that sandboxes are open."""
_NOT_YET = "what sandboxes reach is being tried"

_log = logging.getLogger(__name__)


class TrialWatch:
    """Has the trial of sandboxes at the start, and then every so often."""

    def __init__(self, toolbox: Toolbox, every_s: float = _EVERY_S, retry_s: float = _RETRY_S) -> None:
        self._toolbox = toolbox
        self._every_s = every_s
        self._retry_s = retry_s
        self.problem = _NOT_YET if toolbox.needs_trial else None
        """Why it is not proved that sandboxes are held; None where it is, or where no trial is needed."""
        self.may_claim = not toolbox.needs_trial
        """False until the first trial came to an end, and while the newest showed that sandboxes are not held."""

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(self._every_s if self.problem is None else self._retry_s)

    async def _look(self) -> None:
        try:
            await self._toolbox.prove()
        except SandboxError as error:
            if isinstance(error, SandboxUnavailable) and not isinstance(error, NoRoom):
                self.problem, self.may_claim = str(error), False
                _log.error("action=try_sandboxes result=refused reason=%r", str(error))
                return
            # A full or silent cluster says nothing of how sandboxes are held; each is tried again before it is given.
            if self.problem == _NOT_YET:
                self.problem, self.may_claim = f"{_NOT_YET}: {error}", True
            _log.warning("action=try_sandboxes result=unknown reason=%r", str(error))
            return
        if self.problem is not None:
            _log.info("action=try_sandboxes result=held")
        self.problem, self.may_claim = None, True
