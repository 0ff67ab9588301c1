"""Sandboxes as pods of a Kubernetes cluster.

``backend`` makes them and ends them; ``manifest`` says what a pod is; ``cluster`` speaks to the API server; ``watch``
knows of every pod what ``pod`` reads out of it, and ``starting`` waits for one to serve; ``sandbox`` is one that does,
and ``way_out`` leads out of those that may reach hosts by name. ``canary`` tries what a sandbox reaches before any is
handed out, and ``fences`` are the objects that keep a namespace of sandboxes, for whoever sets one up.

Nothing here runs a command: that goes straight to sandboxd in the pod (``sandbox/wire/client.py``), never through the
API server.
"""
