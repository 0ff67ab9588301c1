"""Makes verified repair tasks: small Python repositories with one broken line, and tests that prove it.

Every task is executed when it is made: its tests pass before the bug, fail with it, and pass with the fix. Splits
(identifiers, function families, bug kinds) are fixed in ``manifest.json``; ``names`` and ``tasks`` obey it.
"""
