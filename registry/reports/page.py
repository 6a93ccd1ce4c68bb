"""The reports as Markdown, written from the heads of their files: ``python -m registry.reports.page``.

``docs/reports.md`` has these sections, each with an example behind it; a test compares them.
"""

from __future__ import annotations

from registry.reports.definitions import Parameter, Report, read_report, report_names


def section(report: Report) -> str:
    """Return what the head of a report says."""
    lines = [f"### {report.name}", "", f"{report.title}. {report.about}", ""]
    lines += [_parameter(parameter) for parameter in report.parameters]
    lines += [""] if report.parameters else []
    lines += ["| column | type | meaning |", "|---|---|---|"]
    lines += [f"| {column.name} | {column.kind} | {column.meaning} |" for column in report.columns]
    return "\n".join(lines) + "\n"


def _parameter(parameter: Parameter) -> str:
    value = "|".join(parameter.choices) or ("N" if parameter.kind == "integer" else "TEXT")
    default = "" if parameter.default is None else f" (default: {parameter.default})"
    needed = " (required)" if parameter.required else ""
    return f"- `--{parameter.name} {value}`: {parameter.meaning}{default}{needed}"


if __name__ == "__main__":
    print("\n".join(section(read_report(name)) for name in report_names()), end="")
