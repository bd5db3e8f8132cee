"""The command line: what it prints and writes, and one clear line for every mistake."""

import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import own_nets
import pytest
import torch
import torchvision
from PIL import Image
from records import record_of

from lightning_cam import explain, render
from lightning_cam.capture.session import open_session
from lightning_cam.cli.figure import SIDE, figure, heat
from lightning_cam.cli.image_file import Preparation, open_image
from lightning_cam.cli.main import main
from lightning_cam.data.batch import FixedBatch
from lightning_cam.figures.captions import captions
from lightning_cam.render.style import Style
from lightning_cam.targets import find


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in, with a module of models, a photograph and class names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copy(own_nets.__file__, tmp_path / "my_nets.py")
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(tmp_path / "cat.png")
    (tmp_path / "names.json").write_text(json.dumps(["cat", "dog", "Dog"]))
    yield tmp_path
    sys.modules.pop("my_nets", None)


@pytest.fixture
def run(here, capfd):
    def run(*words):
        code = main(list(words))
        out, err = capfd.readouterr()
        return code, out, err

    return run


USUAL = ("--image", "cat.png", "--model", "my_nets.Net", "--size", "64")


def explained(target="predicted", method="grad_cam"):
    images = Preparation(73, 64).tensor(open_image("cat.png"))
    return explain(sys.modules["my_nets"].Net(), images, target=target, method=method)


def test_classes_are_ranked_by_probability(run):
    code, out, err = run("explain", *USUAL, "--labels", "names.json", "--top-k", "2")
    logits = explained().logits[0]
    best = logits.softmax(0).topk(2)
    expected = [f"{p:.3f} -> {('cat', 'dog', 'Dog')[i]}" for p, i in zip(best.values, best.indices, strict=True)]
    assert code == 0
    assert out.splitlines()[:2] == expected
    assert out.splitlines()[2:] == ["cat_grad_cam_heat.jpg", "cat_grad_cam.jpg", "cat_grad_cam_figure.jpg"]
    assert err == "no --weights: my_nets.Net as it builds itself, with random weights unless it loads some\n"


@pytest.mark.parametrize("name", ["several", "Hidden", "shares", "single"])
def test_what_a_model_says_of_its_classes_is_printed_as_it_is_told_in_captions(run, here, monkeypatch, name):
    words = []
    monkeypatch.setattr(sys.modules["lightning_cam.cli.main"], "figure", lambda *args: words.append(args[2]) or figure(*args))
    code, out, _ = run("explain", "--image", "cat.png", "--model", f"my_nets.{name}", "--size", "64")
    assert code == 0
    images = Preparation(73, 64).tensor(open_image("cat.png"))
    net = getattr(sys.modules["my_nets"], name)()
    with torch.no_grad():
        p = net(images)[0]
    if name == "single":
        p = p.sigmoid()
    best = p.sort(descending=True)
    ranked = [f"{p:.3f} -> class {i}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    assert out.splitlines()[: len(p)] == ranked
    assert words[0].headline == f"class {best.indices[0]} {100 * best.values[0]:.0f}%"
    batch = FixedBatch(images)
    with open_session(net, [], images) as session:
        look = session.forward(images, find("predicted"))
        (caption,) = captions(batch, record_of(look, torch.ones(1, 1, 2, 2)))
    if name != "single":
        assert caption.line == words[0].headline


def test_more_classes_asked_than_there_are_and_no_names(run):
    _, out, _ = run("explain", *USUAL, "--top-k", "9")
    assert sorted(line[-7:] for line in out.splitlines()[:3]) == ["class 0", "class 1", "class 2"]


def test_names_that_are_not_as_many_as_classes_are_told(run, here):
    (here / "two.json").write_text('["cat", "dog"]')
    code, out, err = run("explain", *USUAL, "--labels", "two.json")
    assert code == 0 and "-> class 2" in out
    assert err.splitlines()[-1] == "two.json names 2 classes and the model has 3"


def test_the_three_pictures_are_the_map_the_overlay_and_both(run, here):
    code, out, _ = run(
        "explain", *USUAL, "--png", "--out", "a/b", "--method", "cam", "--target", "dog", "--labels", "names.json"
    )
    assert code == 2  # two classes are called dog
    code, out, _ = run("explain", *USUAL, "--png", "--out", "a/b", "--method", "cam", "--target", "1", "--colormap", "jet")
    assert out.splitlines()[-3:] == [f"a/b/cat_cam{suffix}.png" for suffix in ("_heat", "", "_figure")]
    heat_map, overlay, both = (cv2.imread(path)[..., ::-1] for path in out.splitlines()[-3:])
    style, side = Style(colormap="jet"), SIDE
    normalized = explained(1, "cam").normalized(style)
    assert np.array_equal(heat_map, render.to_host(heat(normalized, style)))
    view = Preparation(73, 64).view(open_image("cat.png"), side)
    blended = render.to_host(render.blend(view, render.shown(normalized, (side, side)), style)[0])
    changed = (overlay != blended).any(-1)
    assert changed.any() and not changed[: side * 7 // 8].any() and not changed[:, side // 2 :].any()  # the words alone
    top = both.shape[0] - side - np.flatnonzero(both[::-1, 20:500].min((1, 2)) < 255)[0]
    assert (both.shape[1], top > 0) == (2 * side + 36, True)
    for left, panel in ((12, heat_map), (24 + side, blended)):
        found = [np.array_equal(both[y : y + side, left : left + side], panel) for y in range(both.shape[0] - side)]
        assert sum(found) == 1


def test_a_class_is_meant_by_index_or_name(run):
    pictures = []
    for target in ("0", "cat", "CAT"):
        assert run("explain", *USUAL, "--labels", "names.json", "--target", target, "--png")[0] == 0
        pictures.append(cv2.imread("cat_grad_cam.png"))
    assert np.array_equal(pictures[0], pictures[1]) and np.array_equal(pictures[0], pictures[2])


def test_options_of_a_method_name_the_files(run):
    code, out, _ = run("explain", *USUAL, "--method", "activation_mean", "--option", "channels=[2,4]", "--layer", "net.1")
    assert code == 0 and out.splitlines()[-2] == "cat_activation_mean_2_4.jpg"


def test_torchvisions_weights_bring_their_names(run, here, monkeypatch):
    entry = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *args, **options: torchvision.models.squeezenet1_1().state_dict())
    words = ("--image", "cat.png", "--model", "torchvision:squeezenet1_1", "--weights", "DEFAULT", "--target", "tench")
    code, out, err = run("explain", *words, "--top-k", "1")
    assert (code, err) == (0, "weights: torchvision's IMAGENET1K_V1\n")
    assert out.splitlines()[0].partition(" -> ")[2] in entry.meta["categories"]


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "my_nets:Net"),
        ("--model", "my_nets.ready"),
        ("--model", "my_nets.single"),
        ("--model", "my_nets.dark"),
        ("--model", "my_nets.Wrapped", "--output", "scores"),
        ("--model", "my_nets.grey", "--mean", "0.5", "--std", "0.5"),
        ("--model", "my_nets.Net", "--mean", "0.5", "0.4", "0.3", "--std", "1", "1", "1", "--resize", "200"),
        ("--model", "my_nets.Silent", "--forward", "forward_backend"),
        ("--model", "my_nets.Silent", "--forward", "my_nets.backend", "--layer", "net.0"),
        ("--model", "my_nets.Silent", "--part", "net", "--layer", "0"),
        ("--model", "my_nets.Net", "--device", "cpu", "--layer", "net.0", "--method", "activation_mean"),
    ],
)
def test_models_of_ones_own_are_explained(run, words):
    code, out, err = run("explain", "--image", "cat.png", "--size", "64", *words)
    assert code == 0, err
    assert len([line for line in out.splitlines() if line.endswith(".jpg")]) == 3


