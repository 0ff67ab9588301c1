"""What GitHub's webhooks say (docs.github.com/webhooks/webhook-events-and-payloads), as far as it is listened to.

Strangers write issues and comments. Only who GitHub says belongs to the repository can ask for something, and what
they ask for is always the same: work on this text. Nothing in a text chooses a commit, a check or a limit.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

_TRUSTED = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
_MOST_CHARS = 30_000
"""Of one text, so that three of them with who wrote them fit into a problem statement."""


class _Part(BaseModel):
    """GitHub sends far more than is read, and adds to it."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Account(_Part):
    login: str = Field(max_length=100, pattern=r"^[\x21-\x7e]+$")
    type: str = Field("User", description="User, Bot or Organization.")


class HookRepository(_Part):
    id: int
    full_name: str = Field(max_length=150, pattern=r"^[\x21-\x7e]+$", description="OWNER/NAME.")
    clone_url: str
    ssh_url: str


class Label(_Part):
    name: str


class PullRequestLink(_Part):
    """Says by being there that an issue is the conversation of a pull request."""


class Issue(_Part):
    """An issue, or the conversation of a pull request."""

    number: int
    title: str
    body: str | None = None
    user: Account | None = Field(None, description="Null once the account is gone.")
    author_association: str = ""
    labels: tuple[Label, ...] = ()
    pull_request: PullRequestLink | None = None


class Comment(_Part):
    body: str
    user: Account | None = None
    author_association: str = ""


class ReviewComment(Comment):
    """At a line of a file."""

    path: str = Field("", max_length=4096)
    line: int | None = Field(None, description="Null once the line is gone.")


class Review(_Part):
    id: int
    state: str
    body: str | None = None
    user: Account | None = None
    author_association: str = ""


class HeadRepository(_Part):
    id: int


class Head(_Part):
    """The branch that shall be merged."""

    ref: str = Field(max_length=300)
    sha: str
    repo: HeadRepository | None = Field(None, description="Null once a fork is gone.")


class HookPullRequest(_Part):
    number: int
    head: Head


class App(_Part):
    slug: str = ""


class CheckSuite(_Part):
    """Checks that a program ran on a commit."""

    id: int
    conclusion: str | None = None
    head_sha: str
    app: App | None = None
    pull_requests: tuple[HookPullRequest, ...] = ()


class WorkflowRun(_Part):
    """Of GitHub Actions, whose checks are a suite too."""

    check_suite_id: int
    name: str | None = None
    conclusion: str | None = None
    head_sha: str
    pull_requests: tuple[HookPullRequest, ...] = ()


class GitHubDelivery(_Part):
    """The body of any event; which members there are depends on it."""

    action: str = ""
    sender: Account | None = None
    repository: HookRepository | None = None
    issue: Issue | None = None
    label: Label | None = None
    comment: ReviewComment | None = None
    pull_request: HookPullRequest | None = None
    review: Review | None = None
    check_suite: CheckSuite | None = None
    workflow_run: WorkflowRun | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Work that somebody wants done on an issue."""

    by: str
    """Login of who asks."""
    number: int
    """Of the issue."""
    problem: str
    """For a task of its own."""
    message: str | None
    """For the task that works on the issue already; None: that one needs to hear nothing."""


def sign(secret: str, body: bytes) -> str:
    """The header ``X-Hub-Signature-256`` of a body."""
    return "sha256=" + hmac.digest(secret.encode(), body, hashlib.sha256).hex()


def is_signed(secret: str, body: bytes, signature: str) -> bool:
    # As bytes: compare_digest refuses text outside ASCII.
    return hmac.compare_digest(sign(secret, body).encode(), signature.encode())


def asked(event: str, delivery: GitHubDelivery, word: str) -> Asked | None:
    """What is asked for; None where it is nothing, or who asks may not.

    Args:
        event: the header ``X-GitHub-Event``.
        word: a label of this name asks, and ``@`` and this in a text.
    """
    reader = _READERS.get((event, delivery.action))
    return reader(delivery, word) if reader else None


def trusted(said: Issue | Comment | Review) -> str | None:
    """The login of who said it, if that is a person of the repository."""
    by = said.user
    return by.login if by and by.type == "User" and said.author_association in _TRUSTED else None


def mentions(text: str | None, word: str) -> bool:
    """Whether somebody is addressed; a line quoted from somebody else does not count."""
    own = "\n".join(line for line in (text or "").splitlines() if not line.lstrip().startswith(">"))
    return re.search(rf"(?<![\w@./-])@{re.escape(word)}(?![\w-])", own, re.IGNORECASE) is not None


def cut(text: str) -> str:
    """As much of a text as a problem statement has room for."""
    if len(text) <= _MOST_CHARS:
        return text
    return f"{text[:_MOST_CHARS]}\n[{len(text) - _MOST_CHARS} characters more are left out here]"


def _opened(delivery: GitHubDelivery, word: str) -> Asked | None:
    """With the label too, it is told once more, as labelled; that is the time to listen."""
    issue = delivery.issue
    by = trusted(issue) if issue else None
    if issue is None or by is None or _wears(issue.labels, word):
        return None
    if not mentions(issue.title, word) and not mentions(issue.body, word):
        return None
    return Asked(by, issue.number, _problem(delivery, issue), None)


def _labelled(delivery: GitHubDelivery, word: str) -> Asked | None:
    """To label another's issue takes a role in the repository; a form can label the issue of any author."""
    issue, sender = delivery.issue, delivery.sender
    if issue is None or sender is None or sender.type != "User" or not delivery.label:
        return None
    own = issue.user is None or issue.user.login == sender.login
    if not _wears((delivery.label,), word) or (own and issue.author_association not in _TRUSTED):
        return None
    return Asked(sender.login, issue.number, _problem(delivery, issue, f"{sender.login} labelled it."), None)


def _commented(delivery: GitHubDelivery, word: str) -> Asked | None:
    issue, comment = delivery.issue, delivery.comment
    by = trusted(comment) if comment else None
    if issue is None or issue.pull_request or comment is None or by is None or not mentions(comment.body, word):
        return None
    said = f"{by} wrote there:\n\n{cut(comment.body)}"
    return Asked(by, issue.number, _problem(delivery, issue, said), said)


def _wears(labels: tuple[Label, ...], word: str) -> bool:
    return any(label.name.lower() == word.lower() for label in labels)


def _problem(delivery: GitHubDelivery, issue: Issue, said: str = "") -> str:
    """The title first: lists of tasks show the first line."""
    where = delivery.repository.full_name if delivery.repository else ""
    author = issue.user.login if issue.user else "an account that is gone"
    source = f"This is issue {where}#{issue.number}, written by {author}. {said}"
    return "\n\n".join(filter(None, (issue.title, cut(issue.body or "").strip(), source.strip())))


_READERS: dict[tuple[str, str], Callable[[GitHubDelivery, str], Asked | None]] = {
    ("issues", "opened"): _opened,
    ("issues", "labeled"): _labelled,
    ("issue_comment", "created"): _commented,
}
