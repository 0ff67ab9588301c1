"""Where ``mimo`` keeps what it writes."""

from collections.abc import Mapping
from pathlib import Path

import platformdirs


def home(environment: Mapping[str, str]) -> Path:
    """``MIMO_HOME``, else the user's state directory (``$XDG_STATE_HOME/mimo``, usually ``~/.local/state/mimo``)."""
    given = environment.get("MIMO_HOME")
    return Path(given).expanduser().absolute() if given else platformdirs.user_state_path("mimo")
