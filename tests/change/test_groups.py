"""Which parameters and buffers belong to which part, by the names that layers have; and what is refused."""

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from parts import WRAPPERS, adapted
from stand_ins import ModulesToSaveWrapper
from torch import nn
from torch.nn.utils import parametrizations
from zoo import gap_linear

from lightning_cam.change.groups import Parts
from lightning_cam.change.tensor_names import named_tensors


def names(groups, net):
    """The first name of every parameter and buffer, by part."""
    return {part: [name[0] for _, name in tensors] for part, tensors in Parts(groups).of(net).items()}


def normed():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Linear(4, 2))


def test_modules_by_their_names_patterns_and_the_rest():
    groups = {"stem": ["features.0", "features.2.b*"], "head": "head"}
    assert names(groups, gap_linear()) == {
        "stem": ["features.0.weight", "features.0.bias", "features.2.bias"],
        "head": ["head.3.weight", "head.3.bias"],
        "rest": ["features.2.weight"],
    }


def test_a_name_is_that_of_a_module_and_no_beginning_of_another():
    net = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(12))})
    assert names({"one": "blocks.1"}, net)["one"] == ["blocks.1.weight"]
    assert names({"late": "blocks.1?"}, net)["late"] == ["blocks.10.weight", "blocks.11.weight"]
    assert names({"late": "blocks.1[01]"}, net)["late"] == ["blocks.10.weight", "blocks.11.weight"]
    assert names({"one": "blocks.1.weight"}, net)["one"] == ["blocks.1.weight"]


def test_running_statistics_belong_where_their_names_do():
    assert names({"norm": "1", "head": "3"}, normed()) == {
        "norm": ["1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"],
        "head": ["3.weight", "3.bias"],
        "rest": ["0.weight", "0.bias", "2.weight", "2.bias"],
    }


def test_the_first_group_that_matches_has_it_and_nothing_left_is_no_part():
    net = gap_linear()
    assert names({"bias": "*.bias", "all": "*"}, net) == {
        "bias": ["features.0.bias", "features.2.bias", "head.3.bias"],
        "all": ["features.0.weight", "features.2.weight", "head.3.weight"],
    }
    assert list(names({"rest": "head"}, net)) == ["rest"]  # what is left joins it
    assert len(names({"rest": "head"}, net)["rest"]) == 6


def test_a_tied_parameter_is_counted_once_and_belongs_to_the_first_group_that_knows_any_name_of_it():
    net = nn.ModuleDict({"embed": nn.Linear(3, 3), "head": nn.Linear(3, 3, bias=False)})
    net["head"].weight = net["embed"].weight
    assert names({"head": "head"}, net) == {"head": ["embed.weight"], "rest": ["embed.bias"]}
    assert [named[1] for named in Parts({"head": "head"}).of(net)["head"]] == [["embed.weight", "head.weight"]]


def test_a_module_at_two_places_has_both_names():
    net = gap_linear()
    net.classifier = net.head[3]
    assert names({"head": "classifier"}, net)["head"] == ["head.3.weight", "head.3.bias"]


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_levels_are_left_out_and_may_be_written(kind):
    wrap, level = WRAPPERS[kind]
    plain, net = gap_linear(), wrap(gap_linear())
    assert [name[0] for _, name in named_tensors(net)] == [name for name, _ in plain.named_parameters()]
    assert len(named_tensors(net)) == 6
    groups = {"stem": "features.0", "head": "head"}
    assert names(groups, net) == names(groups, plain)
    assert names({"stem": f"{level}features.0", "head": "head"}, net) == names(groups, plain)
    assert names({"stem": f"{level}features.0", "head": "head"}, plain) == names(groups, plain)


def test_adapters_stand_beside_what_they_adapt():
    net = adapted(gap_linear())
    net.features[0] = ModulesToSaveWrapper(net.features[0], {"a": nn.Conv2d(3, 5, 3)})
    assert names({"adapters": "*lora_*", "head": "head"}, net) == {
        "adapters": [f"head.3.lora_{side}.{name}.weight" for side in "AB" for name in ("first", "second")],
        "head": ["head.3.weight", "head.3.bias"],
        "rest": [
            *("features.0.weight", "features.0.bias"),  # the copy that runs
            *("features.0.original_module.weight", "features.0.original_module.bias"),
            *("features.2.weight", "features.2.bias"),
        ],
    }


