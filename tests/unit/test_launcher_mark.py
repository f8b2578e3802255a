"""The C part that marks: it speaks Python's own ABI, lets go of what it holds, and writes nowhere else."""

from __future__ import annotations

import re
import subprocess
import sys
import weakref
from array import array
from pathlib import Path

import pytest

from perun_hpc.inject import regions

CHECKOUT = Path(__file__).resolve().parents[2]
MARK = CHECKOUT / "slurm" / "mark"
NONE = 1 << 62
LAYOUT = """\
#include <stddef.h>
#include <stdio.h>
#include %s
#define AT(type, member) printf("%%zu ", offsetof(type, member))
int main(void)
{
	AT(%s); AT(%s); AT(%s); AT(%s); printf("%%zu\\n", sizeof(%s));
	AT(%s); AT(%s); AT(%s); AT(%s); AT(%s); AT(%s); printf("%%zu\\n", sizeof(%s));
	AT(%s); AT(%s); AT(%s); AT(%s); AT(%s); AT(%s); printf("%%zu\\n", sizeof(%s));
	printf("%%d %%d %%d %%d %%d\\n", METH_VARARGS, METH_NOARGS, METH_O, METH_FASTCALL, PyBUF_WRITABLE);
}
"""


def python_headers() -> list[str]:
    found = [
        *Path.home().glob(".pyenv/versions/3.*/include/python3.*[0-9]"),
        *Path("/usr/include").glob("python3.*[0-9]"),
    ]
    return sorted(str(one) for one in found if (one / "Python.h").exists() and int(one.name[8:]) >= 9)


def members(kind: str, names: str) -> list[str]:
    return [*(f"{kind}, {name}" for name in names.split()), kind]


OURS = LAYOUT % (
    f'"{MARK}/python_abi.h"',
    *members("struct method", "name call flags doc"),
    *members("struct module", "base.references base.init name size methods slots"),
    *members("struct buffer", "buf object len readonly shape internal"),
)
PYTHONS = LAYOUT % (
    "<Python.h>",
    *members("PyMethodDef", "ml_name ml_meth ml_flags ml_doc"),
    *members("PyModuleDef", "m_base.ob_base.ob_refcnt m_base.m_init m_name m_size m_methods m_slots"),
    *members("Py_buffer", "buf obj len readonly shape internal"),
)


@pytest.mark.parametrize("include", python_headers() or [None])
def test_layouts_and_functions_are_those_of_pythons_headers(include: str | None, tmp_path: Path) -> None:
    if include is None:
        pytest.skip("no Python.h")
    said = []
    for name, text in (("ours", OURS), ("pythons", PYTHONS)):
        (tmp_path / f"{name}.c").write_text(text)
        command = ["cc", f"-I{include}", "-o", str(tmp_path / name), str(tmp_path / f"{name}.c")]
        subprocess.run(command, check=True, capture_output=True)
        said.append(subprocess.run([tmp_path / name], check=True, capture_output=True, text=True).stdout)
    assert said[0] == said[1]
    functions = re.findall(r"^(?!extern|typedef)(\w.*\);)$", (MARK / "python_abi.h").read_text(), re.MULTILINE)
    assert len(functions) == 20
    theirs = {"struct method": "PyMethodDef", "struct module": "PyModuleDef", "struct buffer": "Py_buffer"}
    for own, python in theirs.items():
        functions = [function.replace(own, python) for function in functions]
    # Declared once more as we do: a compiler says where that is something else.
    functions = [re.sub(r"(\w+)\(", r"(\1)(", function, count=1) for function in functions]  # not as macros
    (tmp_path / "again.c").write_text("\n".join(["#include <Python.h>", *functions]))
    subprocess.run(["cc", f"-I{include}", "-fsyntax-only", str(tmp_path / "again.c")], check=True)


def test_it_needs_no_library() -> None:
    library = Path(regions.__file__).with_name("mark.abi3.so")
    said = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    assert "NEEDED" not in said
    symbols = subprocess.run(["nm", "-D", library], check=True, capture_output=True, text=True).stdout.split("\n")
    assert [line.split()[-1] for line in symbols if " T " in line] == ["PyInit_mark"]


HALF = """
from perun_hpc import monitor
from perun_hpc.inject import regions
regions.recorder.open(calls_b=24 * 2000, at_once=1000)
f = monitor(int)
print({f() for _ in range(1500)}, regions._mark is None, regions.recorder.count())
"""


