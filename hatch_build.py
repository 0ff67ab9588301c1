"""Puts the compiled step into wheels for x86-64, so that who installs one needs no compiler."""

import platform
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledStep(BuildHookInterface[Any]):
    """Without a compiler, or elsewhere than on Linux on x86-64, the wheel carries the sources only and says so."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # compiles on first use
            return
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            self.app.display_warning(f"no compiled step for {sys.platform} on {platform.machine()}")
            return
        sys.path.insert(0, self.root)
        from model_server.kernels.cpu.build import NoLibrary, compile_shipped

        try:
            libraries = compile_shipped()
        except NoLibrary as error:
            self.app.display_warning(f"no compiled step: {error}")
            return
        build_data["artifacts"] += [str(library.relative_to(self.root)) for library in libraries]
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"
