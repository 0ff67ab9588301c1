"""Checkpoints in the hub's layout, to our modules (``load``) and back (``save``).

safetensors only: a checkpoint is data, never code. Quantised weights are e4m3 values with one f32 scale per block
(``<name>_scale_inv``); the weight is value times scale. Experts have a name each in the files and are stacked here.
``layout`` has names, shapes and types, ``files`` reads, ``scales`` knows how FP8 is blocked.
"""
