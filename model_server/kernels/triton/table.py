"""The Triton kernels as an op table."""

from model_server.kernels.ops import Ops
from model_server.kernels.triton.attend_pages import attend_pages
from model_server.kernels.triton.attend_rings import attend_rings
from model_server.kernels.triton.combine import combine
from model_server.kernels.triton.gated import gated
from model_server.kernels.triton.linear import grouped_linear, linear
from model_server.kernels.triton.norm import add_norm
from model_server.kernels.triton.quantize import quantize
from model_server.kernels.triton.route import route
from model_server.kernels.triton.store import store_pages, store_rings

TRITON = Ops(
    name="triton",
    quantize=quantize,
    add_norm=add_norm,
    gated=gated,
    linear=linear,
    route=route,
    grouped_linear=grouped_linear,
    combine=combine,
    attend_pages=attend_pages,
    attend_rings=attend_rings,
    store_pages=store_pages,
    store_rings=store_rings,
)
