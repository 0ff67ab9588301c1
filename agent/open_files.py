"""How many files a process may have open."""

import resource


def allow_most_files() -> int:
    """Let this process have as many files open as the system allows: each connection is one, each sandbox several, and
    shells and units begin at 1,024. How many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
