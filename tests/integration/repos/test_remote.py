"""Fetching from git hosts, with real git on both ends."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.errors import RepositoryError
from agent.git import git
from agent.integrations.remote import Credential, Reach, Remote, RemoteUrl
from agent.repository import prepare_repository
from agent.testing import GitHost

from .conftest import LOOPBACK, Hosted, Sshd

pytestmark = pytest.mark.anyio


def _remote(hosted: Hosted, token: str | None = None) -> Remote:
    return Remote(hosted.url, hosted.reach, Credential(token or hosted.host.token, "x-access-token"))


async def _bare(folder: Path) -> Path:
    await git("init", "--quiet", "--bare", "--template=", str(folder), cwd=folder.parent)
    return folder


async def test_a_commit_is_fetched_with_a_token_and_without_its_history(hosted: Hosted, tmp_path: Path) -> None:
    hosted.commit("notes.txt", "second\n")
    remote = _remote(hosted)
    cache = await _bare(tmp_path / "cache.git")
    commit = await remote.resolve("main")
    await remote.fetch(commit, cache)

    base = await prepare_repository(cache, commit, tmp_path / "task.git")
    assert base.commit == commit
    assert (await git("rev-list", "--all", "--count", cwd=cache)).strip() == b"1"


async def test_a_newer_commit_is_added_to_what_was_fetched_before(hosted: Hosted, tmp_path: Path) -> None:
    remote = _remote(hosted)
    cache = await _bare(tmp_path / "cache.git")
    first = await remote.resolve("HEAD")
    await remote.fetch(first, cache)
    second = hosted.commit("notes.txt", "second\n")
    await remote.fetch(second, cache)

    assert await remote.resolve("main") == second
    for commit in (first, second):
        await prepare_repository(cache, commit, tmp_path / f"{commit}.git")


async def test_names_are_branches_and_tags_of_the_host_exactly(hosted: Hosted) -> None:
    first = await _remote(hosted).resolve("HEAD")
    await git("update-ref", "refs/other/refs/heads/spare", first, cwd=hosted.bare)
    await git("update-ref", "refs/tags/v1", first, cwd=hosted.bare)

    assert await _remote(hosted).resolve("v1") == first
    assert await _remote(hosted).default_branch() == "main"
    with pytest.raises(RepositoryError, match="no branch or tag 'spare'"):
        await _remote(hosted).resolve("spare")


@pytest.mark.parametrize("token", ["wrong", None])
async def test_a_wrong_or_missing_token_is_said_without_repeating_it(hosted: Hosted, token: str | None) -> None:
    remote = Remote(hosted.url, hosted.reach, Credential(token, "bot") if token else None)

    with pytest.raises(RepositoryError, match=r"Authentication failed|could not read Username") as refused:
        await remote.resolve("main")
    assert "wrong" not in str(refused.value)


async def test_a_commit_that_the_host_does_not_have_is_said(hosted: Hosted, tmp_path: Path) -> None:
    cache = await _bare(tmp_path / "cache.git")

    with pytest.raises(RepositoryError, match="not our ref"):
        await _remote(hosted).fetch("d" * 40, cache)


async def test_a_host_on_a_private_network_is_not_called(hosted: Hosted) -> None:
    remote = Remote(hosted.url, Reach(ca_file=hosted.reach.ca_file))

    with pytest.raises(RepositoryError, match="no address on the public internet"):
        await remote.resolve("main")
    assert hosted.host.requests == []


async def test_a_host_that_the_operator_does_not_list_is_not_called(hosted: Hosted) -> None:
    remote = Remote(hosted.url, Reach(("github.com", "*.example.com"), LOOPBACK))

    with pytest.raises(RepositoryError, match="localhost is not among the hosts that MIMO_REPOSITORY_HOSTS lists"):
        await remote.resolve("main")
    assert hosted.host.requests == []


async def test_a_redirect_is_not_followed(hosted: Hosted, tmp_path: Path) -> None:
    elsewhere = GitHost(tmp_path / "host")
    with elsewhere.running():
        hosted.host.redirect_to = elsewhere.url
        with pytest.raises(RepositoryError):
            await _remote(hosted).resolve("main")
    assert elsewhere.requests == []


async def test_a_certificate_of_an_unknown_authority_is_refused(hosted: Hosted) -> None:
    with pytest.raises(RepositoryError, match="certificate"):
        await Remote(hosted.url, Reach(networks=LOOPBACK)).resolve("main")


async def test_plain_http_is_refused_where_the_host_is_public() -> None:
    with pytest.raises(RepositoryError, match="https or ssh only"):
        await Remote("http://8.8.8.8/team/calculator.git", Reach()).resolve("main")


async def test_a_repository_is_fetched_over_ssh_with_a_key(hosted: Hosted, sshd: Sshd, tmp_path: Path) -> None:
    url = f"ssh://{sshd.user}@localhost:{sshd.port}{hosted.bare}"
    remote = Remote(url, Reach(networks=LOOPBACK), Credential(sshd.key), sshd.host_key)
    cache = await _bare(tmp_path / "cache.git")
    commit = await remote.resolve("main")
    await remote.fetch(commit, cache)

    await prepare_repository(cache, commit, tmp_path / "task.git")


async def test_an_ssh_host_with_another_key_is_not_believed(hosted: Hosted, sshd: Sshd) -> None:
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    url = f"ssh://{sshd.user}@localhost:{sshd.port}{hosted.bare}"

    with pytest.raises(RepositoryError):
        await Remote(url, Reach(networks=(ip_network("127.0.0.0/8"),)), Credential(sshd.key), other).resolve("main")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("git@github.com:team/calculator.git", "ssh://git@github.com/team/calculator.git"),
        ("https://github.com/team/calculator", "https://github.com/team/calculator"),
        ("https://git.example.com:8443/a", "https://git.example.com:8443/a"),
    ],
)
def test_addresses_are_written_one_way(text: str, written: str) -> None:
    assert str(RemoteUrl.parse(text)) == written


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc",
        "ext::sh -c id",
        "https://user:secret@github.com/a",
        "https://token@github.com/a",
        "https://github.com/",
        "ssh://-oProxyCommand=id@github.com/a",
        "ssh://git@-oProxyCommand=id/a",
        "https://github.com/a?b",
        "https://github.com:99999/a",
        "/srv/repository",
        "https://github.com/a\nb",
    ],
)
def test_what_is_no_address_of_a_git_host_is_refused(text: str) -> None:
    with pytest.raises(RepositoryError):
        RemoteUrl.parse(text)