MISTAKES = {
    "no image": (("--image", "dog.png"), "No image file dog.png."),
    "no picture": (("--image", "names.json"), "names.json is not a picture that can be read"),
    "a folder": (("--image", "."), "No image file ."),
    "no such model": (("--model", "torchvision:squeezenet11"), "Did you mean 'squeezenet1_1'"),
    "no prefix": (("--model", "squeezenet1_1"), "Did you mean 'torchvision:squeezenet1_1'"),
    "no module": (("--model", "nowhere.Net"), "cannot be imported: ModuleNotFoundError: No module named 'nowhere'."),
    "no class": (("--model", "my_nets.Nett"), "The module my_nets has no 'Nett'. Did you mean 'Net'"),
    "no class near": (("--model", "my_nets.Xyzzyx"), "Its models: Net, Silent, Wrapped, Broken, Needy, Hidden."),
    "needs arguments": (("--model", "my_nets.Needy"), "cannot be built without arguments: TypeError"),
    "not callable": (("--model", "my_nets.number"), "cannot be built without arguments"),
    "no model": (("--model", "my_nets.torch.manual_seed"), "cannot be imported"),
    "no weights file": (("--weights", "w.pt"), "No weights file w.pt."),
    "no weights": (("--model", "torchvision:squeezenet1_1", "--weights", "IMAGENET1K_V2"), "Did you mean 'IMAGENET1K_V1'"),
    "no layer": (("--layer", "net.9"), "Net has no layer 'net.9'. Did you mean"),
    "no map": (("--layer", "net.4"), "expected a map [b c u v]"),
    "no classes": (("--model", "my_nets.headless"), "from logits of shape [b k]"),
    "no method": (("--method", "gradcam"), "No method 'gradcam'. Did you mean 'grad_cam'"),
    "no option": (("--option", "chanels=1", "--method", "activation_mean"), "has no option 'chanels'. Did you mean 'channels'"),
    "a wrong option": (("--option", "channels=[2,2]", "--method", "activation_mean"), "selects none"),
    "no target": (("--target", "horse", "--labels", "names.json"), "No class 'horse'. Known are 3 names"),
    "no names": (("--target", "horse"), "there are no class names: give --labels"),
    "an ambiguous target": (("--target", "dog", "--labels", "names.json"), "give --target 1 or 2."),
    "a target too large": (("--target", "3"), "Class 3 is out of range"),
    "no labels": (("--labels", "nom.json"), "No labels file nom.json."),
    "no JSON": (("--labels", "my_nets.py"), "my_nets.py holds no class names, expected JSON"),
    "no colour map": (("--colormap", "infern"), "Did you mean 'inferno'"),
    "no font": (("--font", "a.ttf"), "no such file"),
    "no key": (
        ("--output", "score", "--model", "my_nets.Wrapped"),
        "The model's output has no 'score'; it is a dict of scores",
    ),
    "no logits": (("--model", "my_nets.Wrapped"), "Name the logits"),
    "a crop too large": (("--resize", "50"), "--resize 50 --size 64"),
    "a mean too short": (("--mean", "0.5", "0.5"), "expected three values each"),
    "a forward that fails": (("--model", "my_nets.Broken"), "on an image 3x64x64. RuntimeError: two sizes differ"),
    "grey weights": (("--model", "my_nets.grey"), "The model could not be run on an image 3x64x64."),
    "no forward": (("--model", "my_nets.Silent"), "Name the method that gives the logits: forward='forward_backend'."),
    "no part": (("--part", "nett"), "Net has no part of this name. Did you mean 'net'"),
    "no such forward": (("--forward", "forwards"), "Net has no method of this name, and it is no import path."),
    "no folder": (("--out", "cat.png"), "cat.png"),
}


