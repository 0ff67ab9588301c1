"""What a worker process says about settings it cannot use."""

from pathlib import Path

import pytest

from agent.orchestrator.__main__ import main


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--lease-ttl", "0"], 2, "lease_ttl_s: Input should be greater than 0"),
        (["--concurrency", "-1"], 2, "concurrency: Input should be greater than or equal to 1"),
        (["--model-url", "not an address"], 2, "url: String should match pattern"),
        (["--store", "mysql://host/name"], 1, "use sqlite:///PATH"),
        (["--store", "sqlite:////proc/no/store.db"], 1, "cannot make the store's folder /proc/no"),
    ],
)
def test_unusable_settings_stop_the_start_and_are_named(
    options: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    required = ["--store", f"sqlite:///{tmp_path / 'store.db'}", "--data", str(tmp_path)]

    assert main([*required, *options]) == code
    assert says in capsys.readouterr().err


def test_key_of_the_model_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIMO_MODEL_API_KEY", "sk-secret")

    main(["--store", "mysql://host/name", "--data", str(tmp_path), "--model-url", "no"])

    assert "sk-secret" not in "".join(capsys.readouterr())
