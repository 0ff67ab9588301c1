"""The groups of commands of ``mimo``: options and help. What they do is imported when one is called."""
