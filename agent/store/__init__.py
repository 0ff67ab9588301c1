"""The event log, the queue and the leases.

``base`` says what a store is, ``sql`` is the one there is, ``derive`` reads a log, ``open`` builds a store from an
address. Nothing here runs an agent.
"""
