"""Work trees kept outside the sandbox, to be put back later, there or elsewhere.

A checkpoint is a manifest (``manifest.py``) and the contents it names, both kept by their SHA-256 in a store
(``store.py``). What is in the store already is not fetched, and what is in the sandbox already is not sent
(``transfer.py``); sandboxd's end is ``sandbox/sandboxd/tree.go``.
"""
