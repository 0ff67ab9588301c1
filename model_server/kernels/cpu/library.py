"""The compiled step through ctypes: the records of ``interface.h``, and the functions that take them."""

import ctypes
import platform
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch

from model_server.kernels.cpu.build import NoLibrary, find_library

_PAIRS = "avx512bf16"
_PROCESSOR = Path("/proc/cpuinfo")


class MatrixRecord(Structure):
    _fields_: ClassVar = [
        ("panels", c_void_p),
        ("scales", c_void_p),
        ("storage", c_int64),
        ("num_in", c_int64),
        ("num_out", c_int64),
    ]


class HeadsRecord(Structure):
    _fields_: ClassVar = [
        *((name, c_int64) for name in ("num_heads", "num_kv_heads", "qk_dim", "v_dim")),
        *((name, c_int64) for name in ("half_rotary", "window_keys", "num_layers")),
        ("cos", c_void_p),
        ("sin", c_void_p),
    ]


class LayerRecord(Structure):
    _fields_: ClassVar = [
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("sink", c_void_p),
        ("qkv", MatrixRecord),
        ("output", MatrixRecord),
        ("window", c_int64),
        ("cache_layer", c_int64),
        ("has_experts", c_int64),
        ("gate_up", MatrixRecord),
        ("down", MatrixRecord),
        ("router", MatrixRecord),
        ("router_bias", c_void_p),
        ("expert_gate_up", POINTER(MatrixRecord)),
        ("expert_down", POINTER(MatrixRecord)),
    ]


class PredictionRecord(Structure):
    _fields_: ClassVar = [
        ("embedding_norm", c_void_p),
        ("hidden_norm", c_void_p),
        ("final_norm", c_void_p),
        ("projection", MatrixRecord),
        ("block", LayerRecord),
    ]


class ModelRecord(Structure):
    _fields_: ClassVar = [
        *((name, c_int64) for name in ("hidden_size", "vocab_size")),
        *((name, c_int64) for name in ("num_layers", "num_expert_layers", "num_predictions")),
        *((name, c_int64) for name in ("num_experts", "top_k", "normalise")),
        *((name, c_float) for name in ("scaling", "eps", "value_scale", "unused")),
        ("embedding_storage", c_int64),
        ("embedding", c_void_p),
        ("final_norm", c_void_p),
        ("head", MatrixRecord),
        ("heads", HeadsRecord * 2),
        ("layers", POINTER(LayerRecord)),
        ("predictions", POINTER(PredictionRecord)),
    ]


class BatchRecord(Structure):
    _fields_: ClassVar = [
        ("num_rows", c_int64),
        ("num_segments", c_int64),
        ("ids", c_void_p),
        ("segments", c_void_p),
        ("cache_storage", c_int64),
        *((name, c_void_p) for name in ("page_k", "page_v", "ring_k", "ring_v")),
        *((name, c_void_p) for name in ("hidden", "logits", "experts", "likeliest")),
        ("prediction", c_int64),
        ("scratch", c_void_p),
        ("crew", c_void_p),
    ]


class Library:
    """The functions of ``interface.h``."""

    def __init__(self, variant: str) -> None:
        """``variant`` is one of ``build.VARIANTS``. Raises NoLibrary."""
        path = find_library(variant)
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError as error:
            raise NoLibrary(f"{path} cannot be loaded: {error}") from error
        self.variant = variant
        self.pairs = variant == _PAIRS
        """Matrices stored in bf16 are multiplied in bf16 too."""
        self.scratch_bytes = loaded.mimo_scratch_bytes
        self.scratch_bytes.restype = c_int64
        self.scratch_bytes.argtypes = [c_void_p, c_void_p, c_int64]
        self.new_crew = loaded.mimo_new_crew
        self.new_crew.restype = c_void_p
        self.new_crew.argtypes = [c_int64]
        self.end_crew = loaded.mimo_end_crew
        self.end_crew.restype = None
        self.end_crew.argtypes = [c_void_p]
        self.step = loaded.mimo_step
        self.predict = loaded.mimo_predict
        for function in (self.step, self.predict):
            function.restype = None
            function.argtypes = [c_void_p, c_void_p]
        self.decode = loaded.mimo_decode
        self.decode.restype = c_int64
        self.decode.argtypes = [c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_int64]


@lru_cache(maxsize=2)
def best_library(*, pairs: bool = False) -> Library:
    """For this machine's instruction set. Raises NoLibrary, with the reason.

    Args:
        pairs: one that multiplies bf16 numbers in pairs.
    """
    if pairs:
        if "avx512_bf16" not in _PROCESSOR.read_text("utf-8"):
            raise NoLibrary("the processor has no products of bf16 numbers (avx512_bf16)")
        return Library(_PAIRS)
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return Library("native")
    match torch.backends.cpu.get_cpu_capability():
        case "AVX512":
            return Library("avx512")
        case "AVX2":
            return Library("avx2")
        case other:
            raise NoLibrary(f"the processor has no AVX2 ({other})")
