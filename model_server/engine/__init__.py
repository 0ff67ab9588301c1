"""The embedded engine: continues token sequences with the plain PyTorch model, many at once, on one machine.

Inside: scheduling, key-value storage, the forward pass over a mixed batch, sampling, the step loop. Not inside: text,
templates, tool calls (``chat``) and HTTP (``server``).
"""
