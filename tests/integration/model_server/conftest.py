"""What these tests share."""

import pytest

from tests.integration.model_server import scripted_service


@pytest.fixture(params=["in process", "behind SGLang"])
def both_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test twice: the server promises the same over either engine."""
    monkeypatch.setattr(scripted_service, "THROUGH_SGLANG", request.param == "behind SGLang")
