"""Kernels for one GPU in Triton, a file for each op of ``model_server.kernels.ops``; ``table`` lists them.

Checked against ``ref`` under Triton's interpreter, on the CPU and on small shapes. Importing a file of this folder
imports Triton, and what its interpreter is set to then stays.
"""
