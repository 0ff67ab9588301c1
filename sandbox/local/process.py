"""The end of a forked process."""

import os
import traceback
from types import TracebackType


class ends_here:  # noqa: N801  # read as a statement: with ends_here(): ...
    """The process ends with this block, whatever happens in it: a fork must never run on in its parent's code."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                traceback.print_exception(error)
        finally:
            os._exit(error is not None)
