"""Prompts as targets: cosines with what the model's own text tower says, frozen or live."""

import functools

import pytest
import torch
from compare import near
from nets import SMALL, STRICT, Pictures, fit, loader, trainer
from plain import batch
from reference_targets import cosine, cosine_gradient
from torch import nn
from towers import PROMPTS, Contrastive, TextTower, TwoTowers, tokenize, tokenize_by_name
from traces import model_state
from zoo import images

from lightning_cam import CAMCallback, Watcher, explain, targets
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.figures.captions import captions, name_target, row_names
from lightning_cam.heat import min_max, resize
from lightning_cam.targets import find

pytestmark = STRICT

TEXT = {"text": {"prompts": PROMPTS, "tokenizer": tokenize}}


def text(**options):
    return {"text": {"prompts": PROMPTS, "tokenizer": tokenize, **options}}


def by_hand(net, x):
    """Cosines and their gradients at the features, by the formulas: mean over places, then one linear layer."""
    a = net.features(x).detach()
    f, r = net(x).detach(), net.encode_text(tokenize(PROMPTS)).detach()
    score = cosines(f, r)
    gradient = torch.tensor([[cosine_gradient(f[i], r[t]) for t in range(3)] for i in range(len(x))], dtype=x.dtype)
    places = a[0, 0].numel()
    weights = torch.einsum("bte,ec->btc", gradient, net.project.weight.detach()) / places
    return a, score, weights


def cosines(f, r):
    """Of every image and every prompt."""
    return torch.tensor([[cosine(image, prompt) for prompt in r] for image in f], dtype=f.dtype)


def test_maps_are_the_gradient_of_the_cosine_written_by_hand():
    net, x = TwoTowers(), images()
    a, score, weights = by_hand(net, x)
    found = explain(net, x, layer="features", target=TEXT)
    assert near(found.score, score)
    assert near(found.heat, torch.einsum("btc,bcuv->btuv", weights, a))
    assert found.heat.abs().amax((2, 3)).min() > 1e-5
    assert found.target_names == tuple(PROMPTS) and found.classes is None
    assert (found.score.abs() <= 1).all()
    assert near(explain(net, x, layer="features", target=TEXT, method="hires_cam").heat, found.heat)  # after a mean


def test_score_cam_and_ablation_cam_are_those_of_one_sample_after_another():
    net, x = TwoTowers(), images()
    a, score, _ = by_hand(net, x)
    reference = net.encode_text(tokenize(PROMPTS)).detach()
    scored, ablated = torch.zeros(3, 3, 6).double(), torch.zeros(3, 3, 6).double()
    for i in range(3):
        for channel in range(6):
            mask = min_max(resize(a[i, channel][None], x.shape[2:]))
            f = net(mask[:, None] * x[i : i + 1]).detach()[0]
            rest = a[i].clone()
            rest[channel] = 0
            g = net.project(rest.mean((1, 2))).detach()
            for t in range(3):
                scored[i, t, channel] = cosine(f, reference[t])
                ablated[i, t, channel] = (score[i, t] - cosine(g, reference[t])) / score[i, t].abs()
    found = explain(net, x, layer="features", target=TEXT, method="score_cam")
    assert near(found.heat, torch.einsum("btc,bcuv->btuv", scored.softmax(2), a))
    found = explain(net, x, layer="features", target=TEXT, method={"ablation_cam": {"chunk": 4}})
    assert near(found.heat, torch.einsum("btc,bcuv->btuv", ablated, a))


def as_module(net):
    return net.text_tower


TOWERS = {
    "by itself": (dict(), TwoTowers),
    "a method": (dict(tower="encode_text"), TwoTowers),
    "a module by name": (dict(tower="text_tower"), TwoTowers),
    "a callable": (dict(tower=lambda model, tokens: model.text_tower(tokens)), TwoTowers),
    "an import path": (dict(tokenizer="towers.tokenize"), TwoTowers),
    "tokens": (dict(prompts=tokenize(PROMPTS), tokenizer=None, names=PROMPTS), TwoTowers),
    "tokens by keyword": (dict(prompts={"input_ids": tokenize(PROMPTS)}, tokenizer=None, tower="text_tower"), TwoTowers),
    "tokens as lists": (dict(prompts={"input_ids": tokenize(PROMPTS).tolist()}, tokenizer=None, tower="text_tower"), TwoTowers),
    "another tokenizer's keywords": (
        dict(tokenizer=lambda prompts: {"input_ids": tokenize(prompts)}, tower=lambda model, t: model.text_tower(**t)),
        TwoTowers,
    ),
}


