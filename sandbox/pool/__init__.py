"""Sandboxes made before they are asked for.

``plan`` decides what to make and what to end, ``rate`` how fast, ``backoff`` when to leave an image alone: plain
functions and values without a clock. ``pool`` is the one loop that asks them and acts.
"""
