"""Where large tensors lie."""

import re
from pathlib import Path

import pytest
import torch

from model_server.kernels.memory import empty

_SMAPS = Path("/proc/self/smaps")


@pytest.mark.skipif(not _SMAPS.exists(), reason="the system does not show its mappings")
def test_a_large_tensor_lies_where_the_system_may_give_huge_pages() -> None:
    tensor = empty((4 * 1024**2,), torch.uint8)
    mapping = _mapping_at(tensor.data_ptr())
    permissions, flags = mapping.split(maxsplit=2)[1], mapping.rsplit("VmFlags:", 1)[1].split()
    assert permissions == "rw-p"
    assert "hg" in flags


def _mapping_at(address: int) -> str:
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", _SMAPS.read_text("ascii", "replace")):
        first, end = (int(part, 16) for part in mapping.split(maxsplit=1)[0].split("-"))
        if first <= address < end:
            return mapping
    raise AssertionError(f"nothing is mapped at {address:x}")
