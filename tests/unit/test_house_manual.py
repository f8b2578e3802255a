"""Manual pages and completions: whole, without warnings, and of use in a shell."""

from __future__ import annotations

import contextlib
import os
import pty
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


TYPED = {
    "perun rep": "report",
    "perun jobs --all": "--allusers",
    "perun policy ch": "check",
    "perun jobs --format j": "json",
}
"""What stands before the cursor, and the only word that can."""


def bash(made: Path, typed: str, scratch: Path) -> list[str]:
    """What bash offers."""
    words = typed.split()
    code = (
        f'. {made}/bash-completion/completions/perun; f=$(complete -p perun | sed -E "s/.*-F ([^ ]+).*/\\1/"); '
        f'COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; $f; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    return output(["bash", "-c", code]).split()


def fish(made: Path, typed: str, scratch: Path) -> list[str]:
    """What fish offers; it looks for completions of commands that there are."""
    where = {**os.environ, "XDG_DATA_DIRS": str(made), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    lines = output(["fish", "-c", f"complete -C '{typed}'"], env={**where, "HOME": str(scratch)}).splitlines()
    return [line.partition("\t")[0] for line in lines]


ZSH = """\
fpath=({made}/zsh/site-functions $fpath)
autoload -Uz compinit; compinit -u -D
PROMPT='ready> '
show() {{ print -r -- "$BUFFER" > {scratch}/line; exit }}
zle -N show; bindkey '^X' show
"""


def zsh(made: Path, typed: str, scratch: Path) -> list[str]:
    """What zsh makes of the last word when somebody presses the tabulator: its completion works at a terminal only."""
    (scratch / ".zshrc").write_text(ZSH.format(made=made, scratch=scratch))
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("zsh", ["zsh", "-d", "-i"], {**os.environ, "ZDOTDIR": str(scratch), "TERM": "dumb"})
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's end, when the shell has ended
        while chunk := os.read(terminal, 4096):
            if b"ready> " not in shown and b"ready> " in shown + chunk:
                os.write(terminal, typed.encode() + b"\t\x18")
            shown += chunk
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0, shown
    return (scratch / "line").read_text().split()[-1:]


def output(command: list[str], env: dict[str, str] | None = None) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=env).stdout


@pytest.mark.parametrize("shell", [bash, fish, zsh], ids=lambda shell: shell.__name__)
@pytest.mark.parametrize("typed", TYPED)
def test_shells_complete_commands_options_and_choices(made: Path, tmp_path: Path, shell, typed: str) -> None:
    if shutil.which(shell.__name__) is None:
        pytest.skip(f"{shell.__name__} is not installed")
    assert shell(made, typed, tmp_path) == [TYPED[typed]]


def test_the_modulefile_leads_to_the_command_alone() -> None:
    text = (ROOT / "package" / "modulefile").read_text()
    assert text.startswith("#%Module")
    assert re.findall(r"^prepend-path PATH (.*)$", text, flags=re.MULTILINE) == ["$prefix/share/bin"]