@pytest.mark.parametrize(("words", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gives_one_line_and_code_2(run, unchecked, words, told):
    code, _, err = run("explain", *USUAL, *words)
    line = err.splitlines()[-1]
    assert code == 2
    assert line.startswith("lightning-cam: error: ") and told in line
    assert "Traceback" not in err and len(err.splitlines()) <= 2  # the other tells where the weights are from


@pytest.mark.parametrize(
    "words",
    [
        ("explain",),
        (),
        ("explain", *USUAL, "--top-k", "0"),
        ("explain", *USUAL, "--option", "x"),
        ("explain", *USUAL, "--device", "q"),
    ],
)
def test_a_line_that_cannot_be_read_ends_with_code_2(run, capfd, words):
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("lightning-cam")


def test_methods_are_listed_with_their_first_line(run):
    code, out, _ = run("methods")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "grad_cam Grad-CAM: channels weighted by the spatial mean of their gradient." in lines
    assert "smooth SmoothGrad of any method: the mean of its map over noisy images." in lines


def test_layers_are_listed_with_shapes_and_the_default(run):
    code, out, _ = run("layers", "--model", "my_nets.grey", "--size", "33")
    assert (code, out.splitlines()) == (0, ["0  8 x 16 x 16", "1  8 x 16 x 16  (default)"])
    code, out, _ = run("layers", "--model", "torchvision:squeezenet1_1", "--size", "64")
    assert [line.split()[0] for line in out.splitlines() if "(default)" in line] == ["features"]


def test_help_tells_what_it_does(capsys):
    for words, told in (
        (("--help",), "methods"),
        (("explain", "--help"), "-> African elephant"),
        (("layers", "--help"), "--size"),
    ):
        with pytest.raises(SystemExit) as end:
            main(list(words))
        assert end.value.code == 0 and told in capsys.readouterr().out


def test_the_command_runs_in_a_process_of_its_own(here):
    command = [sys.executable, "-c", "import sys; from lightning_cam.cli import main; sys.exit(main())", "explain", *USUAL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (here / "cat_grad_cam_figure.jpg").is_file()


def test_the_figure_of_a_transformer_tells_how_much_of_the_evidence_is_on_the_map(run, monkeypatch):
    words = []
    monkeypatch.setattr(sys.modules["lightning_cam.cli.main"], "figure", lambda *args: words.append(args[2]) or figure(*args))
    options = ("--image", "cat.png", "--size", "32", "--layer", "blocks.0", "--model", "vits.timm_vit")
    assert run("explain", *options)[0] == 0
    assert run("explain", *options, "--method", "activation_mean")[0] == 0
    assert run("explain", *USUAL)[0] == 0
    assert re.fullmatch(r"2 x 2, peak [\d.e-]+, on map \d+%", words[0].under_heat)
    assert not any("on map" in each.under_heat for each in words[1:])


def test_the_figure_of_a_map_without_evidence_tells_no_share_of_it(run, here, monkeypatch):
    words = []
    monkeypatch.setattr(sys.modules["lightning_cam.cli.main"], "figure", lambda *args: words.append(args[2]) or figure(*args))
    (here / "against.py").write_text("def only(seen):\n    return -seen.gradient.abs().sum(1)\n")
    options = ("--image", "cat.png", "--size", "32", "--layer", "blocks.0", "--model", "vits.timm_vit")
    assert run("explain", *options, "--method", "against.only")[0] == 0
    assert words[0].under_heat == "2 x 2, no evidence for this class"
