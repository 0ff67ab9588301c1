"""How memory for keys and values is divided."""

import pytest
import torch

from model_server.engine.cache_plan import plan_cache
from model_server.kernels.batch import new_pools
from tests.numerics.small_models import small_config

CONFIG = small_config(num_hidden_layers=5, hybrid_layer_pattern=(0, 1, 1, 0, 1), moe_layer_freq=(0, 1, 1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_bytes", [400_000, 1_000_000, 50_000_000])
@pytest.mark.parametrize("num_hidden", [0, 20])
def test_the_pools_fill_the_memory_but_do_not_exceed_it(num_bytes: int, dtype: torch.dtype, num_hidden: int) -> None:
    plan = plan_cache(CONFIG, dtype, 4, 1024, num_bytes, num_hidden)
    num_rings = 4 + plan.num_snapshots + plan.num_sessions
    pools = new_pools(CONFIG, plan.num_pages, num_rings, dtype)
    used = sum(pool.nbytes for pool in (pools.page_k, pools.page_v, pools.ring_k, pools.ring_v))
    used += num_rings * num_hidden * CONFIG.hidden_size * dtype.itemsize
    assert 0.9 * num_bytes < used <= num_bytes


def test_without_a_limit_all_running_sequences_and_as_many_others_fit() -> None:
    plan = plan_cache(CONFIG, torch.float32, 4, 1000)
    assert plan.num_pages == 2 * 4 * 16
    assert plan.num_snapshots >= 2 * 4


def test_a_long_context_does_not_take_all_memory_of_the_machine() -> None:
    plan = plan_cache(CONFIG, torch.float32, 64, 1_000_000)
    assert plan.num_pages * 64 >= 1_000_000
    assert plan.num_pages * 64 < 64 * 1_000_000


def test_memory_that_holds_nothing_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="1000 bytes hold no keys and values for 2 sequences"):
        plan_cache(CONFIG, torch.float32, 2, 1024, 1000)


def test_a_model_without_global_layers_needs_no_memory_for_pages() -> None:
    config = small_config(hybrid_layer_pattern=(1, 1))
    assert plan_cache(config, torch.float32, 2, 1024, 1_000_000).num_pages == 2 * 2 * 16
