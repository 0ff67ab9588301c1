"""What GitHub's webhooks say of a pull request: a review that asks for changes, a comment, checks that failed."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.integrations.github import FAILED
from agent.integrations.github_hooks import (
    CheckSuite,
    GitHubDelivery,
    HookPullRequest,
    WorkflowRun,
    cut,
    mentions,
    trusted,
)


@dataclass(frozen=True, slots=True)
class Objection:
    """What somebody wants to be different in a pull request."""

    by: str
    """Login of who says it; of failed checks, of who had them run."""
    number: int
    branch: str | None
    """What would be merged, of the repository itself; None where only the host knows."""
    text: str
    review: int | None = None
    """What it says at lines has to be asked for."""
    suite: int | None = None
    """Which of its checks failed has to be asked for."""


def objected(event: str, delivery: GitHubDelivery, word: str) -> Objection | None:
    """What is said of a pull request; None where it is nothing, who says it may not, or the branch is another's.

    Args:
        event: the header ``X-GitHub-Event``.
        word: ``@`` and this in a comment asks for something.
    """
    reader = _READERS.get((event, delivery.action))
    return reader(delivery, word) if reader else None


def _reviewed(delivery: GitHubDelivery, word: str) -> Objection | None:
    review, pull = delivery.review, delivery.pull_request
    by = trusted(review) if review else None
    branch = _branch(delivery, pull)
    if review is None or pull is None or by is None or branch is None:
        return None
    refused = review.state.lower() == "changes_requested"
    if not refused and not mentions(review.body, word):
        return None
    text = f"{by} {'asks for changes' if refused else 'reviewed it'}:\n\n{cut(review.body or '')}".rstrip()
    return Objection(by, pull.number, branch, text, review=review.id)


def _remarked(delivery: GitHubDelivery, word: str) -> Objection | None:
    comment, pull = delivery.comment, delivery.pull_request
    by = trusted(comment) if comment else None
    branch = _branch(delivery, pull)
    if comment is None or pull is None or by is None or branch is None or not mentions(comment.body, word):
        return None
    line = f", line {comment.line}" if comment.line else ""
    return Objection(by, pull.number, branch, f"{by} wrote to `{comment.path}`{line}:\n\n{cut(comment.body)}")


def _commented(delivery: GitHubDelivery, word: str) -> Objection | None:
    comment, issue = delivery.comment, delivery.issue
    by = trusted(comment) if comment else None
    if comment is None or issue is None or not issue.pull_request or by is None or not mentions(comment.body, word):
        return None
    return Objection(by, issue.number, None, f"{by} wrote there:\n\n{cut(comment.body)}")


def _suite_failed(delivery: GitHubDelivery, word: str) -> Objection | None:
    """Suites of GitHub Actions are told as workflow runs, too."""
    suite = delivery.check_suite
    if suite is None or (suite.app and suite.app.slug == "github-actions"):
        return None
    return _failed(delivery, suite, suite.id, suite.app.slug if suite.app else "")


def _workflow_failed(delivery: GitHubDelivery, word: str) -> Objection | None:
    run = delivery.workflow_run
    return _failed(delivery, run, run.check_suite_id, run.name or "") if run else None


def _failed(delivery: GitHubDelivery, what: CheckSuite | WorkflowRun, suite: int, name: str) -> Objection | None:
    """Of the commit that the branch has now; what was said of older ones may be mended."""
    if what.conclusion not in FAILED or delivery.sender is None:
        return None
    for pull in what.pull_requests:
        branch = _branch(delivery, pull)
        if branch is not None and pull.head.sha == what.head_sha:
            text = f"Checks of {name[:200] or 'the branch'} failed on commit {what.head_sha[:12]}."
            return Objection(delivery.sender.login, pull.number, branch, text, suite=suite)
    return None


def _branch(delivery: GitHubDelivery, pull: HookPullRequest | None) -> str | None:
    """None where it is in a fork: anybody can call a branch of theirs as ours are called."""
    its = pull.head.repo if pull else None
    own = its is not None and delivery.repository is not None and its.id == delivery.repository.id
    return pull.head.ref if pull and own else None


_READERS: dict[tuple[str, str], Callable[[GitHubDelivery, str], Objection | None]] = {
    ("pull_request_review", "submitted"): _reviewed,
    ("pull_request_review_comment", "created"): _remarked,
    ("issue_comment", "created"): _commented,
    ("check_suite", "completed"): _suite_failed,
    ("workflow_run", "completed"): _workflow_failed,
}
