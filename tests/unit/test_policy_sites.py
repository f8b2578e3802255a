"""The policies of site-configs/ are valid, mean what they say, and the generated files are current."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from perun_hpc.backend import catalog
from perun_hpc.config import schema
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.json_schema import json_schema
from perun_hpc.config.policy import load
from perun_hpc.config.reference import of_policy, of_user
from perun_hpc.config.resolve import JobFacts, JobSettings, resolve

ROOT = Path(__file__).parents[2]
SITES = ROOT / "site-configs"
KINDS = {
    "demo",
    "laptop",
    "small-cpu-cluster",
    "shared-gpu-cluster",
    "exclusive-cray",
    "grace-hopper",
    "privacy-strict",
    "cloud-burst",
}


def site(name: str, facts: JobFacts) -> JobSettings:
    return resolve(json.loads(json.dumps(compile_policy(load(SITES / f"{name}.yaml")))), facts)


def test_every_kind_of_site_has_its_policy():
    assert {path.stem for path in SITES.glob("*.yaml")} == KINDS


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_site_policy_is_valid_and_documented(name):
    path = SITES / f"{name}.yaml"
    compile_policy(load(path))
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_json_schema_accepts_it_as_well(name):
    written = yaml.load((SITES / f"{name}.yaml").read_text(), Loader=_Dates)
    jsonschema.Draft202012Validator(json_schema()).validate(written)


@pytest.mark.parametrize("name", sorted(KINDS - {"demo", "laptop"}))
def test_clusters_keep_the_agent_so_that_idle_nodes_are_seen(name):
    assert site(name, JobFacts(node="gh1")).agent.resident


def test_a_cloud_partition_has_its_own_region_and_pue():
    here, cloud = (site("cloud-burst", JobFacts(partition=name)).footprint for name in ("main", "cloud"))
    assert (here.pue["value"], cloud.pue["value"]) == (1.31, 1.15)
    assert cloud.carbon_location["region"] == "north-1"


class _Dates(yaml.SafeLoader):
    """As editors read YAML 1.2: dates are text."""


_Dates.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def test_the_json_schema_refuses_what_the_check_refuses():
    validator = jsonschema.Draft202012Validator(json_schema())
    for wrong in ({"monitr": {}}, {"sampling": {"period": "5 apples"}}, {"accounts": {"a": {"agent": {"nice": 1}}}}):
        assert not validator.is_valid(wrong)


def test_the_schema_file_is_current():
    assert json.loads((SITES / "policy.schema.json").read_text()) == json_schema(), (
        "run: perun policy schema > site-configs/policy.schema.json"
    )


@pytest.mark.parametrize(("page", "table"), [("policy", of_policy), ("launcher", of_user)])
def test_the_reference_in_the_docs_is_current(page, table):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert table().strip() in text, "run: python -m perun_hpc.config.reference policy (or user)"


def test_the_policy_knows_the_backends_that_there_are():
    assert set(schema.BACKENDS) == {backend.name for backend in catalog.BACKENDS if backend.default} | {
        "dcgm",
        "file",
        "estimate",
    }


def test_shared_gpu_nodes_know_their_static_power():
    node = site(
        "shared-gpu-cluster",
        JobFacts(partition="interactive", node="h100-07", account="teaching", options="period=1ms"),
    )
    assert node.energy.package_static_uw == 95_000_000
    assert node.sampling.period_ns == 10**9
    assert node.monitor.user_options == ()
    assert node.budget.energy_uj == 2_000_000 * 3600 * 10**6


def test_the_strict_site_keeps_patients_out():
    patients = site("privacy-strict", JobFacts(account="patients"))
    assert not patients.monitors(flagged=False)
    assert patients.store.trace == "none"
    assert (patients.metrics.textfile, patients.metrics.labels) == ("", ())
    public = site("privacy-strict", JobFacts(partition="public", options="off"))
    assert public.privacy.shared_resolution_ns == 300 * 10**9
    assert public.monitor.jobs == "none"


def test_hopper_nodes_read_their_own_backends():
    assert site("grace-hopper", JobFacts(node="gh001")).sensors.backends == ("hwmon", "nvml", "file")
    assert site("grace-hopper", JobFacts(node="cpu01")).sensors.backends == ()
    declared = site("grace-hopper", JobFacts(node="rack7-3")).sensors.files
    assert [sensor["name"] for sensor in declared] == ["nic-rail", "psu"]
    assert declared[1]["range_uj"] == 4_000_000 * 3600 * 10**6
