"""Which backend runs, and why; and how the compiled step comes about."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_server.engine.backend import choose_kernels
from model_server.engine.cpu_backend import CpuBackend
from model_server.engine.torch_backend import TorchBackend
from model_server.kernels.cpu.build import NoLibrary, file_name, find_library
from model_server.kernels.cpu.library import best_library
from tests.numerics.small_models import random_model, small_config

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++)")


@pytest.fixture(autouse=True)
def chosen_anew() -> Iterator[None]:
    best_library.cache_clear()
    yield
    best_library.cache_clear()


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an empty cache where no compiler is found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_reference_runs_and_says_why() -> None:
    choice = choose_kernels("auto")
    assert choice.name == "ref"
    assert "no C++ compiler" in choice.reason
    assert isinstance(choice.build(random_model(small_config()), 64)[0], TorchBackend)


@pytest.mark.usefixtures("no_compiler")
def test_what_was_asked_for_by_name_is_not_replaced() -> None:
    with pytest.raises(NoLibrary, match="no C\\+\\+ compiler"):
        choose_kernels("cpu")


def test_a_processor_without_avx2_gets_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    choice = choose_kernels("auto")
    assert (choice.name, choice.reason) == ("ref", "the processor has no AVX2 (DEFAULT)")


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken-c++"
    compiler.write_text("#!/bin/sh\necho 'step.cpp:1: error: no such language' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(NoLibrary, match="no such language"):
        find_library("avx2")
    assert not list(tmp_path.glob("cache/**/*.so"))


def test_a_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, log = tmp_path / "c++", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\necho call >> {log}\nwhile [ "$1" != "-o" ]; do shift; done\necho library > "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, second = find_library("avx2"), find_library("avx2")
    assert first == second
    assert first.read_text() == "library\n"
    assert log.read_text() == "call\n"
    assert find_library("avx512") != first


@needs_compiler
def test_weights_move_into_the_backend_that_serves() -> None:
    choice = choose_kernels("auto")
    if choice.name == "ref":
        pytest.skip(f"the C++ step is not available: {choice.reason}")
    model = random_model(small_config())
    assert isinstance(choice.build(model, 64)[0], CpuBackend)
    assert sum(parameter.numel() for parameter in model.model.layers.parameters()) == 0
    assert model.model.embed_tokens.weight.numel()


def test_a_library_of_other_sources_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    monkeypatch.setattr("model_server.kernels.cpu.build._SOURCES", sources)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    (sources / "step.cpp").write_text("old")
    shipped = sources / file_name("avx2")
    shipped.touch()
    assert find_library("avx2") == shipped
    (sources / "step.cpp").write_text("new")
    with pytest.raises(NoLibrary):
        find_library("avx2")
