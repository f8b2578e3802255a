"""Every line and word of the report is explained, in docs/report.md and by --explain, from one table."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.cli.main import main
from perun_hpc.data_model.sensor import Provenance
from perun_hpc.energy.uncertainty import SHARING_ERROR
from perun_hpc.errors import UsageError
from perun_hpc.report.explain import explain_report, explain_word, legend
from perun_hpc.report.job import job_report, step_report
from perun_hpc.report.screen import WIDTH, Style, cells
from perun_hpc.report.terms import WORDS, find, glossary, of_report, terms
from tests.unit.test_report_job import SCREENS, absent, gpu, hostile, modelled, running, simulated

pytestmark = pytest.mark.usefixtures("utc")
DOCS = Path(__file__).parents[2] / "docs"
LABEL = re.compile(r"^([A-Z][A-Za-z]*(?: [a-z]+)?|[a-z]+(?: [a-z]+)?)(?:  +\S| \(\d+\)|$)")


def labels(lines: list[str]) -> list[str]:
    """What stands at the left of a report's own lines: rows of hosts, steps, ranks and functions are names."""
    body = lines[next(n for n, line in enumerate(lines) if line.startswith("──")) + 1 :]
    found, named = [], False
    for line in body:
        if line.startswith("Record from"):
            return found
        match = LABEL.match(line)
        if line.startswith(" ") or not line or (named and not re.match(r"\w+ \(\d+\)", line)):
            named = named and bool(line)
            continue
        assert match, line
        found.append(match[1])
        named = "(" in line[: match.end()] and line[match.end(1) + 1] == "("
    return found


SHOWN = [job_report(make(), "the ledger", Style()) for make in SCREENS] + [step_report(simulated(), "0", Style())]


@pytest.mark.parametrize("lines", SHOWN, ids=[*(make.__name__ for make in SCREENS), "step"])
def test_every_line_that_a_report_has_is_explained(lines: list[str]) -> None:
    said = labels(lines)
    assert "Energy" in said
    for label in said:
        assert explain_word(label, lines, Style()), label
        assert f"| **{label}** |" in (DOCS / "report.md").read_text(), label
    explained = "\n".join(explain_report(lines, Style()))
    for label in said:
        assert re.search(rf"^{label}\b", explained, re.MULTILINE), label


def test_every_label_that_the_report_s_code_can_print_is_explained() -> None:
    source = "\n".join(path.read_text() for path in (DOCS.parent / "perun_hpc" / "report").glob("*.py"))
    named = re.findall(r"_labelled\(\"([^\"]+)\"|_list\(\"([^\"]+)\"|\(f\"([A-Z]\w+) \(\{", source)
    said = {name for names in named for name in names if name}
    assert {"Energy", "Scope", "of it", "Missing", "Notes", "Hosts", "Functions"} <= said
    assert [name for name in said if not find(name)] == []


def test_every_word_for_a_figure_s_origin_and_method_is_explained() -> None:
    for word in (*Provenance, *SHARING_ERROR, "k = 2", "scope", "static", "dynamic", "held idle", "residual", "wasted"):
        assert explain_word(word, (), Style()), word


def test_the_documents_have_the_table_s_words() -> None:
    assert glossary() in (DOCS / "glossary.md").read_text()
    assert of_report() in (DOCS / "report.md").read_text()


def test_the_example_of_the_documents_is_a_report_as_it_looks_now() -> None:
    example = re.search(r"```output\n(.*?)```", (DOCS / "report.md").read_text(), re.DOTALL)
    assert example and example[1] == "\n".join(job_report(gpu(), "the job's directory", Style())) + "\n"


def test_a_term_stands_once_and_is_one_sentence_of_a_table() -> None:
    names = [(term.section == "Lines of a report", name) for term in terms() for name in term.names]
    assert len(names) == len(set(names))
    assert not any("|" in term.text or "\n" in term.text for term in terms())


def test_the_legend_has_the_words_that_occur_and_no_others() -> None:
    assert [word for word, _ in legend(gpu())] == ["measured"]
    assert [word for word, _ in legend(modelled())] == ["modelled"]
    assert legend(absent()) == []
    text = "\n".join(job_report(gpu(), "x", Style()))
    assert "Legend     measured: " in text and "modelled:" not in text


def test_a_line_is_explained_below_what_this_report_says() -> None:
    lines = job_report(gpu(), "x", Style())
    text = "\n".join(explain_word("footprint", lines, Style()))
    assert text.startswith("Footprint  at least 1.89 kg") and "0.21 EUR, 2.14 kWh" in text
    assert "what cooling" in "\n".join(explain_word("pue", lines, Style()))
    assert explain_word("k=2", lines, Style())[0].startswith("Energy     6.165 MJ")


def test_a_word_that_is_none_is_one_line_with_those_like_it() -> None:
    with pytest.raises(UsageError, match="did you mean static power"):
        explain_word("statik power", (), Style())
    with pytest.raises(UsageError, match="no line or term of that name"):
        explain_word("\x1b[2J", (), Style())


def test_explanations_fit_the_screen_and_cannot_act_on_it() -> None:
    for make in (gpu, hostile, running):
        lines = job_report(make(), "x", Style())
        for line in [*explain_report(lines, Style()), *explain_word("job", lines, Style())]:
            assert cells(line) <= WIDTH and line.isprintable()


def test_a_word_needs_no_job_and_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--explain", "held idle"]) == 0
    assert "a GPU" in capsys.readouterr().out
    assert main(["report", "--explain", "nonsense"]) == UsageError.exit_code
    assert "no line or term" in capsys.readouterr().err
    assert main(["report", "--explain", "4711"]) == UsageError.exit_code
    assert "perun report 4711 --explain" in capsys.readouterr().err


def test_a_step_and_a_name_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "-n", "stencil", "4711.0"]) == UsageError.exit_code
    assert "leave the ids out, or the name" in capsys.readouterr().err


def test_what_never_ran_or_is_to_come_is_not_called_missing() -> None:
    def headings(lines: list[str]) -> list[str]:
        return [line for line in lines if line in ("Missing", "Running", "Pending", "Awaited", "Not run")]

    assert headings(job_report(running(), "x", Style())) == ["Running"]
    going = replace(running(), missing=("the job still runs: energy so far", "n1: no trace: disk full"))
    assert headings(job_report(going, "x", Style())) == ["Running", "Missing"]
    never = replace(absent(), start_ns=0, missing=("the job never ran",))
    assert headings(job_report(never, "x", Style())) == ["Not run"]
    assert headings(job_report(absent(), "x", Style())) == ["Missing"]


def test_words_of_a_report_stand_in_the_glossary() -> None:
    assert {term.name for term in terms() if term.section == WORDS} >= {word.value for word in Provenance}
