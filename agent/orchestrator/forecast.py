"""What the runs of this worker will ask for, so that a pool of sandboxes has it ready."""

from sandbox.toolbox.toolbox import Toolbox
from sandbox.types import SandboxSpec


class Forecast:
    """Tells a toolbox, in the order in which the runs began."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox
        self._ahead: dict[str, tuple[SandboxSpec, ...]] = {}

    async def say(self, run_id: str, *specs: SandboxSpec) -> None:
        """From now on the run will ask for these, in this order; replaces what was said of it before."""
        self._ahead[run_id] = specs
        await self._tell()

    async def forget(self, run_id: str) -> None:
        """The run has ended, or is no longer this worker's."""
        self._ahead.pop(run_id, None)
        await self._tell()

    async def _tell(self) -> None:
        await self._toolbox.expect((run_id, spec) for run_id, specs in self._ahead.items() for spec in specs)