@pytest.mark.parametrize("name", TOWERS)
def test_however_tower_and_tokens_are_named_the_maps_are_the_same(name):
    options, make = TOWERS[name]
    net, x = make(), images()
    expected = explain(net, x, layer="features", target=TEXT)
    found = explain(net, x, layer="features", target=text(**options))
    assert torch.equal(found.heat, expected.heat) and torch.equal(found.score, expected.score)


class Outer(nn.Module):
    """A model of two towers as a part of another."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return next(self.children())(x)


def test_the_text_tower_is_found_within_the_model_and_a_module_itself_is_one():
    net, x = TwoTowers(), images()
    expected = explain(net, x, layer="features", target=TEXT).heat
    assert torch.equal(explain(Outer(clip=net), x, layer="clip.features", target=TEXT).heat, expected)
    named = text(tower="clip.encode_text")
    assert torch.equal(explain(Outer(clip=net), x, layer="clip.features", target=named).heat, expected)
    assert torch.equal(explain(net, x, layer="features", target=text(tower=net.text_tower)).heat, expected)


def test_one_prompt_in_quotes_is_one_target_and_a_mask_is_passed_by_keyword():
    net, x = TwoTowers(), images()
    several = explain(net, x, layer="features", target=text(tower="text_tower", tokenizer=tokenize_by_name))
    alone = explain(net, x, layer="features", target=text(prompts="ruler", tower="text_tower", tokenizer=tokenize_by_name))
    assert alone.heat.shape == (3, 4, 5) and alone.score.shape == (3,)
    assert near(alone.heat, several.heat[:, 2]) and near(alone.score, several.score[:, 2])
    assert not near(several.heat, explain(net, x, layer="features", target=TEXT).heat)  # the mask leaves the filling out


class Object:
    """As Hugging Face answers."""

    def __init__(self, **entries):
        self.__dict__ |= entries


@pytest.mark.parametrize(
    "wrap",
    [
        lambda e: Object(pooler_output=e, last_hidden_state=e[:, None]),
        lambda e: Object(text_embeds=e, pooler_output=e * 0),
        lambda e: {"text_embeds": e},
    ],
)
def test_the_embedding_is_taken_out_of_what_hugging_face_returns(wrap):
    net, x = TwoTowers(), images()
    expected = explain(net, x, layer="features", target=TEXT).heat
    net.get_text_features = lambda tokens: wrap(net.text_tower(tokens))  # comes before encode_text
    net.encode_text = None
    assert torch.equal(explain(net, x, layer="features", target=TEXT).heat, expected)


def test_a_compiled_tower_is_one_too():
    net, x = TwoTowers(), images()
    expected = explain(net, x, layer="features", target=TEXT).heat
    net.text_tower = torch.compile(net.text_tower, backend="eager")
    assert torch.equal(explain(net, x, layer="features", target=text(tower="text_tower")).heat, expected)
    assert torch.equal(explain(torch.compile(net, backend="eager"), x, layer="features", target=TEXT).heat, expected)


def test_cosines_of_half_precision_are_single():
    net, x = TwoTowers().bfloat16(), images().bfloat16()
    found = explain(net, x, layer="features", target=TEXT)
    f, r = net(x).detach(), net.encode_text(tokenize(PROMPTS)).detach()
    assert found.score.dtype == torch.float32
    assert torch.allclose(found.score, cosines(f.float(), r.float()), atol=1e-6)


def test_prompts_stand_beside_other_targets():
    net, x = TwoTowers(), images()
    alone = explain(net, x, layer="features", target=TEXT)
    found = explain(net, x, layer="features", target=["projection", TEXT, "similarity"])
    assert torch.equal(found.heat[:, 1:4], alone.heat)
    assert found.target_names == ("target 0", *PROMPTS, "target 4")


# the look


def test_the_text_tower_leaves_no_trace_and_is_no_part_of_the_forward():
    net, x = TwoTowers(), images()
    net.train()
    net.text_tower.norm.eval()
    before, state = model_state(net), torch.get_rng_state()
    calls = []
    handle = net.text_tower.register_forward_hook(
        lambda module, args, output: calls.append((module.training, torch.is_grad_enabled(), output.requires_grad))
    )
    with open_session(net, ["features"]) as session:
        forward = session.forward(x, find(TEXT))
        assert not any(call.name.startswith("text_tower") for call in forward.calls)
        first = Seen(forward, "features", 1).gradient
    handle.remove()
    assert calls == [(False, False, False)]  # once, in evaluation mode, without gradient
    assert model_state(net) == before and torch.equal(torch.get_rng_state(), state)
    assert net.text_tower.drop.training and not net.text_tower.norm.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert first.any()


def test_a_watched_layer_of_the_text_tower_is_not_recorded_while_prompts_are_encoded():
    net, x = TwoTowers(), images()
    layers = ["features", "text_tower.letters"]
    with open_session(net, layers) as session, pytest.raises(ValueError, match="did not run in this forward"):
        session.forward(x, find(TEXT))


def test_the_tower_runs_in_the_looks_precision_context():
    net, x = TwoTowers().float(), images().float()
    kinds = []
    net.text_tower.register_forward_hook(lambda module, args, output: kinds.append(torch.is_autocast_enabled("cpu")))

    def context():
        return torch.autocast("cpu", torch.bfloat16)

    with open_session(net, ["features"], context=context) as session:
        session.forward(x, find(TEXT))
    assert kinds == [True]


def test_a_session_that_is_over_encodes_nothing():
    net, x = TwoTowers(), images()
    with open_session(net, ["features"]) as session:
        pass
    target = find(TEXT)
    with pytest.raises(RuntimeError, match="The look is over"):
        session.forward(x, target)
    assert target.embedding is None


# frozen and live, over a run


def trained(net, step):
    """Both towers after some training."""
    torch.manual_seed(step)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_prompts_stay_those_of_the_first_look_and_live_ones_move(frozen):
    net, x, target = TwoTowers(), images(), find(text(frozen=frozen))
    first = net.encode_text(tokenize(PROMPTS)).detach()
    start = explain(net, x, layer="features", target=target)
    trained(net, 1)
    later = explain(net, x, layer="features", target=target)
    now = first if frozen else net.encode_text(tokenize(PROMPTS)).detach()
    f = net(x).detach()
    assert near(later.score, cosines(f, now))
    assert not near(later.score, start.score)
    resumed = find(text(frozen=frozen))
    resumed.load_state_dict(target.state_dict())
    assert torch.equal(explain(net, x, layer="features", target=resumed).heat, later.heat)
    fresh = explain(net, x, layer="features", target=find(TEXT))
    assert torch.equal(explain(net, x, layer="features", target=target.anew()).heat, fresh.heat)
    assert torch.equal(fresh.heat, later.heat) is not frozen


def test_a_checkpoint_of_other_prompts_or_another_target_is_not_taken_up():
    net, x = TwoTowers(), images()
    target = find(text(prompts=["dog"]))
    explain(net, x, layer="features", target=target)
    for other in (find(TEXT), targets.similarity(), targets.detection()):
        other.load_state_dict(target.state_dict())
        assert other.load_state_dict({}) is None
    assert find(TEXT).embedding is None


def watched(folder, frozen, epochs, ckpt=None, **options):
    """A fit with the callback; the scores of each look by its title, and the callback."""
    callback = CAMCallback("towers.features", target=text(frozen=frozen), batch=4, style=SMALL, on_error="raise")
    scores = {}
    callback.watcher.observers.append(lambda result: scores.update({result.moment.title: result.records[0].score}))
    run = fit(folder, callback, Contrastive(), max_epochs=epochs, **options)
    return scores, callback, run


def test_a_fit_of_two_epochs_follows_frozen_or_live_prompts_and_trains_as_without(tmp_path):
    live, _, run = watched(tmp_path / "live", False, 2)
    frozen, callback, _ = watched(tmp_path / "frozen", True, 2)
    plain = fit(tmp_path / "plain", None, Contrastive(), max_epochs=2)
    assert model_state(run.lightning_module).keys() == model_state(plain.lightning_module).keys()
    for name, value in plain.lightning_module.state_dict().items():
        assert torch.equal(value, run.lightning_module.state_dict()[name]), name
    assert list(live) == ["before training", "epoch 1", "epoch 2"] == list(frozen)
    assert torch.equal(live["before training"], frozen["before training"])
    assert not torch.equal(live["epoch 2"], frozen["epoch 2"])
    start = Contrastive().towers.encode_text(tokenize(PROMPTS)).detach()
    assert torch.equal(callback.watcher.memory.target.embedding, start)
    f = run.lightning_module.eval()(next(iter(loader(size=4)))[0]).detach()
    r = run.lightning_module.towers.encode_text(tokenize(PROMPTS)).detach()
    assert torch.allclose(live["epoch 2"], cosines(f, r), atol=1e-5)


def test_a_resumed_run_goes_on_with_the_frozen_prompts(tmp_path):
    _, _, run = watched(tmp_path / "half", True, 1)
    path = tmp_path / "half.ckpt"
    run.save_checkpoint(path)
    torch.load(path, weights_only=True)  # plain values and tensors
    callback = CAMCallback("towers.features", target=TEXT, batch=4, style=SMALL, on_error="raise")
    scores = {}
    callback.watcher.observers.append(lambda result: scores.update({result.moment.title: result.records[0].score}))
    resumed = trainer(tmp_path / "resumed", [callback], max_epochs=2)
    resumed.fit(Contrastive(), loader(24, shuffle=True, size=4), loader(), ckpt_path=path)
    start = Contrastive().towers.encode_text(tokenize(PROMPTS)).detach()
    assert torch.equal(callback.watcher.memory.target.embedding, start)
    assert list(scores) == ["epoch 2"]
    net = resumed.lightning_module.eval()
    f = net(next(iter(loader(size=4)))[0]).detach()
    assert torch.allclose(scores["epoch 2"], cosines(f, start), atol=1e-5)
    assert not torch.allclose(scores["epoch 2"], cosines(f, net.towers.encode_text(tokenize(PROMPTS)).detach()), atol=1e-3)


# what is written


def test_captions_rows_and_files_are_called_by_the_prompts(tmp_path):
    net, x = TwoTowers().float(), batch(2)
    watching = Watcher(net, x, "features", target=text(prompts=["a cat", "up/down"]), style=SMALL, folder=tmp_path)
    (record,) = watching.look(0)
    assert record.target_names == ("a cat", "up/down")
    words = captions(watching.batch, record)
    score = record.score
    assert [word.line for word in words] == [
        f"{name} {float(score[i, t]):.2f}" for i in range(2) for t, name in enumerate(["a cat", "up/down"])
    ]
    assert all(word.right is None for word in words)  # the largest number of an embedding is no class
    assert row_names(watching.batch, record) == ["a cat", "up/down"] * 2
    assert name_target(TEXT) == "text {'prompts': ['a cat', 'watermark', 'ruler'], 'tokenizer': 'tokenize'}"
    names = {path.name for path in tmp_path.rglob("sample_*.jpg")}
    assert names == {f"sample_{i}_{word}_grad_cam.jpg" for i in range(2) for word in ("a_cat", "up_down")}


def test_saved_explanations_are_called_by_the_prompts(tmp_path):
    net, x = TwoTowers(), images()
    found = explain(net, x, layer="features", target=TEXT)
    assert [path.name for path in found.save(tmp_path)][:3] == [
        "000_grad_cam_a_cat.jpg", "000_grad_cam_watermark.jpg", "000_grad_cam_ruler.jpg",
    ]  # fmt: skip
    assert [caption.line for caption in found._captions(["x", "y", "z"])][:2] == ["a cat · x", "watermark · x"]
    alike = explain(net, x, layer="features", target=text(prompts=["a?", "a!"]))
    assert [path.name for path in alike.save(tmp_path)][:2] == ["000_grad_cam_0.jpg", "000_grad_cam_1.jpg"]


# refusals, each with a line that works


def run_line(net, x, **options):
    return explain(net, x, layer="features", target={"text": options})


@pytest.mark.usefixtures("unchecked")
def test_prompts_without_a_tokenizer_are_refused_with_the_line():
    net, x = TwoTowers(), images()
    line = r"target=\{'text': \{'prompts': \['a cat', 'watermark'\], 'tokenizer': tokenizer\}\}"
    with pytest.raises(ValueError, match=rf"prompts \['ruler'\] are words.* import path prompts -> tokens: {line}"):
        run_line(net, x, prompts=["ruler"])
    for nothing in ({}, {"prompts": []}, {"prompts": ""}):
        with pytest.raises(ValueError, match=f"needs prompts: {line}"):
            run_line(net, x, **nothing)
    run_line(net, x, prompts=["a cat", "watermark"], tokenizer=tokenize)


@pytest.mark.usefixtures("unchecked")
def test_tokens_of_unequal_length_are_refused_with_the_line():
    net, x = TwoTowers(), images()

    def tokenizer(prompts, padding=None, return_tensors=None):
        if padding == "max_length" and return_tensors == "pt":
            return {"input_ids": tokenize(prompts)}
        return {"input_ids": [[1] * len(prompt) for prompt in prompts]}

    line = r"lambda prompts: tokenizer\(prompts, padding='max_length', return_tensors='pt'\)"
    with pytest.raises(ValueError, match=rf"filled up to one length: 'tokenizer': {line}"):
        run_line(net, x, prompts=PROMPTS, tokenizer=tokenizer, tower="text_tower")
    padded = functools.partial(tokenizer, padding="max_length", return_tensors="pt")
    run_line(net, x, prompts=PROMPTS, tokenizer=padded, tower="text_tower")
    with pytest.raises(ValueError, match="gave 1 rows of tokens for 3 prompts; expected one for each"):
        run_line(net, x, prompts=PROMPTS, tokenizer=lambda prompts: tokenize(prompts[:1]))
    with pytest.raises(ValueError, match="2 names for 3 prompts"):
        run_line(net, x, prompts=PROMPTS, tokenizer=tokenize, names=["a", "b"])


class Words(nn.Module):
    """Two towers whose method nobody knows."""

    def __init__(self, name):
        super().__init__()
        net = TwoTowers()
        self.features, self.project = net.features, net.project
        self.add_module(name, net.text_tower)
        self.encode_words = net.text_tower.forward

    def forward(self, x):
        return self.project(self.features(x).mean((2, 3)))


@pytest.mark.usefixtures("unchecked")
def test_a_model_without_a_known_text_tower_is_told_what_to_write():
    x = images()
    with pytest.raises(ValueError, match=r"Words has neither get_text_features nor encode_text\..*'tower': 'text_part';"):
        explain(Words("text_part"), x, layer="features", target=TEXT)
    expected = explain(TwoTowers(), x, layer="features", target=TEXT).heat
    assert torch.equal(explain(Words("text_part"), x, layer="features", target=text(tower="text_part")).heat, expected)
    line = r"'tower': lambda model, tokens: model\.encode_words\(tokens\)"
    with pytest.raises(ValueError, match=line):
        explain(Words("part"), x, layer="features", target=TEXT)
    named = text(tower=lambda model, tokens: model.encode_words(tokens))
    assert torch.equal(explain(Words("part"), x, layer="features", target=named).heat, expected)
    with pytest.raises(ValueError, match=r"no text tower 'text_towr'\. Did you mean 'text_tower'"):
        explain(TwoTowers(), x, layer="features", target=text(tower="text_towr"))


@pytest.mark.usefixtures("unchecked")
def test_of_several_text_towers_one_has_to_be_named():
    x, both = images(), Outer(student=TwoTowers(), teacher=TwoTowers(5))
    with pytest.raises(
        ValueError, match=r"several text towers: student\.encode_text, .*\. Name one.*'tower': 'student\.encode_text'"
    ):
        explain(both, x, layer="student.features", target=TEXT)
    found = explain(both, x, layer="student.features", target=text(tower="student.encode_text"))
    assert torch.equal(found.heat, explain(TwoTowers(), x, layer="features", target=TEXT).heat)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_embedding_is_refused_with_the_line():
    net, x = TwoTowers(), images()
    line = r"'tower': lambda model, tokens: model\.text_tower\(tokens\)\[:, 0\]"
    with pytest.raises(ValueError, match=rf"gave \(3, 12, 4\) for 3 prompts; expected embeddings \(3, e\).*{line}"):
        explain(net, x, layer="features", target=text(tower="text_tower.letters"))
    net.text_tower = nn.Sequential(net.text_tower.letters)
    explain(net, x, layer="features", target=text(tower=lambda model, tokens: model.text_tower(tokens)[:, 0]))
    net = TwoTowers()
    net.text_tower = TextTower(7).double()
    with pytest.raises(ValueError, match=r"are \(3, 4\) and the prompts' \(3, 7\); expected one space.*option 'tower'"):
        explain(net, x, layer="features", target=TEXT)
    wrapped = Outer(net=TwoTowers())
    wrapped.forward = lambda x: {"image_embeds": wrapped.net(x), "scale": 1}
    with pytest.raises(ValueError, match="Name the logits: output='logits'"):
        explain(wrapped, x, layer="net.features", target=TEXT)
    found = explain(wrapped, x, layer="net.features", target=TEXT, output="image_embeds")
    assert torch.equal(found.heat, explain(TwoTowers(), x, layer="features", target=TEXT).heat)
    with pytest.raises(ValueError, match="not encoded yet: call prepare"):
        find(TEXT).choose(torch.zeros(1, 4), None, None)


def test_pictures_are_those_of_the_data(tmp_path):
    """Labels of classes colour no card of a prompt."""
    watching = Watcher(
        Contrastive(), Pictures(), "towers.features", target=TEXT, batch=2, style=SMALL, folder=tmp_path, on_error="raise"
    )
    (record,) = watching.look(0)
    assert record.predictions.predicted.tolist() == [-1, -1] and record.predictions.is_right(0) is None
