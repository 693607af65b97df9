"""What a user gets for a mistake in a campaign file: one sentence with the file, the key and the fix."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from flows.config.campaign import Campaign
from flows.config.cluster import Cluster, DFTJobs, Workers
from flows.config.load import campaign_schema, cluster_schema, load_campaign, load_cluster
from flows.config.yaml_file import check
from materials.errors import CampaignError
from materials.records import Target, content_hash

GOOD = """
name: test
sources:
  - kind: prototypes
    roles: {I: [Li, Na], V: [P, N]}
targets:
  - {property: decomposition_energy_per_atom, at_most: 0.05}
  - {property: band_gap, near: 1.3, within: 0.3}
"""


def load(tmp_path: Path, text: str, **options: int) -> Campaign:
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    return load_campaign(path, **options)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    campaign = load(tmp_path, GOOD)
    assert campaign.sources[0].roles == {"I": ["Li", "Na"], "V": ["P", "N"]}
    assert [t.record().goal for t in campaign.targets] == ["at_most", "near"]


def test_elements_that_yaml_takes_for_booleans_stay_elements(tmp_path: Path) -> None:
    campaign = load(tmp_path, GOOD.replace("[P, N]", "[N, No, Y]"))
    assert campaign.sources[0].roles["V"] == ["N", "No", "Y"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: test", "name: test\nbatch: 3", "batch: unknown key"),
        ("kind: prototypes", "kind: prototypes\n    role: {}", "sources[0].role: unknown key; did you mean 'roles'?"),
        ("[Li, Na]", "[Li, Nx]", "'Nx' is no chemical element"),
        ("near: 1.3, within: 0.3", "near: 1.3", "near and within go together"),
        ("at_most: 0.05", "at_most: 0.05, at_least: 1", "exactly one of near, at_most, at_least or goal"),
        ("kind: prototypes", "kind: prototype", "sources[0].kind: found 'prototype'; expected one of"),
        ("name: test", "name: Test Me", "name: string should match pattern"),
        ("name: test\n", "", "name: is missing"),
        ("name: test", "name: test\nname: again", "the key 'name' stands there twice"),
        ("targets:", "targets: [", "not valid YAML"),
        (
            "name: test",
            "name: test\nlearning: {batch: 0}",
            "learning.batch: input should be greater than or equal to 1",
        ),
        ("name: test", "name: test\nlearning: {bach: 2}", "learning.bach: unknown key; did you mean 'batch'?"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(CampaignError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "campaign.yaml"))
    assert caught.value.exit_code == 2


def test_bounds_that_contradict_each_other(tmp_path: Path) -> None:
    text = GOOD + "  - {property: formation_energy_per_atom, at_least: 1}\n"
    text += "  - {property: formation_energy_per_atom, at_most: 0}\n"
    with pytest.raises(CampaignError, match=r"cannot be at least 1\.0 and at most 0\.0; swap the two"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "value",
    [
        "2026-13-01",
        "2001-12-14t99:59:43.10-05:00",
        "!!int abc",
        "!!float abc",
        "!!bool abc",
        "!!timestamp abc",
        "!!binary é",
        "!!set {a, [b]}",
        "{<<: 3}",
        "9" * 5000,
        "0x" + "f" * 6000,
        "-99999999999999999999",
        "[" * 5000 + "]" * 5000,
        "{a: " * 3000 + "x" + "}" * 3000,
        r'"\ud800"',
        r'"a\0b"',
    ],
)
@pytest.mark.parametrize("load", [load_campaign, load_cluster])
def test_a_value_that_yaml_cannot_make_is_told_with_its_place(
    tmp_path: Path, load: Callable[[Path], object], value: str
) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(f"name: test\ndescription: {value}\n", encoding="utf-8")
    with pytest.raises(CampaignError, match=r"campaign\.yaml(, line 2, column \d+)?: not valid YAML: ") as caught:
        load(path)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("a\0b.yaml", "x" * 5000 + ".yaml"):
        with pytest.raises(CampaignError, match="cannot be read"):
            load_campaign(tmp_path / name)


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1.0e+400"])
@pytest.mark.parametrize(
    "where",
    [
        "targets: [{{property: band_gap, near: {0}, within: 0.3}}]",
        "targets: [{{property: band_gap, at_most: {0}}}]",
        "targets: [{{property: band_gap, at_least: {0}}}]",
        "screening: {{pressure_gpa: {0}}}",
        "screening: {{max_stress_gpa: {0}}}",
        "screening: {{potential: {{calculator_arguments: {{cutoff: {0}}}}}}}",
        "learning: {{within: {0}}}",
        "learning: {{stop_hits: {0}}}",
        "learning: {{stop_cpu_hours_per_hit: {0}}}",
        "dft: {{competing_within: {0}}}",
        "dft: {{hubbard: {{Mn: {0}}}}}",
        "dft: {{budget: {0}}}",
    ],
)
def test_no_number_of_a_campaign_may_be_none(tmp_path: Path, where: str, number: str) -> None:
    with pytest.raises(CampaignError):
        load(tmp_path, f"name: test\nsources: [{{kind: files, path: a.cif}}]\n{where.format(number)}\n")


@pytest.mark.parametrize(
    "where",
    [
        "targets: [{property: band_gap, near: 1.0e+308, within: 0.3}]",
        "targets: [{property: band_gap, near: 1.0, within: 1.0e+200}]",
        "targets: [{property: energy_above_hull, at_most: -1.0e+308}]",
        "targets: [{property: volume_per_atom, at_least: 1.0e+308}]",
        "screening: {pressure_gpa: 1.0e+308}",
    ],
)
def test_no_number_may_be_beyond_all_physics(tmp_path: Path, where: str) -> None:
    with pytest.raises(CampaignError, match=r"should be (less|greater) than or equal to .*\(found"):
        load(tmp_path, f"name: test\nsources: [{{kind: files, path: a.cif}}]\n{where}\n")


@pytest.mark.parametrize("number", [".nan", ".inf", "1.0e+400"])
@pytest.mark.parametrize("section", [Workers, DFTJobs])
def test_no_number_of_a_cluster_may_be_none(tmp_path: Path, section: type[BaseModel], number: str) -> None:
    path = tmp_path / "cluster.yaml"
    name = {Workers: "workers", DFTJobs: "dft"}[section]
    numbers = [key for key, field in section.model_fields.items() if "float" in str(field.annotation)]
    assert numbers
    for key in numbers:
        path.write_text(f"{name}: {{{key}: {number}}}\n")
        with pytest.raises(CampaignError, match=rf"{name}\.{key}: "):
            load_cluster(path)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["band_gap, near: 1.3, within: 0.3", "band_gap, at_most: 0.5"], "band_gap cannot be"),
        (["band_gap, near: 1.3, within: 0.3", "band_gap, at_least: 2"], "band_gap cannot be"),
        (["band_gap, goal: minimize", "band_gap, goal: maximize"], "two goal targets"),
        (["band_gap, at_most: -0.1"], "band_gap is never below 0"),
        (["band_gap, near: -1, within: 0.5"], "band_gap is never below 0"),
        (["energy_above_hull, at_most: -0.01"], "energy_above_hull is never below 0"),
        (["volume_per_atom, at_most: -3"], "volume_per_atom is never below 0"),
        (
            ["energy_above_hull, at_most: 0.05", "decomposition_energy_per_atom, at_least: 0.1"],
            "is never below the decomposition energy",
        ),
    ],
)
def test_wishes_that_nothing_can_meet_are_told(tmp_path: Path, targets: list[str], said: str) -> None:
    wishes = ", ".join(f"{{property: {target}}}" for target in targets)
    with pytest.raises(CampaignError, match=re.escape(said)):
        load(tmp_path, f"name: test\nsources: [{{kind: files, path: a.cif}}]\ntargets: [{wishes}]\n")


@pytest.mark.parametrize(
    "targets",
    [
        ["band_gap, at_most: 0", "energy_above_hull, at_most: 0"],
        ["band_gap, near: 0.1, within: 0.3", "band_gap, at_least: 0.2", "band_gap, at_most: 0.35"],
        ["decomposition_energy_per_atom, at_most: -0.05", "energy_above_hull, at_most: 0"],
        ["band_gap, goal: maximize", "band_gap, at_least: 0.5"],
    ],
)
def test_wishes_that_something_can_meet_stay(tmp_path: Path, targets: list[str]) -> None:
    wishes = ", ".join(f"{{property: {target}}}" for target in targets)
    load(tmp_path, f"name: test\nsources: [{{kind: files, path: a.cif}}]\ntargets: [{wishes}]\n")


def test_a_source_that_asks_for_and_refuses_one_element(tmp_path: Path) -> None:
    source = "{kind: materials_project, elements: [Li, P], exclude_elements: [P]}"
    with pytest.raises(CampaignError, match="both in elements and in exclude_elements: P"):
        load(tmp_path, f"name: test\nsources: [{source}]\n")


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(GOOD)
    with pytest.raises(CampaignError, match=r"did you mean .*quickstart\.yaml"):
        load_campaign(tmp_path / "quikstart.yaml")


def test_paths_are_relative_to_the_campaign_file(tmp_path: Path) -> None:
    campaign = load(tmp_path, "name: test\nsources: [{kind: files, path: set/*.cif}]\n")
    assert campaign.sources[0].path == str(tmp_path / "set" / "*.cif")


def test_a_raised_budget_is_the_same_campaign(tmp_path: Path) -> None:
    small, large = load(tmp_path, GOOD, budget=3), load(tmp_path, GOOD, budget=12)
    assert (small.dft.budget, large.dft.budget) == (3, 12)
    assert small.identity() == large.identity()
    other = load(tmp_path, GOOD.replace("1.3", "1.4"))
    assert other.identity() != small.identity()


@pytest.mark.parametrize(
    ("file", "identity"),
    [
        ("benchmarks/hundred-thousand.yaml", "224bd9e37a293420"),
        ("benchmarks/ten-thousand.yaml", "6a99cfc030b94790"),
        ("materials-project-vasp.yaml", "8f9094d66541c6ff"),
        ("materials-project.yaml", "7191c9dadf005392"),
        ("quickstart.yaml", "65b72b2ba1f71272"),
    ],
)
def test_the_campaigns_of_configs_are_the_ones_that_they_were(file: str, identity: str) -> None:
    """Another hash would begin each of them anew in the ledgers that there are: change it with the file alone."""
    assert content_hash(load_campaign(Path("configs") / file).identity()) == identity


def test_a_campaign_without_targets_asks_for_what_is_near_the_hull_and_is_the_one_that_it_was(tmp_path: Path) -> None:
    bare = "name: test\nsources: [{kind: prototypes, roles: {A: [Na], X: [Cl]}}]\n"
    silent = load(tmp_path, bare)
    assert silent.wanted() == [Target(property="energy_above_hull", goal="at_most", value=0.05)]
    # The hashes of before it asked for it so: a half-finished campaign goes on.
    assert content_hash(silent.identity()) == "6f0801be8dedc68d"
    one = "targets: [{{property: {0}, at_most: 0.05}}]\n".format
    assert content_hash(load(tmp_path, bare + one("decomposition_energy_per_atom")).identity()) == "6f0801be8dedc68d"
    assert content_hash(load(tmp_path, bare + one("energy_above_hull")).identity()) == "caf603d94179f925"
    again = Campaign.model_validate(silent.model_dump(mode="json"))  # as a form or a deployment holds it
    assert (again.identity(), again.wanted()) == (silent.identity(), silent.wanted())


def test_vasps_fields_leave_other_campaigns_what_they_were(tmp_path: Path) -> None:
    assert not {"input_set", "functional", "potcars"} & load(tmp_path, GOOD).identity()["dft"].keys()
    choice = load(tmp_path, f"{GOOD}dft: {{code: vasp, input_set: MatPESStaticSet, functional: r2SCAN}}\n")
    assert choice.identity()["dft"]["functional"] == "r2SCAN"
    assert (choice.dft.choice().input_set, choice.dft.choice().functional) == ("MatPESStaticSet", "r2SCAN")
    with pytest.raises(CampaignError, match=r"dft: functional: r2SCAN goes with input_set: MatPESStaticSet"):
        load(tmp_path, f"{GOOD}dft: {{code: vasp, functional: r2SCAN}}\n")


def test_magnetism_is_asked_for_by_codes_that_have_it(tmp_path: Path) -> None:
    assert "magnetism" not in load(tmp_path, GOOD).identity()["dft"]
    asked = load(tmp_path, f"{GOOD}dft: {{magnetism: ferromagnetic}}\n")
    assert asked.identity()["dft"]["magnetism"] == asked.dft.choice().magnetism == "ferromagnetic"
    with pytest.raises(CampaignError, match=r"dft: magnetism: none is not for vasp.*leave the key out"):
        load(tmp_path, f"{GOOD}dft: {{code: vasp, magnetism: none}}\n")
    with pytest.raises(CampaignError, match=r"dft\.magnetism: 'spiral' is not one of auto, none, ferromagnetic"):
        load(tmp_path, f"{GOOD}dft: {{magnetism: spiral}}\n")


def test_counting_candidates_leaves_a_campaign_what_it_was(tmp_path: Path) -> None:
    assert not {"cost", "stop_cpu_hours_per_hit"} & load(tmp_path, GOOD).identity()["learning"].keys()
    by_time = load(tmp_path, f"{GOOD}learning: {{cost: time, stop_cpu_hours_per_hit: 2}}\n")
    assert by_time.identity()["learning"]["cost"] == "time"
    assert by_time.identity()["learning"]["stop_cpu_hours_per_hit"] == 2.0
    with pytest.raises(CampaignError, match=r"learning\.cost: .money. is not one of candidates, time"):
        load(tmp_path, f"{GOOD}learning: {{cost: money}}\n")


def test_the_committed_schemas_are_fresh() -> None:
    configs = Path(__file__).parents[4] / "configs"
    campaign, cluster = configs / "campaign.schema.json", configs / "cluster.schema.json"
    assert campaign.read_text() == campaign_schema(), "run: assay schema > configs/campaign.schema.json"
    assert cluster.read_text() == cluster_schema(), "run: assay schema --cluster > configs/cluster.schema.json"


def test_the_schema_accepts_what_we_accept(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(yaml.safe_load(GOOD), json.loads(campaign_schema()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(GOOD.replace("Na", "Nx")), json.loads(campaign_schema()))


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[4] / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_committed_campaigns_are_good(path: Path) -> None:
    assert load_campaign(path).name


@pytest.mark.parametrize("name", ["laptop", "gpu", "slurm", "slurm-gpu", "address"])
def test_the_committed_clusters_are_good(name: str) -> None:
    path = Path(__file__).parents[4] / "configs" / "clusters" / f"{name}.yaml"
    assert load_cluster(path).workers
    # What is commented out there is good as well, all of it at once.
    whole = re.sub(r"^  # (\w+: )", r"  \1", path.read_text(), flags=re.MULTILINE)
    assert check(Cluster, yaml.safe_load(whole), name).workers


@settings(deadline=None)  # the first call imports
@given(
    batch=st.integers(1, 1000),
    seed=st.integers(0, 2**31),
    within=st.floats(0, 10),
    near=st.floats(0, 5),
    tolerance=st.floats(1e-6, 5),
)
def test_a_campaign_survives_yaml(batch: int, seed: int, within: float, near: float, tolerance: float) -> None:
    content = yaml.safe_load(GOOD) | {
        "learning": {"batch": batch, "seed": seed, "within": within},
        "targets": [{"property": "band_gap", "near": near, "within": tolerance}],
    }
    campaign = check(Campaign, content, "here")
    again = check(Campaign, yaml.safe_load(yaml.safe_dump(campaign.model_dump(mode="json"))), "here")
    assert again == campaign


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\ufffe"])
def test_a_character_that_yaml_may_not_hold_is_told_with_its_place(tmp_path: Path, character: str) -> None:
    (tmp_path / "campaign.yaml").write_text(f"name: a\nsources: {character}[]\n")
    with pytest.raises(CampaignError) as caught:
        load_campaign(tmp_path / "campaign.yaml")
    said = f"campaign.yaml, line 2, column 10: not valid YAML: it may not hold the character {character!a}"
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize("tagged", ["!!int", "!!float", "!!timestamp"])
def test_a_tag_without_a_value_is_a_mistake_with_a_place(tmp_path: Path, tagged: str) -> None:
    with pytest.raises(CampaignError, match=r"line \d+, column \d+: not valid YAML"):
        load(tmp_path, f"{GOOD}description: {tagged}\n")


def test_merge_keys_are_read(tmp_path: Path) -> None:
    merged = GOOD.replace(
        "{property: band_gap, near: 1.3, within: 0.3}", "{<<: &gap {near: 1.3, within: 0.3}, property: band_gap}"
    )
    assert load(tmp_path, merged).targets[1].near == 1.3
    with pytest.raises(CampaignError, match="stands there twice"):
        load(tmp_path, merged.replace("property: band_gap}", "property: band_gap, property: band_gap}"))
