"""Mistakes at the start end the process with one line that says what to do."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from model_server.__main__ import API_KEY_VARIABLE, StartError, find_checkpoint, main, served_name
from model_server.weights.save import save_checkpoint
from tests.numerics.small_models import random_model, small_config
from tests.unit.model_server.small_tokenizer import small_tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "my_model"
    folder.mkdir()
    for file in ("config.json", "tokenizer.json"):
        (folder / file).write_text("{}")
    return folder


def start(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_missing_checkpoint_is_named_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--checkpoint", tmp_path / "none", "--port", 0) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "none") in error
    assert error.count("\n") == 1


def test_a_folder_without_a_tokenizer_is_no_checkpoint(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(StartError, match=r"has no tokenizer\.json"):
        find_checkpoint(str(checkpoint))


def test_a_checkpoint_is_served_under_its_folders_name(checkpoint: Path) -> None:
    assert served_name(find_checkpoint(str(checkpoint))) == "my-model"


def test_a_busy_port_is_named_and_exits_2(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert start("--checkpoint", checkpoint, "--port", port) == 2
    assert f"port {port}" in capsys.readouterr().err


@pytest.mark.parametrize("key", [None, ""])
def test_an_address_others_can_reach_needs_a_key(
    key: str | None, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    if key is not None:
        monkeypatch.setenv(API_KEY_VARIABLE, key)
    assert start("--checkpoint", checkpoint, "--port", 0, "--host", "0.0.0.0") == 2
    assert API_KEY_VARIABLE in capsys.readouterr().err


def test_a_damaged_checkpoint_exits_2(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--checkpoint", checkpoint, "--port", 0) == 2
    assert "cannot be loaded" in capsys.readouterr().err


def test_a_tokenizer_of_a_larger_model_exits_2(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_tokenizer().save(str(checkpoint / "tokenizer.json"))
    save_checkpoint(random_model(small_config(vocab_size=61)), checkpoint)
    assert start("--checkpoint", checkpoint, "--port", 0) == 2
    assert "tokens, the model 61: they are not of one checkpoint" in capsys.readouterr().err


def test_a_missing_tensor_library_names_the_extra_to_install(checkpoint: Path) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--port", "0"]
    start_without_torch = (
        f"import sys; sys.modules['torch'] = None; from model_server.__main__ import main; sys.exit(main({arguments}))"
    )
    result = subprocess.run([sys.executable, "-c", start_without_torch], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "pip install 'mimo-coder[model]'" in result.stderr


def test_too_little_memory_for_keys_and_values_is_named_and_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    save_checkpoint(random_model(small_config(vocab_size=2000)), tmp_path)
    assert start("--checkpoint", tmp_path, "--port", 0, "--kv-memory", "4K") == 2
    assert "--kv-memory: 4096 bytes hold no keys and values for 8 sequences" in capsys.readouterr().err


def test_more_memory_than_the_machine_has_is_named_and_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    save_checkpoint(random_model(small_config(vocab_size=2000)), tmp_path)
    assert start("--checkpoint", tmp_path, "--port", 0, "--kv-memory", "9000000G", "--kernels", "ref") == 2
    assert "too little memory: lower --kv-memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--threads", "0", "'0' is no whole number from 1 on"),
        ("--threads", "100000", "100000 are more than 1024"),
        ("--dtype", "int8", "invalid choice"),
        ("--max-running", "x", "'x' is no whole number from 1 on"),
        ("--max-running", "9" * 5000, "is no whole number"),
        ("--kv-memory", "2T", "'2T' is no number of bytes, such as 500M or 2G"),
        ("--kv-memory", "", "'' is no number of bytes"),
        ("--kv-memory", "0G", "'0' is no whole number from 1 on"),
    ],
)
def test_a_bad_option_is_named_and_exits_2(
    option: str, value: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        start("--checkpoint", "x", "--port", 0, option, value)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {option}: " in said
    assert complaint in said
