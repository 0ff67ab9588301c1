"""Numerics run on one thread: sums keep their order, and tiny matrices gain nothing from more. Triton is told before
anybody imports it how to run here."""

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Read when triton is first imported, which transformers does too: its interpreter stands in for a GPU.
    os.environ["TRITON_INTERPRET"] = "1"
# On a GPU Triton 3.9 warns until one has said whether products and sums may be fused, as they are by default.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
