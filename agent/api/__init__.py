"""The service's front door: REST and server-sent events over one store.

``app`` builds the application, ``tasks`` and ``events`` hold the routes, ``schemas`` what goes over the wire,
``problems`` every error answer and ``gate`` who may come in at all. Nothing here runs an agent: the API writes rows,
workers read them.
"""
