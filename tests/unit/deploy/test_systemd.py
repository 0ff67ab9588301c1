"""The example units are units, and start programs of ours with options that those have."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[3] / "deploy" / "systemd").glob("*.service"))
PYTHON = "/opt/mimo/bin/python"
START = re.compile(rf"^ExecStart={PYTHON} -P -m (\S+) (.+)$", re.MULTILINE)


def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze (Debian: systemd) is missing")
    copies = [tmp_path / unit.name.replace("@", "@1") for unit in UNITS]
    for unit, copy in zip(UNITS, copies, strict=True):
        copy.write_text(unit.read_text().replace(PYTHON, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *copies], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_a_unit_starts_has_these_options(unit: Path) -> None:
    ((module, arguments),) = START.findall(unit.read_text())
    command = [sys.executable, "-P", "-m", module, "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for option in re.findall(r"--[a-z-]+", arguments):
        assert option in said
