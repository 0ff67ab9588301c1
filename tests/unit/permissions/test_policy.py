"""Which calls may be made: by what bash would run, not by how the line looks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.permissions.command import Unparsable, simple_commands
from agent.permissions.kinds import Kind, kind_of
from agent.permissions.policy import Allowed, Asked, Denied, Grant, Mode, decide, other_tool, parts_of
from agent.types import ToolCall


def bash(line: str) -> ToolCall:
    return ToolCall(id="1", name="bash", arguments=json.dumps({"command": line}))


def worst(line: str) -> Kind:
    return max(part.kind for part in parts_of(bash(line)))


READS = ["ls -la", "git status", "grep -rn x src", "cat a.py | head -3", "git diff HEAD~1", "sed -n 1,20p a.py"]
READS += ["sed -n '/^def f(/,/^$/p' a.py", "sed 's/a/b/g' a.py | sort | uniq -c", "find . -name '*.py'"]
RISKY = [
    *("rm -rf build", "git reset --hard", "git checkout .", "git clean -fd", "git -C . restore a.py", "git stash"),
    *("git push --force", "git branch -D x", "find . -delete", "dd if=/dev/zero of=a"),
]


@pytest.mark.parametrize("line", READS)
@pytest.mark.parametrize("mode", Mode)
def test_reading_needs_no_question_in_any_mode(line: str, mode: Mode) -> None:
    assert decide(bash(line), mode) == Allowed()


@pytest.mark.parametrize("line", RISKY)
@pytest.mark.parametrize("mode", [Mode.ASK, Mode.ACCEPT_EDITS, Mode.AUTO])
def test_what_can_lose_work_is_asked_in_every_mode(line: str, mode: Mode) -> None:
    assert worst(line) is Kind.DESTRUCTIVE
    assert isinstance(decide(bash(line), mode), Asked)


@pytest.mark.parametrize(
    "line",
    [
        *("r''m x", "\\rm x", '"rm" x', "/bin/rm x", "command rm x", "echo `rm x`", 'echo "$(rm x)"', "x=$(rm y)"),
        *("bash -c 'rm x'", "sudo bash -ec 'git reset --hard'", "eval rm x", "ls | xargs rm", "env A=1 rm x"),
        *("cat <<E\n$(rm x)\nE", "for f in *; do rm $f; done", "f() { rm x; }; f", "diff <(rm x) y", "ls; rm x &"),
        *("[[ -n $(rm x) ]]", "echo ${a:-$(rm x)}", "find . -exec rm {} +", "timeout 5 rm x", "if ls; then rm x; fi"),
        *("git -c core.pager=less reset --hard", "nice -n 5 rm x", "! rm x", "{ rm x; }", "(cd src && rm x)"),
    ],
)
def test_no_way_of_writing_it_hides_a_destructive_command(line: str) -> None:
    assert worst(line) is Kind.DESTRUCTIVE


@pytest.mark.parametrize(
    "line",
    [
        *(
            "PATH=. ls",
            "LD_PRELOAD=x.so git status",
            "export PATH=.; ls",
            "$cmd x",
            "./ls",
            "src/cat x",
            "cat a > /etc/b",
        ),
        *("sed 's/a/b/w out' f", "sed --in-place s/a/b/ /etc/x", "git -c alias.st='!sh' st", "git grep -Oless x"),
        *(
            "sort -o x y",
            "rg --pre sh x",
            "uniq a b",
            "git diff --output=x",
            "cd .. && touch x",
            "touch ../x",
            "cp a ~/b",
        ),
    ],
)
def test_what_only_looks_harmless_is_asked(line: str) -> None:
    assert isinstance(decide(bash(line), Mode.ACCEPT_EDITS), Asked)


@pytest.mark.parametrize("line", ["if (", "echo 'a", "ls $(", "a" * 200_000, "ls \udc80", "x\0y"])
def test_a_line_that_is_not_understood_is_asked(line: str) -> None:
    assert isinstance(decide(bash(line), Mode.AUTO), Asked)


def test_planning_refuses_what_is_not_reading_and_says_why() -> None:
    decision = decide(bash("touch a"), Mode.PLAN)
    assert isinstance(decision, Denied)
    assert "only reading" in decision.reason


def test_edits_are_free_where_they_are_accepted_and_asked_where_not() -> None:
    edit = ToolCall(id="1", name="str_replace", arguments="{}")
    assert decide(edit, Mode.ACCEPT_EDITS) == Allowed()
    assert decide(bash("mkdir -p src/a && touch src/a/b > src/log"), Mode.ACCEPT_EDITS) == Allowed()
    assert isinstance(decide(edit, Mode.ASK), Asked)


def test_the_network_is_asked_for_where_no_sandbox_closes_it() -> None:
    assert decide(bash("curl example.org"), Mode.AUTO, sandboxed=True) == Allowed()
    assert isinstance(decide(bash("curl example.org"), Mode.AUTO, sandboxed=False), Asked)


def test_a_grant_covers_a_program_and_its_subcommand_and_no_other() -> None:
    grants = granted("git commit -m a")
    assert decide(bash("git commit -m b"), Mode.ASK, grants) == Allowed()
    assert isinstance(decide(bash("git merge x"), Mode.ASK, grants), Asked)
    assert isinstance(decide(bash("git commit -m $(make)"), Mode.ASK, grants), Asked)


def test_what_destroys_and_what_interprets_is_granted_word_for_word() -> None:
    for line, other in [("rm a", "rm b"), ("python a.py", "python b.py"), ("bash x.sh", "bash y.sh")]:
        grants = granted(line)
        assert all(grant.exact for grant in grants)
        assert decide(bash(line), Mode.ASK, grants) == Allowed()
        assert isinstance(decide(bash(other), Mode.ASK, grants), Asked)


def test_a_command_that_only_the_shell_knows_cannot_be_granted() -> None:
    decision = decide(bash("rm $file"), Mode.ASK)
    assert isinstance(decision, Asked)
    assert decision.grants is None


LINES = st.sampled_from(["pytest -q", "make all", "git commit -m x", "npm test", "rm a", "ls", "touch b", "go vet ./x"])
JOINS = st.sampled_from([" && ", " || ", "; ", " | ", " & ", "\n"])


@given(LINES, JOINS, LINES)
def test_always_on_one_part_never_grants_another(first: str, join: str, second: str) -> None:
    grants = granted(first)
    alone = decide(bash(second), Mode.ASK, grants)
    assert decide(bash(first + join + second), Mode.ASK, grants) == alone


@given(LINES, JOINS, LINES)
def test_always_on_a_compound_command_grants_each_of_its_parts(first: str, join: str, second: str) -> None:
    grants = granted(first + join + second)
    assert {decide(bash(line), Mode.ASK, grants) == Allowed() for line in (first, second)} == {True}


@given(st.lists(LINES, min_size=1, max_size=4), JOINS)
def test_a_compound_command_is_as_bad_as_its_worst_part(lines: list[str], join: str) -> None:
    assert worst(join.join(lines)) is max(map(worst, lines))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_is_judged_without_an_error(line: str) -> None:
    decision = decide(bash(line), Mode.AUTO)
    assert isinstance(decision, Allowed | Asked)


@given(st.text(alphabet="abr m;|&$()'\"`\\\n<{}", max_size=30))
def test_whatever_surrounds_it_a_program_that_runs_is_found(noise: str) -> None:
    line = f"{noise}\nrm x\n"
    try:
        kinds = [kind_of(part) for part in simple_commands(line)]
    except Unparsable:
        return
    # Unless the noise opened a quote or a here-document that swallows the line.
    assert Kind.DESTRUCTIVE in kinds or any(mark in noise for mark in "'\"`\\<({$")


def granted(line: str) -> tuple[Grant, ...]:
    decision = decide(bash(line), Mode.ASK)
    if isinstance(decision, Allowed):
        return ()
    assert isinstance(decision, Asked)
    assert decision.grants is not None
    return decision.grants


def other(server: str, tool: str, **arguments: str) -> ToolCall:
    given = {"server": server, "tool": tool, "arguments": arguments}
    return ToolCall(id="1", name="mcp_call", arguments=json.dumps(given))


@pytest.mark.parametrize("mode", [Mode.ASK, Mode.ACCEPT_EDITS, Mode.AUTO])
def test_a_call_of_another_program_is_asked_in_every_mode_and_granted_for_one_tool(mode: Mode) -> None:
    asked = decide(other("db", "query", sql="select 1"), mode)
    assert isinstance(asked, Asked)
    grants = asked.grants
    assert grants == (other_tool("db", "query"),)
    assert decide(other("db", "query", sql="drop"), mode, grants) == Allowed()
    assert isinstance(decide(other("db", "write"), mode, grants), Asked)
    assert isinstance(decide(bash("db query"), Mode.ASK, grants), Asked)
    shell = (Grant(words=("db", "query"), exact=False),)
    assert isinstance(decide(other("db", "query"), mode, shell), Asked)


def test_reading_from_another_program_is_granted_for_all_that_it_has() -> None:
    def read(server: str, uri: str) -> ToolCall:
        return ToolCall(id="1", name="mcp_read", arguments=json.dumps({"server": server, "uri": uri}))

    asked = decide(read("db", "rows://1"), Mode.AUTO)
    assert isinstance(asked, Asked)
    assert asked.grants is not None
    assert decide(read("db", "rows://2"), Mode.AUTO, asked.grants) == Allowed()
    assert isinstance(decide(read("web", "rows://2"), Mode.AUTO, asked.grants), Asked)
    assert isinstance(decide(other("db", "query"), Mode.AUTO, asked.grants), Asked)


def test_planning_calls_no_other_program() -> None:
    assert isinstance(decide(other("db", "query"), Mode.PLAN), Denied)
