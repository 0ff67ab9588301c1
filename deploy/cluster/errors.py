"""What can go wrong with a cluster of our own."""


class ClusterError(Exception):
    """It cannot be built, started, found or ended; the message says why and what to do."""
