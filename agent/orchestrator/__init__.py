"""From a queued task to a finished one: claims, leases, sandboxes, checkout, agent, patch, verdict.

``worker`` owns runs, ``runner`` is the story of one run, ``workspace`` its files. Nothing here speaks to users: the
API writes rows, workers read them, and they meet in the store.
"""
