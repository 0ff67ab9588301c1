"""The event log, the queue and the leases.

``base`` says what a store is. ``tasks`` is what users do, bound to one project; ``sql`` what workers do; ``queue`` says
whose turn it is, and ``derive`` what a log means. ``journal``, ``claims`` and ``rows`` are the parts of their
transactions, ``database`` the transactions, ``sqlite`` and ``postgres`` the two databases, ``open`` their choice, and
``migrations`` the history of their tables. ``artifacts`` is what runs leave beside their events, ``blobs`` and ``s3``
where its bytes are. Nothing here runs an agent.
"""
