"""The policy file: every mistake at once, in its place, with what is allowed; never anything but a PolicyError."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.config.compile import compile_policy, main
from perun_hpc.config.policy import MAX_BYTES, PolicyError, load, locate, parse
from perun_hpc.config.schema import FIELDS, SECTIONS
from perun_hpc.errors import ConfigError
from perun_hpc.slurm import hostlist


def mistakes(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse(text.encode(), "p")
    return [str(mistake) for mistake in caught.value.mistakes]


def test_all_mistakes_are_told_at_once_in_the_files_order():
    text = "sampling:\n  period: 5 apples\n  perod: 5 s\nmonitr: {}\nagent: {nice: 99}\n"
    found = mistakes(text)
    assert [line.split(": ")[0] for line in found] == ["p:2:11", "p:3:3", "p:4:1", "p:5:15"]
    assert "did you mean 'period'?" in found[1]
    assert "did you mean 'monitor'?" in found[2]
    assert "from 0 to 19" in found[3]


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("monitor: {jobs: al}", "p:1:17", "did you mean 'all'?"),
        ("store: {spool_qouta: 1 GiB}", "p:1:9", "did you mean 'spool_quota'?"),
        ("store: {linger: 1 min}", "p:1:9", "(there is agent.linger)"),
        ("monitor: [all]", "p:1:10", "expected a mapping"),
        ("- a", "p:1:1", "expected a mapping"),
        ("sampling: {period: [1 s]}", "p:1:20", "wrong shape"),
        ("sampling: {period: 5}", "p:1:20", "a number with a unit"),
        ("sampling: {period: }", "p:1:19", "a number with a unit"),
        ("sampling: {period: -1 s}", "p:1:20", "from 1 ms to 1 h"),
        ("sampling: {period: 1 s, period: 2 s}", "p:1:25", "twice"),
        ("store: {archive: here}", "p:1:18", "/shared/perun"),
        ("sensors: {include: ['(']}", "p:1:21", "regular expression"),
        ("sensors: {backends: [nvml, nvml]}", "p:1:28", "twice"),
        ("monitor: {canaries: 'n[3-1]'}", "p:1:21", "runs backwards"),
        ("nodes: {'n[1-': {}}", "p:1:9", "do not match"),
        ("accounts: {chem: {agent: {nice: 1}}}", "p:1:27", "allowed: site, nodes"),
        ("footprint: {price: {per_kwh: 1, currency: EUR, date: 2026-01-01}}", "p:1:20", "'source' is missing"),
        ("footprint: {pue: {value: 1.2, series: /x, source: a, date: 2026-01-01}}", "p:1:18", "exactly one of"),
        ("sensors: {files: [{name: a, path: /a, kind: power, unit: J, component: cpu}]}", "p:1:19", "no unit J"),
        ("sensors: {files: [{pattern: 'a'}]}", "p:1:29", "1 group"),
        ("energy: {estimate_model: {idle: 9 W, full: 8 W, error: 0.1, source: a}}", "p:1:26", "full at least as much"),
        ("energy: {estimate_model: {idle: 0 W, full: 8 W, error: 0.1, source: a}}", "p:1:26", "above 0 W"),
        ("energy: {estimate_model: {idle: 5 W, full: 8 W, error: 0.1}}", "p:1:26", "'source' is missing"),
        ("energy: {estimate_model: {idle: 5 W, full: 8 W, error: 0, source: a}}", "p:1:56", "from 0.01 to 1"),
        ("a: &x {b: 1}\nc: *x", "p:2:4", "aliases"),
        ("a: [", "p:1:5", "not YAML"),
        ("a: " + "[" * 500, "p:1:36", "nested more than 32 deep"),
        ("partitions: {gpu: {sampling: {period: 1 ms}}}", "p:1:39", "nearest is 100 ms"),
        ("store: {trace: none}\naccounts: {chem: {store: {trace: all}}}", "p:2:34", "nearest is none"),
        ("sampling: {period: 50 ms}", "p:1:20", "nearest is 100 ms"),
        ("privacy: {shared_resolution: 1 s}", "p:1:30", "from 10 s"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_is_allowed(text, place, says):
    found = mistakes(text)
    assert len([line for line in found if line.startswith(place) and says in line]) == 1, found


def test_what_a_tool_would_read_as_a_boolean_is_taken_as_written():
    assert parse(b"collect: {slurmdbd: off}", "p").site.values["collect.slurmdbd"] == "off"


def test_units_are_exact():
    values = parse(b"agent: {linger: 0.1 s, memory_cap: 1.5 GiB}\nenergy: {package_static: 12.5 W}", "p").site.values
    assert values == {
        "agent.linger_ns": 100_000_000,
        "agent.memory_cap_b": 1_610_612_736,
        "energy.package_static_uw": 12_500_000,
    }


def test_every_default_reads_back_as_itself():
    lines = []
    for section in SECTIONS:
        lines.append(f"{section}:")
        lines += [
            f"  {field.name}: {field.kind.show(field.default)}"
            for field in FIELDS.values()
            if field.section == section and field.default is not None
        ]
    written = parse("\n".join(lines).encode(), "p")
    assert compile_policy(written)["hash"] == compile_policy(parse(b"", "p"))["hash"]


def test_the_hash_follows_the_meaning_not_the_writing():
    one = compile_policy(parse(b"sampling: {period: 1000 ms}\n", "a"))
    other = compile_policy(parse(b"# text\n\nsampling:\n  period: 1 s\n", "b"))
    assert one["hash"] == other["hash"]
    assert one["hash"] != compile_policy(parse(b"sampling: {period: 2 s}", "a"))["hash"]


def test_an_unreadable_policy_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read policy .*absent"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe", b"\x00", b"[" * 5000, b"{" * 5000, b"a" * (MAX_BYTES + 1), b"- " * 20_000, b"? ? ?", b"!!python/x y"],
)
def test_garbage_is_a_mistake_and_nothing_else(data):
    with pytest.raises(PolicyError):
        parse(data, "p")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_policy_or_mistakes(data):
    try:
        compile_policy(parse(data, "p"))
    except PolicyError as error:
        assert error.mistakes
        assert str(error).split("\n") == [str(mistake) for mistake in error.mistakes]
        assert all(line.isprintable() for line in str(error).split("\n"))


WORDS = st.sampled_from(
    [*SECTIONS, "partitions", "nodes", "accounts", "gpu", "n[1-2]", *(f.name for f in FIELDS.values())]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(WORDS, VALUES, max_size=5))
def test_any_yaml_is_a_policy_or_mistakes(value):
    try:
        compile_policy(parse(yaml.safe_dump(value).encode(), "p"))
    except PolicyError as error:
        assert error.mistakes


def test_of_a_broken_policy_only_its_mistakes_come_out(tmp_path, capsys):
    source = tmp_path / "policy.yaml"
    source.write_text("sampling: {period: 2 s}")
    assert main([str(source)]) == 0
    assert json.loads(capsys.readouterr().out)["site"]["values"]["sampling.period_ns"] == 2 * 10**9
    source.write_text("sampling: {period: 2}\nfoo: 1\n")
    assert main([str(source)]) == 78
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 2)
    assert main([]) == main([str(source), "x"]) == main([str(source), "1", "2"]) == 64


def test_compiling_runs_as_a_child_process(tmp_path):
    source = tmp_path / "policy.yaml"
    source.write_text("nodes: {'n[1-2]': {agent: {linger: 1 min}}}")
    command = [sys.executable, "-m", "perun_hpc.config.compile", str(source)]
    compiled = json.loads(subprocess.run(command, check=True, timeout=60, capture_output=True).stdout)
    assert compiled["schema"] == "perun.policy/1"
    assert set(compiled["site"]["values"]) == set(FIELDS)
    assert compiled["nodes"]["n[1-2]"]["origins"] == {"agent.linger_ns": f"{source}:1"}


def test_the_policy_is_found_by_its_variable():
    assert str(locate({})) == "/etc/perun/policy.yaml"
    assert str(locate({"PERUN_POLICY": "/x.yaml"})) == "/x.yaml"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[08-11],x", ("n08", "n09", "n10", "n11", "x")),
        ("r[1-2]n[1,3]", ("r1n1", "r1n3", "r2n1", "r2n3")),
        ("a, b[1]", ("a", "b1")),
        ("n[1-2] n3", ("n1", "n2", "n3")),
        ("n[1-2]\tn3\n n4 , n5 ", ("n1", "n2", "n3", "n4", "n5")),
    ],
)
def test_node_lists_expand_as_slurm_writes_them(text, names):
    assert hostlist.expand(text) == names


@pytest.mark.parametrize("text", ["n[", "n]", "n[1-2", "n[[1]]", "n[a]", "n[2-1]", "n[1-999999999]", "n[1-999][1-999]"])
def test_a_broken_or_huge_node_list_is_refused(text):
    with pytest.raises(ValueError, match=r"nodes|match|range"):
        hostlist.expand(text)


@pytest.mark.parametrize("text", ["n[1-2, 4]", "n[ 1-3]", "n[1-3 ]"])
def test_a_blank_inside_brackets_is_refused_since_slurm_would_name_other_nodes(text):
    with pytest.raises(ValueError, match="blank"):
        hostlist.expand(text)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "path", ["/shared/perun-archive-of-the-whole-site//", "/" + "a/" * 2000 + "/", "/" + "a" * 4000 + "//"]
)
def test_a_path_with_a_doubled_slash_is_refused_at_once(path: str) -> None:
    (found,) = mistakes(f"store: {{archive: {path}}}")
    assert found.startswith("p:1:18")


@pytest.mark.parametrize("path", ["/", "/a", "/a/", "/a/b.c", "/a b/c/"])
def test_paths_that_are_paths(path: str) -> None:
    assert parse(f"store: {{archive: {path}}}".encode(), "p").site.values == {"store.archive": path}
