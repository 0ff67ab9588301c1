"""Puts what is compiled into wheels for Linux, so that who installs one needs no compiler."""

import platform
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Compiled(BuildHookInterface[Any]):
    """Without a compiler, or elsewhere than on Linux, the wheel carries the sources only and says so."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # compiles on first use
            return
        if sys.platform != "linux":
            self.app.display_warning(f"nothing compiled for {sys.platform}")
            return
        sys.path.insert(0, self.root)
        if files := [*self._programs(), *self._step()]:
            build_data["artifacts"] += [str(file.relative_to(self.root)) for file in files]
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{platform.machine()}"

    def _programs(self) -> list[Path]:
        """Those that serve sandboxes: from inside, and as their way out."""
        from sandbox.errors import SandboxUnavailable
        from sandbox.program import EGRESS_SOURCE, SOURCE, ship

        shipped = []
        for source in (SOURCE, EGRESS_SOURCE):
            try:
                shipped.append(ship(source))
            except SandboxUnavailable as error:
                self.app.display_warning(f"no {source.name}: {error}")
        return shipped

    def _step(self) -> list[Path]:
        """The model server's step, for x86-64."""
        from model_server.kernels.cpu.build import NoLibrary, compile_shipped

        if platform.machine() != "x86_64":
            self.app.display_warning(f"no compiled step for {platform.machine()}")
            return []
        try:
            return compile_shipped()
        except NoLibrary as error:
            self.app.display_warning(f"no compiled step: {error}")
            return []
