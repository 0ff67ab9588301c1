"""``python -m deploy.chart``: write the files of the chart that are written by programs, and the table in its page."""

from pathlib import Path

from deploy.chart.files import chart_files, table

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
PAGE = ROOT / "docs" / "helm.md"
_BEGIN, _END = "<!-- values: written by python -m deploy.chart -->\n", "<!-- end of values -->\n"


def main() -> None:
    for path, content in chart_files().items():
        (CHART / path).parent.mkdir(parents=True, exist_ok=True)
        (CHART / path).write_text(content, "utf-8")
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")


def with_table(page: str) -> str:
    """The page with the table of today's values."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{after}"


if __name__ == "__main__":
    main()
