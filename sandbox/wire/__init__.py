"""What a service and a sandbox say to each other, whichever backend made it.

``frames`` is the form, ``client`` the service's end of a connection to sandboxd (``sandbox/sandboxd/PROTOCOL.md``),
``machine`` the sandbox that every backend builds on it.
"""
