"""Between an agent and its machines: whose turn it is, how much at once, and what is asked again.

    agent's tools -> ``toolbox`` (one view per run) -> ``executor`` (admission, retries) -> pool -> backend -> sandboxd

An executor runs in this process, or in a Ray actor (``ray``, the extra of that name); it is the same class, and calls
leave the same traces. Nothing here knows what a command is for.
"""
