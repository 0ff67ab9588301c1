"""Ends what nobody cares for any more.

Three lines, each of which holds without the others: the lease and the lifetime that every sandbox enforces on itself
(sandboxd; locally its holder); the sweep of ``reaper``, which compares what the machines hold with the registry; and an
operator, by ``python -m sandbox.reaper``.
"""
