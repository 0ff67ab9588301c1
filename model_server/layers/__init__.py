"""The parts of the model in plain, differentiable PyTorch. Training uses them; every fast path is compared with them.

Shape letters: B sequences, T new tokens, S keys, C hidden width, N heads, G key-value heads, D query-key width,
V value width, E experts, K experts per token, I expert width.
"""
