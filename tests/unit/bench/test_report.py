"""The table in the documentation is that of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from bench import report
from bench.figures import Figure

FIGURES = (Figure(name="burst", value=1.426, unit="x", budget=1.5, note="6 writes"),)


def test_the_table_replaces_what_stands_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nan old table\n{report.END}\nafter\n")
    run = report.document(FIGURES, at=datetime(2026, 11, 21, tzinfo=UTC), objects=10)

    report.write_docs(FIGURES, run, page)

    text = page.read_text()
    assert "| burst | 1.43 x | ≤ 1.50 x | ok | 6 writes |" in text
    assert "2026-11-21" in text
    assert "an old table" not in text
    assert text.startswith("before\n") and text.endswith("after\n")


def test_the_page_has_the_marks() -> None:
    text = report.DOCS.read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1
