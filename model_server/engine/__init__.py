"""Engines: what continues sequences of token ids."""
