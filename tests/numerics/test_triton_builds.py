"""What the interpreter runs, a GPU's compiler takes too: no GPU is needed to build for one."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SHARED_MEMORY = 227 * 1024
"""Of an H200, for one block of threads."""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_every_kernel_can_be_built_for_an_h200_at_the_published_widths(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "tests.numerics.triton_builds"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    shared = json.loads(result.stdout)
    assert shared.keys() == {
        "_quantize", "_add_norm", "_gated", "_linear", "_grouped_linear", "_route", "_combine", "_attend_pages",
        "_join", "_attend_rings", "_store",
    }  # fmt: skip
    assert [name for name, num_bytes in shared.items() if num_bytes > SHARED_MEMORY] == []