def test_weights_that_are_computed_belong_by_what_they_are_computed_of():
    net = gap_linear()
    parametrizations.weight_norm(net.head[3])
    assert [name.rpartition(".")[2] for name in names({"head": "head.3"}, net)["head"]] == ["bias", "original0", "original1"]
    assert len(names({"weights": "head.3.*.weight"}, net)["weights"]) == 2


def test_looks_at_which_shares_are_computed():
    due = [look for look in range(12) if Parts({"head": "fc"}, every=5).due(look)]
    assert due == [5, 10]
    assert [look for look in range(4) if Parts({"head": "fc"}, every=1).due(look)] == [1, 2, 3]


def test_parts_are_written_in_yaml(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--parts", type=Parts)
    written = {"parts": {"groups": {"stem": ["conv1", "bn1"], "head": "fc"}, "every": 3}}
    config = parser.parse_string(yaml.safe_dump(written))
    parts = parser.instantiate_classes(config).parts
    assert parts == Parts({"stem": ["conv1", "bn1"], "head": "fc"}, every=3)
    saved = parser.instantiate_classes(parser.parse_string(parser.dump(config))).parts
    assert saved == parts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(groups={}), "Parts(groups={}): expected 1 to 5 named groups"),
        (dict(groups="head"), "Parts(groups='head'): expected 1 to 5 named groups"),
        (dict(groups=dict.fromkeys("abcdef", "x")), "expected 1 to 5 named groups"),
        (dict(groups={"": "fc"}), "a group is called ''; expected a word"),
        (dict(groups={"a/": "fc"}), "a group is called 'a/'; expected a word"),
        (dict(groups={"a": ""}), "Parts(groups={'a': ''}): expected a module's dotted name or a pattern"),
        (dict(groups={"a": []}), "Parts(groups={'a': []}): expected a module's dotted name or a pattern"),
        (dict(groups={"a": ["fc", 3]}), "Parts(groups={'a': ['fc', 3]}): expected a module's dotted name"),
        (dict(groups={"a": "fc"}, every=0), "Parts(every=0): expected at every how many looks"),
        (dict(groups={"a": "fc"}, every=True), "Parts(every=True): expected at every how many looks"),
    ],
)
def test_groups_that_cannot_be_are_refused_at_once(options, words, unchecked):
    with pytest.raises(ValueError) as refusal:
        Parts(**options)
    assert words in str(refusal.value)
    if "such as Parts(" in str(refusal.value):
        example = eval(str(refusal.value).partition("such as ")[2].removesuffix("."), {"Parts": Parts})
        assert example.groups["stem"] == ["conv1", "bn1"]


@pytest.mark.parametrize(
    ("groups", "words", "line"),
    [
        ({"head": "haed"}, "asks for 'haed', which matches no parameter of the Net. Did you mean 'head'?", "head"),
        ({"head": ["head", "0"]}, "asks for '0', which matches no parameter of the Net. Did you mean 'features.0'?", None),
        (
            {"head": "*lora_*"},
            "asks for '*lora_*', which matches no parameter of the Net. Its top level: features, head.",
            "head",
        ),
        ({"stem": "features", "late": "features.2"}, "groups before 'late' took all that 'features.2' matches", None),
    ],
)
def test_a_group_that_matches_nothing_is_refused_with_the_nearest_module(groups, words, line):
    with pytest.raises(ValueError) as refusal:
        Parts(groups).of(gap_linear())
    assert words in str(refusal.value)
    written = eval(str(refusal.value).partition("groups=")[2].removesuffix("."))
    members = Parts(written).of(gap_linear())
    assert line is None or written == {"head": line}
    assert all(members.values())


def test_a_sixth_part_is_refused_with_the_way_out():
    net = nn.ModuleDict({f"m{i}": nn.Linear(1, 1) for i in range(7)})
    groups = {f"g{i}": f"m{i}" for i in range(5)}
    with pytest.raises(ValueError, match=r"5 groups leave 'm5.weight', 'm5.bias', 'm6.weight', 1 more to") as refusal:
        Parts(groups).of(net)
    written = eval(str(refusal.value).partition("groups=")[2].removesuffix("."))
    assert len(Parts(written).of(net)) == 5 and len(Parts(written).of(net)["g4"]) == 6
    assert len(Parts({f"g{i}": f"m{i}" for i in range(4)}).of(net)) == 5


def test_names_are_found_of_a_module_that_holds_itself():
    net = nn.Linear(2, 2)
    net._modules["me"] = net
    assert [name for _, name in named_tensors(net)] == [["weight"], ["bias"]]
    assert isinstance(named_tensors(net)[0][0], torch.Tensor)
