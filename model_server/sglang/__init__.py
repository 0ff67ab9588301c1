"""SGLang as the engine: how it is launched, whether it generates, and how it is asked for tokens.

``arguments`` makes the command line, ``process`` runs it outside Kubernetes, ``health`` waits until it generates, and
``client`` is a :class:`model_server.types.Engine` over its native endpoint, with ``native`` and ``grammar`` for what
travels. Template, reasoning and calls are not here: they are ours in front of every engine.
"""
