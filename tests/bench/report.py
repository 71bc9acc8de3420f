"""Tables as markdown, and where they stand in a page."""

from __future__ import annotations

from pathlib import Path

import torch


def table(title: str, medians: dict[str, float], peer: str, note: str = "") -> str:
    """A markdown table: milliseconds, and how many times faster than the peer."""
    lines = [f"### {title}", "", f"| | ms | × {peer} |", "|---|---:|---:|"]
    lines += [f"| {name} | {ms:.2f} | {medians[peer] / ms:.2f} |" for name, ms in medians.items()]
    return "\n".join([*lines, *(["", note] if note else []), ""])


def table_of_threads(
    title: str, one: dict[str, float], all_cores: dict[str, float], peer: str
) -> str:
    """A markdown table of CPU milliseconds on one thread and milliseconds on all cores."""
    lines = [f"### {title}", ""]
    lines.append(f"| | one thread, CPU ms | × {peer} | {torch.get_num_threads()} threads, ms | × |")
    lines.append("|---|---:|---:|---:|---:|")
    for name in one:
        cells = (
            f"{medians[name]:.2f} | {medians[peer] / medians[name]:.2f}"
            for medians in (one, all_cores)
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def write_section(page: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- name: … -->` and `<!-- end of name -->`."""
    before, start, rest = page.read_text().partition(f"<!-- {name}: ")
    mark, closed, rest = rest.partition("-->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not (start and closed and end):
        raise SystemExit(f"{page}: found no section {name}; wanted <!-- {name}: … --> and its end")
    page.write_text(f"{before}{start}{mark}{closed}{text.rstrip()}\n{end}{after}")
