"""Local sandboxes of a service that has no privilege: the suite for all backends, run by a user that nobody is."""

import re
import sys

import pytest

from sandbox import program
from tests import ordinary_user
from tests.conformance.sandbox import names
from tests.conformance.sandbox.makers import made_by

CHOSEN = ("commands", "files", "isolation", "limits", "network", "taking_over")
# Where only the kernel bounds files, those without end take minutes, and half of the machine's memory.
LEFT_OUT = {"user": "", "bubblewrap": " and not files_without_end"}
LACKED = {"user": set[str](), "bubblewrap": {"the backend local has no one_disk"}}


@pytest.mark.parametrize(("way", "maker"), [("user", "own"), ("bubblewrap", "bubblewrap")])
@pytest.mark.timeout(1500)
def test_sandboxes_made_without_privilege_pass_the_suite_for_all_backends(way: str, maker: str) -> None:
    made_by(maker)
    if reason := ordinary_user.missing():
        pytest.skip(reason)
    no_network = names.missing()
    program.sandboxd(None)  # his programs are those in our cache
    if not no_network:
        program.egressd(None)
    suite = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "--color=no", "-rs"]
    files = [f"tests/conformance/sandbox/test_{name}.py" for name in CHOSEN]
    done = ordinary_user.run(*suite, "-k", f"local-{way}{LEFT_OUT[way]}", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout, done.stdout
    skipped = set(re.findall(r"^SKIPPED .*?\.py:\d+: (.*)$", done.stdout, re.MULTILINE))
    assert skipped == LACKED[way] | ({no_network} if no_network else set()), done.stdout
