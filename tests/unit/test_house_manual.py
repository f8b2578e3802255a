"""Manual pages and completions: whole, without warnings, and of use in a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.cli.main import COMMANDS
from perun_hpc.config.schema import FIELDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("manual")
    subprocess.run([sys.executable, "package/manual.py", root], cwd=ROOT, check=True, timeout=60)
    return root / "usr" / "share"


def test_every_command_has_a_page_with_every_option(made: Path) -> None:
    for name, _ in COMMANDS:
        helped = [sys.executable, "-m", "perun_hpc.cli.main", name, "--help"]
        shown = subprocess.run(helped, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
        page = (made / "man" / "man1" / f"perun-{name}.1").read_text().replace("\\-", "-")
        for option in re.findall(r"^ +(--[a-z-]+)", shown, flags=re.MULTILINE):
            assert option in page, (name, option)


def test_the_policy_s_page_has_every_field(made: Path) -> None:
    page = (made / "man" / "man5" / "perun-policy.5").read_text().replace("\\-", "-")
    assert [field.path for field in FIELDS.values() if f"\\fB{field.path}\\fR" not in page] == []


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here")
def test_pages_render_without_a_warning(made: Path) -> None:
    pages = sorted((made / "man").glob("*/*"))
    assert len(pages) == len(COMMANDS) + 4
    for page in pages:
        done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), page.name
        assert "NAME" in done.stdout


def test_bash_completes_commands_and_their_options(made: Path) -> None:
    script = made / "bash-completion" / "completions" / "perun"
    code = (
        f'. {script}; f=$(complete -p perun | sed -E "s/.*-F ([^ ]+).*/\\1/"); '
        'COMP_WORDS=(perun rep); COMP_CWORD=1; $f; echo "${COMPREPLY[@]}"; '
        'COMP_WORDS=(perun jobs --all); COMP_CWORD=2; $f; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert [line.strip() for line in done.stdout.splitlines()] == ["report", "--allusers"]


@pytest.mark.parametrize(
    ("shell", "name"), [("zsh", "zsh/site-functions/_perun"), ("fish", "fish/vendor_completions.d/perun.fish")]
)
def test_other_shells_take_theirs(made: Path, shell: str, name: str) -> None:
    text = (made / name).read_text()
    assert all(command in text for command, _ in COMMANDS)
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n", made / name], check=True, timeout=60)


def test_the_modulefile_leads_to_the_command_alone() -> None:
    text = (ROOT / "package" / "modulefile").read_text()
    assert text.startswith("#%Module")
    assert re.findall(r"^prepend-path PATH (.*)$", text, flags=re.MULTILINE) == ["$prefix/share/bin"]
