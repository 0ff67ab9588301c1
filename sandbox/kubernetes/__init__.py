"""Sandboxes as pods of a Kubernetes cluster.

``backend`` makes them and ends them. Where their pods come from is a ``provider``'s: ``bare_pods`` are ours, and
``claims`` have the agent-sandbox controller make them; ``manifest`` and ``claim_manifest`` say what is asked for.
``cluster`` speaks to the API server; ``watch`` hears what ``pod`` and ``claim`` read out of its objects, ``following``
keeps that by sandbox, and ``starting`` waits for one to serve. ``sandbox`` is one that does, and ``way_out`` leads out
of those that may reach hosts by name. ``canary`` tries what a sandbox reaches before any is handed out, and ``fences``
are the objects that keep a namespace of sandboxes, for whoever sets one up.

Nothing here runs a command: that goes straight to sandboxd in the pod (``sandbox/wire/client.py``), never through the
API server.
"""
