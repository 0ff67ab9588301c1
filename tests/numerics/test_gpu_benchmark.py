"""The benchmark of GPU kernels can be trusted to start: its cases run on a small layer, and floors are those derived
by hand from the published limits of the card."""

import pytest
import torch

from benchmarks.gpu_kernels import Sizes, cases, main
from model_server.kernels.ops import REF

SMALL = Sizes(
    hidden=32, num_heads=4, global_groups=1, window_groups=2, qk_dim=12, v_dim=8, window_keys=9, num_experts=4, top_k=2,
    expert_width=16, contexts=(70, 130), verified=2, prompt=20, batch=3, product_rows=(1, 3), expert_rows=(1, 5),
)  # fmt: skip


def test_every_case_runs_on_a_small_layer() -> None:
    names = []
    for case in cases(REF, torch.device("cpu"), SMALL):
        case.call()
        assert case.floor_us > 0
        names.append(case.name)
    assert len(set(names)) == len(names) == 15


@pytest.mark.parametrize(
    ("number", "floor_us"), [(0, 17.5), (5, 17.6), (7, 12.7)], ids=["32k keys", "128 windows", "q, k, v of one row"]
)
def test_floors_at_the_published_widths_are_those_derived_by_hand(number: int, floor_us: float) -> None:
    light = Sizes(num_experts=1, top_k=1, expert_width=128, contexts=(32_768, 64), prompt=1, product_rows=(1,))
    found = next(case for index, case in enumerate(cases(REF, torch.device("cpu"), light)) if index == number)
    assert found.floor_us == pytest.approx(floor_us, rel=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_that_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out == "no GPU here: nothing was measured\n"
