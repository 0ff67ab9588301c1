"""Improves the model with the same agent, sandboxes and tasks that serve users.

Today: the nano checkpoint, trained from scratch by imitation of scripted experts (``train_nano``).
"""
