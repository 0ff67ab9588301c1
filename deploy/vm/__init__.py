"""Runs a command of this checkout under another kernel: a virtual machine that sees this machine's files.

``python -m deploy.vm -- COMMAND`` is the way in, ``machine`` starts it, ``kernel`` fetches what it boots, and
``init.sh`` is its first process. For what a kernel decides when it starts, such as version 2 of control groups.
"""
