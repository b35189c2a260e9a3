"""The table of `make faults`: a line for each file, with what it broke and how often."""

from __future__ import annotations

from pathlib import Path

from tests.faulting import Line, lines, table, tables
from tests.run import Tier, run_tier

REPORT = """<testsuites><testsuite>
<testcase classname="tests.faults.test_it" name="test_a" time="1.5"/>
<testcase classname="tests.faults.test_it.TestMore" name="test_b" time="2"><failure/></testcase>
<testcase classname="tests.faults.test_it" name="test_c" time="9"><skipped/></testcase>
<testcase classname="tests.faults.test_it" name="test_d" time="0.5">
<properties><property name="points" value="40"/></properties></testcase>
</testsuite></testsuites>"""


def test_each_file_has_a_line_with_its_first_sentence(tmp_path: Path) -> None:
    (tmp_path / "tests" / "faults").mkdir(parents=True)
    (tmp_path / "tests" / "faults" / "test_it.py").write_text('"""Disks are full, or\nslow.\n\nMore.\n"""\n')
    (tmp_path / "report.xml").write_text(REPORT)
    (line,) = lines(tmp_path / "report.xml", tmp_path)
    assert line == Line(what="Disks are full, or slow", file="tests/faults/test_it.py", cases=42, failed=1, seconds=4.0)


def test_a_report_that_was_never_written_has_no_lines(tmp_path: Path) -> None:
    assert list(lines(tmp_path / "report.xml", tmp_path)) == []


def test_the_table_says_none_where_nothing_failed() -> None:
    shown = table([Line(what="a", file="f.py", cases=1200, failed=0, seconds=3.4)])
    assert shown.splitlines()[-1] == "| a | `f.py` | 1,200 | none | 3 |"


def test_what_a_test_measured_is_shown_as_it_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        'def test_it(record_property):\n    record_property("table", "| fault |\\n|---|")\n'
    )
    result = run_tier(Tier(name="it", directories=(".",), budget=60), 1, tmp_path, keep=tmp_path / "report.xml")
    assert result.passed == 1
    assert list(tables(tmp_path / "report.xml")) == ["| fault |\n|---|"]
