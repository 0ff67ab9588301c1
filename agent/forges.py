"""Where the code of open projects stands in public: hosts that may have the answer to a benchmark's task.

Other places have it too, such as mirrors within a company and archives of distributions: a task names them in
``deny_hosts``.
"""

FORGES = (
    "github.com",
    "githubusercontent.com",
    "gitlab.com",
    "bitbucket.org",
    "codeberg.org",
    "gitee.com",
    "googlesource.com",
    "launchpad.net",
    "sr.ht",
    "sourcegraph.com",
    "grep.app",
    "raw.githack.com",
    "softwareheritage.org",
    "web.archive.org",
)
"""Git hosts with their ``api.``, ``codeload.``, ``gist.`` and ``raw.``, and what copies or searches them."""

INDEXES = (
    "pypi.org",
    "pythonhosted.org",
    "conda.anaconda.org",
    "repo.anaconda.com",
    "npmjs.org",
    "yarnpkg.com",
    "unpkg.com",
    "jsdelivr.net",
    "esm.sh",
    "crates.io",
    "golang.org",
    "rubygems.org",
    "repo.maven.org",
    "repo1.maven.org",
    "repo.maven.apache.org",
    "repo.packagist.org",
    "nuget.org",
)
"""Package indexes, which have a project's later releases; some by a domain that has other things too."""


def leads_to(allowed: str, host: str) -> bool:
    """Whether an entry of an allow-list lets anybody through to a host or to one below it.

    >>> leads_to("codeload.github.com", "github.com"), leads_to("*.example.org", "git.example.org")
    (True, True)
    >>> leads_to("git.example.org:22", "git.example.org"), leads_to("docs.example.org", "git.example.org")
    (True, False)
    """
    name = allowed.partition(":")[0]
    every_below, below = name.startswith("*."), f".{host}"
    name = name.removeprefix("*.")
    return name == host or name.endswith(below) or (every_below and host.endswith(f".{name}"))
