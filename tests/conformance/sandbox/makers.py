"""Who makes local sandboxes in a test."""

import pytest

from deploy import bubblewrap
from sandbox.config import LocalSettings

MAKERS = ("own", "bubblewrap")


def made_by(maker: str, **others: object) -> LocalSettings:
    """Settings with this maker; the test is skipped where it is not installed."""
    if maker == "bubblewrap":
        if reason := bubblewrap.missing():
            pytest.skip(f"not installed: {reason}")
        others["bubblewrap"] = bubblewrap.built()
    return LocalSettings.model_validate({"maker": maker, **others})
