"""The house keeps its own rules."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["agent", "sandbox", "model_server", "evals", "training"]
LIGHT = ["agent", "sandbox", "evals"]
FOREIGN = {"agent": [], "evals": [], "sandbox": ["docker", "ray"]}
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def modules(package: str) -> list[str]:
    files = (path.relative_to(ROOT) for path in sorted((ROOT / package).rglob("*.py")) if path.name != "__main__.py")
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    # A script that alembic runs while it migrates, which gives it what it needs; nobody imports it.
    names = [name for name in names if name != "agent.store.migrations.env"]
    if find_spec("triton") is None:  # there is none for every system that torch is for
        names = [name for name in names if not name.startswith("model_server.kernels.triton.")]
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_module_prints_nothing_starts_nothing_and_writes_nothing(package: str, tmp_path: Path) -> None:
    program = f"""
        import importlib, sys, threading
        started = []
        def watch(event, args):
            if event in ("socket.connect", "socket.bind", "subprocess.Popen"):
                started.append((event, args))
            writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
            if writes:
                started.append((event, args))
        for name in {FOREIGN.get(package, ["torch"])!r}:
            importlib.import_module(name)  # its own doings are not ours
        sys.addaudithook(watch)
        for name in {modules(package)!r}:
            importlib.import_module(name)
        assert not started, started
        assert threading.active_count() == 1, threading.enumerate()
    """
    result = run_python(program, tmp_path)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_light_packages_do_not_import_torch(tmp_path: Path) -> None:
    names = [name for package in LIGHT for name in modules(package)]
    program = f"""
        import importlib, sys
        for name in {names!r}:
            importlib.import_module(name)
        heavy = {{"torch", "numpy", "tokenizers", "safetensors", "transformers", "model_server"}} & set(sys.modules)
        assert not heavy, heavy
    """
    result = run_python(program, tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_one_version_with_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text("utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    entries = [entry for entry in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE) if entry]
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==[^ ]+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_a_package_has_the_same_version_in_every_lock() -> None:
    largest = pins(ROOT / "requirements" / "dev.txt")
    for lock in LOCKS:
        assert pins(lock) <= largest, lock.name


def test_the_locks_hold_what_the_project_asks_for() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {"base": PROJECT["project"]["dependencies"]}
    wanted["agent"] = [*wanted["base"], *extras["docker"], *extras["kubernetes"], *extras["postgres"]]
    wanted["model"] = [*wanted["base"], *extras["model"]]
    wanted["dev"] = [*wanted["model"], *extras["dev"], *PROJECT["dependency-groups"]["build"]]
    for name, requirements in wanted.items():
        locked = {pin.partition("==")[0] for pin in pins(ROOT / "requirements" / f"{name}.txt")}
        asked = {match[0].lower() for line in requirements if (match := re.match(r"[\w-]+", line))}
        assert asked <= locked, f"{name}.txt lacks {asked - locked}; run `make lock`"


def test_the_version_is_written_in_one_place() -> None:
    number = PROJECT["project"]["version"]
    assert version("mimo-coder") == number
    written = re.compile(rf"^\s*(__version__|version)\b.*[\"']{re.escape(number)}[\"']", re.MULTILINE)
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert [path for path in sources if written.search(path.read_text("utf-8"))] == []


def test_what_the_model_said_and_what_its_calls_gave_is_told_to_it_by_its_history_alone() -> None:
    written = re.compile(r"""["']role["']\s*:\s*["'](assistant|tool)["']""")
    folder = ROOT / "agent"
    sources = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.py")}
    found = {name for name, source in sources.items() if written.search(source) and not name.startswith("testing/")}
    assert found == {"history.py"}


def test_every_target_named_in_the_help_exists_and_sets_up_first() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"@echo \"make ([\w-]+)", makefile):
        assert re.search(rf"^{target}: setup$", makefile, re.MULTILINE), target


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def pins(lock: Path) -> set[str]:
    return set(re.findall(r"^[a-z0-9-]+==[^ ]+", lock.read_text("utf-8"), re.MULTILINE))


def run_python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    lines = program.splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    source = "\n".join(line[indent:] for line in lines)
    return subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", source], cwd=folder, capture_output=True, text=True, check=False
    )
