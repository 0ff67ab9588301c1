"""The parts of a run's step, for ``agent/loop.py``, which says in which order they come."""