@pytest.mark.parametrize("name", ["mark.abi3.so", "perun-pack.so"])
def test_a_library_that_is_not_whole_is_not_loaded(name: str, tmp_path: Path) -> None:
    """A part of one ends the process that loads it: a copy that the disk had no space for."""
    whole, package = Path(regions.__file__).parent, tmp_path / "perun_hpc"
    (package / "inject").mkdir(parents=True)
    for directory, files in ((package, whole.parent), (package / "inject", whole)):
        for file in files.iterdir():
            if file.name not in ("inject", name):
                (directory / file.name).symlink_to(file)
    content = (whole / name).read_bytes()
    foreign = content[:18] + b"\xf3\x00" + content[20:]  # RISC-V's
    for broken in (
        b"",
        b"\x7fELF\x02",
        content[:64],
        content[:1000],
        content[:4096],
        content[:8192],
        foreign,
        b"x" * 9000,
    ):
        (package / "inject" / name).write_bytes(broken)
        done = subprocess.run([sys.executable, "-c", HALF], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        expected = f"{{0}} {name == 'mark.abi3.so'} "
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == expected + ("(1000, 0)\n" if name == "mark.abi3.so" else "(1500, 0)\n")


def marks(memory: object, offset: int = 0, more: object = lambda: NONE) -> tuple:
    assert regions._mark is not None
    return regions._mark.marks(memory, offset, more)


def test_rows_are_written_and_nothing_beside_them() -> None:
    memory = bytearray(8 + 2 * 24 + 8)
    take, start, end, failed, refill, _ = marks(memory, 8)
    refill(iter([0, 3, 6, -1, -3, NONE, 1 << 61]))
    places = [take() for _ in range(7)]
    assert places == [0, 3, 6, -1, -3, NONE, 1 << 61]
    for place in places:
        start(place, 5)
    for place in (0, 6, -1, NONE):
        end(place)
    failed(3)
    numbers = array("q", bytes(memory))
    assert (numbers[0], numbers[7]) == (0, 0)
    assert numbers[1] == numbers[4] == 5
    assert 0 < numbers[2] <= numbers[3]
    assert 0 < numbers[5] <= -numbers[6]
    failed(0)  # it is over already
    assert bytes(memory) == numbers.tobytes()


def test_where_no_row_is_free_more_is_asked_and_its_exceptions_are_the_programs() -> None:
    class Late(Exception):
        pass

    def more() -> int:
        asked.append(1)
        if len(asked) == 3:
            raise Late
        return 3 if len(asked) == 1 else NONE

    def broken():
        yield 0
        raise LookupError

    asked: list[int] = []
    take, start, end, _, refill, close = marks(bytearray(48), 0, more)
    assert [take(), take()] == [3, NONE]
    with pytest.raises(Late):
        take()
    refill(broken())
    assert take() == 0
    with pytest.raises(LookupError):
        take()
    for arguments in ((), (1,), ("no number", 1), (1, "no number"), (1, 2, 3)):
        with pytest.raises(TypeError):
            start(*arguments)
    with pytest.raises(TypeError):
        end("no number")
    for way in (end, lambda number: start(number, 0), lambda number: start(0, number)):
        with pytest.raises(OverflowError):
            way(1 << 70)
    assert len(asked) == 3
    ways = marks(bytearray(24), 0, lambda: ways[5]() or 0)  # a close while it asks
    assert [ways[0](), ways[0]()] == [0, -1]
    close()


def test_what_is_no_memory_for_rows_is_refused() -> None:
    for memory, offset, error in (
        (b"cannot be written", 0, BufferError),
        (7, 0, TypeError),
        (bytearray(24), -8, TypeError),
        (bytearray(24), 32, TypeError),
        (bytearray(24), 4, TypeError),
    ):
        with pytest.raises(error):
            marks(memory, offset)


def test_it_lets_go_of_everything() -> None:
    class Memory(bytearray):
        pass

    class More:
        def __call__(self) -> int:
            return NONE

    memory, more, number = Memory(48), More(), 10**9
    gone = weakref.ref(memory), weakref.ref(more)
    take, start, end, failed, refill, close = marks(memory, 0, more)
    before = sys.getrefcount(number), sys.getrefcount(more)
    for _ in range(1000):
        refill(iter([0]))
        start(take(), number)
        failed(0)
        end(take())
    assert (sys.getrefcount(number), sys.getrefcount(more)) == before
    with pytest.raises(BufferError):
        memory.append(1)
    close()
    close()
    written = bytes(memory)
    memory.append(1)
    refill(iter([0]))
    assert take() == 0
    start(0, 1)
    end(0)
    assert memory == written + b"\1"
    ways = marks(memory, 0, more)  # by the last of them that goes, too
    del memory, more, take, start, end, failed, refill, close, ways
    assert [one() for one in gone] == [None, None]


def test_ways_of_a_recorder_that_was_closed_write_no_more() -> None:
    recorder = regions.Recorder()
    recorder.open(calls_b=2400)
    assert recorder.marks is not None
    (take, start, end, failed), number = recorder.marks, recorder.define("loop")
    slot = take()
    start(slot, number)
    recorder.close()
    recorder.open(calls_b=2400)
    before = recorder.table()
    end(slot)
    failed(slot)
    start(slot, number)
    assert take() == -1
    assert recorder.table() == before == b""
    recorder.close()
