"""Settings of sandboxes come from one file, which is right or stops the start."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.orchestrator.__main__ import main
from sandbox.config import FILE_VARIABLE, SandboxSettings, sandbox_settings
from sandbox.errors import SandboxUnavailable
from sandbox.pool.config import PoolSettings


def test_without_a_file_all_is_as_it_is_by_itself() -> None:
    assert sandbox_settings({}) == sandbox_settings({FILE_VARIABLE: ""}) == SandboxSettings()


def test_a_file_says_only_what_shall_be_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.toml"
    file.write_text('[kubernetes]\nnamespace = "mine"\nnetwork = "fence"\n[docker]\ncpus = 0.5\n')
    settings = sandbox_settings({FILE_VARIABLE: str(file)})
    assert (settings.kubernetes.namespace, settings.kubernetes.network, settings.docker.cpus) == ("mine", "fence", 0.5)
    assert settings.kubernetes.profile == "restricted"


def test_a_pool_is_kept_only_where_the_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.toml"
    file.write_text("[toolbox]\nmax_per_tenant = 2\n[toolbox.rates.exec]\nper_s = 5\n[pool]\n")
    settings = sandbox_settings({FILE_VARIABLE: str(file)})
    assert (settings.toolbox.max_per_tenant, settings.toolbox.rates["exec"].per_s) == (2, 5)
    assert settings.pool == PoolSettings()
    assert SandboxSettings().pool is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[kubernetes]\nnetwork = 'open'", r"kubernetes\.network: Input should be 'sealed', 'fence' or 'policy'"),
        ("[kubernets]\n", r"kubernets: Extra inputs"),
        ("[kubernetes", r"cannot be read: .*"),
    ],
)
def test_a_file_that_cannot_be_stops_the_start(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "sandbox.toml"
    file.write_text(text)
    with pytest.raises(SandboxUnavailable, match=problem):
        sandbox_settings({FILE_VARIABLE: str(file)})


def test_a_worker_says_which_file_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "none.toml"))
    assert main(["--store", f"sqlite:///{tmp_path}/store.db", "--data", str(tmp_path)]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_without_its_package_the_kubernetes_backend_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['lightkube'] = None\nfrom sandbox.backends import open_backend\n"
        "from sandbox.config import SandboxSettings\nopen_backend('kubernetes', SandboxSettings())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "install mimo-coder[kubernetes]" in done.stderr
