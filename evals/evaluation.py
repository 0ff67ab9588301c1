"""Evaluations that a service runs: what ``mimo eval submit``, ``list``, ``show`` and ``cancel`` do."""

from rich.table import Table

from agent.api.evals import EvalList, EvalView, NewEval, SuiteList
from agent.cli.client import Client
from agent.cli.output import Format
from agent.cli.terminal import Terminal, one_line
from agent.store.evals import Evaluation
from evals.report import interval, listed, percent


async def submit(client: Client, new: NewEval, terminal: Terminal, output: Format) -> None:
    """Its id, or all of it as JSON, goes to standard output."""
    made = await client.ask(EvalView, "POST", "/v1/evals", new)
    terminal.note(f"Submitted {made.num_tasks} tasks in the background; mimo eval show {made.id} counts them.")
    terminal.result(made.model_dump_json(indent=2) if output is Format.JSON else made.id)


async def list_evals(client: Client, terminal: Terminal, output: Format) -> None:
    found = await client.ask(EvalList, "GET", "/v1/evals")
    if output is Format.JSON:
        terminal.result(found.model_dump_json(indent=2))
    elif not found.evals:
        terminal.note("No evaluations; submit one with mimo eval submit.")
    else:
        rows = _table("id", "submitted", "ended", "name")
        for each in found.evals:
            ended = f"{_num_ended(each)}/{each.num_tasks}"
            rows.add_row(each.id, f"{each.created_at:%Y-%m-%d %H:%M}", ended, one_line(each.name, 60))
        terminal.out.print(rows)


async def list_suites(client: Client, terminal: Terminal, output: Format) -> None:
    found = await client.ask(SuiteList, "GET", "/v1/suites")
    if output is Format.JSON:
        terminal.result(found.model_dump_json(indent=2))
    elif not found.suites:
        terminal.note("The service keeps no suites; see mimo eval prepare.")
    else:
        terminal.result("\n".join(found.suites))


async def show(client: Client, eval_id: str, terminal: Terminal, output: Format) -> None:
    found = await client.ask(EvalView, "GET", f"/v1/evals/{eval_id}")
    if output is Format.JSON:
        terminal.result(found.model_dump_json(indent=2))
        return
    report = found.report
    resolved = f"{report.resolved.resolved}/{report.resolved.total}"
    rows = _table("", "")
    rows.show_header = False
    rows.add_row("name", one_line(found.name, 100))
    rows.add_row("ended", f"{_num_ended(found)}/{found.num_tasks}")
    rows.add_row("resolved", f"{resolved}, {percent(report.resolved.rate)} (95 %: {interval(report.resolved)})")
    rows.add_row("status", listed(found.statuses))
    rows.add_row("verdicts", listed(report.verdicts))
    rows.add_row("stopped", listed(report.stop_reasons))
    rows.add_row("steps", f"{report.mean_steps:.1f} each")
    usage = report.usage.usage
    read = f"{usage.prompt_tokens:,} read ({usage.cached_tokens:,} cached)"
    rows.add_row("tokens", f"{read}, {usage.completion_tokens:,} written")
    if report.usage.cost is not None:
        rows.add_row("cost", f"{report.usage.cost:.4f}")
    terminal.out.print(rows)


async def cancel(client: Client, eval_id: str, terminal: Terminal) -> None:
    left = await client.ask(EvalView, "POST", f"/v1/evals/{eval_id}/cancel")
    terminal.note("Cancelled." if left.ended else "Cancel requested: workers end what they have within a second.")


def _num_ended(found: Evaluation) -> int:
    return sum(count for status, count in found.statuses.items() if status.terminal)


def _table(*headings: str) -> Table:
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        rows.add_column(heading, no_wrap=True)
    return rows
