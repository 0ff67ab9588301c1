"""The chat format of MiMo-V2: messages to token ids, and sampled ids back to messages. Pure Python, no torch.

Both engines and training use this package, so a prompt has one spelling everywhere.
"""
