"""``mimo``: the command line.

``program`` is where it begins; ``app`` declares the commands and imports the rest only when one is called; ``run``
works in its own process, ``task`` speaks to a service over ``client``, ``serve`` starts one and keeps its ``children``
alive. ``progress`` and ``report`` turn events and results into lines for people.
"""
