"""The floor of drift: each disturbance against a look of its own, what applies, whose turn it is, no trace."""

import math
from contextlib import nullcontext

import pytest
import torch
from doors import Located
from nets import STRICT, cam, fit
from parts import jolt
from plain import plain_net, watcher
from torch import Tensor, nn
from traces import model_state, modes, random_states

from lightning_cam import Batch, explain
from lightning_cam.change import disturbance
from lightning_cam.change.disturbance import DISTURBANCES, other_precision, shifted
from lightning_cam.change.noise import NoiseFloor, Rows
from lightning_cam.record import Moment

pytestmark = STRICT

KINDS = ["shift", "mirror", "precision"]
LABELS = torch.tensor([2, 0, 1, 1] * 8)


class Sided(nn.Module):
    """A convolution and a pooled linear head, over one to three sides."""

    def __init__(self, sides: int, stride: int = 1) -> None:
        super().__init__()
        torch.manual_seed(3)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[sides - 1]
        self.conv, self.head = conv(3, 4, 3, stride, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).sigmoid().flatten(2).mean(2))


def images(n, *sides):
    return torch.rand(n, 3, *(sides or (8, 10)), dtype=torch.float64)


class InHalf(nn.Module):
    """A net whose own forward has an autocast."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x)


def moment(step: int) -> Moment:
    return Moment(step, f"step {step}", str(step), step == 0, epoch=float(step))


def looks(net, x, folder, n=1, layer="conv", change=lambda step: None, data=None, **options):
    """A Watcher that has looked so often."""
    data = (x, LABELS[: len(x)]) if data is None else data
    watching = watcher(net, folder, data, layer, **{"metrics": ["drift_floor"]} | options)
    for step in range(n):
        change(step)
        watching.compute(moment(step))
    return watching


def by_hand(one, other):
    """The cosine distance, cell by cell."""
    a, b = one.double().flatten().tolist(), other.double().flatten().tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def moved_by_one(image):
    slow = image.clone()
    for x in range(1, image.shape[-1]):
        slow[..., x] = image[..., x - 1]
    return slow


def mirrored(heat):
    return torch.stack([heat[..., heat.shape[-1] - 1 - x] for x in range(heat.shape[-1])], -1)


def heat_of(net, x, classes, method="grad_cam", layer="conv", **options):
    return explain(net, x, layer=layer, method=method, target=classes, **options).heat


def expected(net, x, classes, kind, **options):
    """Each map's distance from that of the disturbed picture, by looks of their own, a sample at a time."""
    distances = []
    for i in range(len(x)):
        image, c = x[i : i + 1], classes[i : i + 1]
        plain = heat_of(net, image, c, **options)
        if kind == "shift":
            heat = heat_of(net, moved_by_one(image), c, **options)
            if heat.shape[-1] == image.shape[-1]:  # a cell is a pixel
                heat = torch.cat([heat[..., 1:], heat[..., -1:]], -1)
        elif kind == "mirror":
            heat = mirrored(heat_of(net, mirrored(image), c, **options))
        else:
            heat = heat_of(InHalf(net), image, c, **options | {"layer": "net.conv"})
        distances.append(by_hand(plain, heat))
    return distances


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "activation_mean"])
@pytest.mark.parametrize("stride", [1, 2])
def test_each_disturbance_is_a_look_at_the_changed_picture(tmp_path, kind, method, stride):
    net, x = Sided(2, stride), images(4).float()
    measured = looks(net, x, tmp_path, method=method).memory.noise.moved[f"conv/{method}"]
    assert list(measured) == KINDS
    slow = expected(net, x, LABELS[:4], kind, method=method)
    assert measured[kind][:, 0].tolist() == pytest.approx(slow, rel=1e-3, abs=1e-6)
    assert (measured[kind] > 1e-8).all()  # none of them is nothing


@pytest.mark.parametrize("stride", [1, 2])
def test_in_double_precision_it_is_so_to_the_last_digits_kept(tmp_path, stride):
    net, x = Sided(2, stride).double(), images(4)
    measured = looks(net, x, tmp_path).memory.noise.moved["conv/grad_cam"]
    assert list(measured) == KINDS[:2]  # autocast leaves double precision as it is
    for kind, values in measured.items():
        assert values[:, 0].tolist() == pytest.approx(expected(net, x, LABELS[:4], kind), rel=2e-7)


@pytest.mark.parametrize(("sides", "kinds"), [(1, ["shift"]), (2, KINDS[:2]), (3, KINDS[:2])])
def test_a_signal_has_no_mirror_image(tmp_path, sides, kinds):
    net, x = Sided(sides).double(), torch.rand(3, 3, *(6, 5, 7)[:sides], dtype=torch.float64)
    measured = looks(net, x, tmp_path).memory.noise.moved["conv/grad_cam"]
    assert list(measured) == kinds
    for kind, values in measured.items():
        assert values[:, 0].tolist() == pytest.approx(expected(net, x, LABELS[:3], kind), rel=2e-7)


def test_maps_of_many_cells_are_compared_as_drift_compares_them(tmp_path):
    net, x = Sided(2).double(), torch.rand(2, 3, 48, 48, dtype=torch.float64)
    measured = looks(net, x, tmp_path).memory.noise.moved["conv/grad_cam"]["mirror"]
    small = [nn.functional.adaptive_avg_pool2d(heat, 32) for heat in (heat_of(net, x, LABELS[:2]),)]
    small += [nn.functional.adaptive_avg_pool2d(heat_of(net, x.flip(-1), LABELS[:2]).flip(-1), 32)]
    assert measured[:, 0].tolist() == pytest.approx([by_hand(*pair) for pair in zip(*small, strict=True)], rel=2e-7)


def test_the_floor_is_the_median_and_not_known_where_one_is_to_come():
    nan = torch.nan
    noise = NoiseFloor(
        {"a/b": {"shift": torch.tensor([[0.1], [0.3], [nan]]), "mirror": torch.tensor([[0.9], [0.2], [0.5]])}}, 1
    )
    assert noise.of("a/b").flatten().tolist() == pytest.approx([0.5, 0.25, nan], nan_ok=True)  # of two their mean
    noise.moved["a/b"]["precision"] = torch.tensor([[0.2], [nan], [0.1]])
    assert noise.of("a/b").flatten().tolist() == pytest.approx([0.2, nan, nan], nan_ok=True)
    noise.dropped = {"mirror"}
    assert noise.of("a/b").flatten().tolist() == pytest.approx([0.15, nan, nan], nan_ok=True)
    assert noise.of("a/other") is None


def test_the_metric_is_the_median_of_what_was_measured(tmp_path):
    watching = looks(Sided(2), images(4).float(), tmp_path, 0)
    (record,) = watching.look(0)
    measured = watching.memory.noise.moved["conv/grad_cam"]
    middle = [sorted(float(measured[kind][i, 0]) for kind in KINDS)[1] for i in range(4)]
    assert record.values["drift_floor"][:, 0].tolist() == pytest.approx(middle)


def test_outside_a_run_nothing_is_measured(tmp_path):
    watching = looks(Sided(2), images(4).float(), tmp_path, 0)
    result = watching.compute(Moment(0, "test", "test", fitting=False))
    assert watching.memory.noise.turn == 0 and "drift_floor" not in result.records[0].values


def test_other_samples_outside_a_run_leave_it_as_it_is(tmp_path):
    x = images(4).float()
    watching = looks(Sided(2), x, tmp_path, 2)
    before = {kind: values.clone() for kind, values in watching.memory.noise.moved["conv/grad_cam"].items()}
    watching.release()
    watching.data = (x[:2], LABELS[:2])
    watching.compute(Moment(2, "test", "test", fitting=False))
    assert watching.memory.noise.turn == 2
    for kind, values in watching.memory.noise.moved["conv/grad_cam"].items():
        assert torch.equal(values, before[kind])


def test_nothing_is_measured_where_nobody_asks(tmp_path):
    watching = looks(Sided(2), images(4).float(), tmp_path, 2, metrics=["drift"])
    assert watching.memory.noise.turn == 0 and "noise" not in watching.state_dict()


@pytest.mark.parametrize("b", [16, 32, 5])
def test_all_is_measured_at_the_first_look_and_a_sixteenth_in_turn_by_one_disturbance_at_each_later(tmp_path, b):
    net, x = Sided(2), torch.rand(b, 3, 6, 5)
    given, block = [], math.ceil(b / 16)
    net.register_forward_pre_hook(lambda module, args: given.append((args[0].clone(), torch.is_autocast_enabled("cpu"))))
    blocks, every = math.ceil(b / block), math.ceil(16 / b)
    looks(net, x, tmp_path, 1 + every * (3 * blocks + 1))
    changes = (moved_by_one, mirrored, lambda image: image)
    first, later = given[:4], given[4:]
    for (image, _), change in zip(first[1:], changes, strict=True):
        assert torch.equal(image, change(x))
    # of fewer than sixteen samples one is more than a sixteenth: at looks between there is the look alone
    turns = list(zip(*(later[i :: every + 1] for i in range(every + 1)), strict=True))
    assert len(turns) == 3 * blocks + 1
    for turn, (*plain, (part, other)) in enumerate(turns):
        at, which = divmod(turn % (3 * blocks), 3)
        assert all(torch.equal(whole, x) and not usual for whole, usual in plain)
        assert torch.equal(part, changes[which](x[at * block : (at + 1) * block])) and len(part) == block
        assert other == (which == 2)


def test_only_what_was_due_is_measured_anew_and_by_the_weights_of_that_look(tmp_path):
    net, x = Sided(2), torch.rand(4, 3, 6, 5)
    watching = looks(net, x, tmp_path)
    moved = watching.memory.noise.moved["conv/grad_cam"]
    for step in range(1, 4 * 13 + 1):
        before = {kind: values.clone() for kind, values in moved.items()}
        jolt(net, step, 0.01)
        watching.compute(moment(step))
        turn, rest = divmod(step, 4)
        at, which = divmod((turn - 1) % 12, 3)
        changed = {(kind, i) for kind in KINDS for i in range(4) if moved[kind][i, 0] != before[kind][i, 0]}
        if rest:
            assert not changed
            continue
        assert changed == {(KINDS[which], at)}
        slow = expected(net, x[at : at + 1], LABELS[at : at + 1], KINDS[which])
        assert moved[KINDS[which]][at].tolist() == pytest.approx(slow, rel=1e-3, abs=1e-6)


class Unbearable(Sided):
    """Knows its autocast."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise TypeError("no half here")
        return super().forward(x)


def test_a_disturbance_that_fails_is_dropped_and_told_once(tmp_path):
    told = []
    net, x = Unbearable(2), torch.rand(3, 3, 6, 5)
    watching = looks(net, x, tmp_path, 0)
    watching.notices.say = lambda *texts: told.extend(text for text in texts if "floor" in text)
    for step in range(5):
        watching.compute(moment(step))
    assert told == ["the floor of drift is measured without precision: no half here"]
    assert watching.memory.noise.dropped == {"precision"}
    assert list(watching.memory.noise.moved["conv/grad_cam"]) == KINDS[:2]
    assert watching.memory.noise.of("conv/grad_cam").isfinite().all()


def test_one_that_fails_half_way_counts_for_no_map(tmp_path, monkeypatch):
    plain = DISTURBANCES[0]
    seen_once = []

    def back(heat, stride):
        if seen_once:
            raise RuntimeError("at the second map")
        seen_once.append(1)
        return plain.back(heat, stride)

    broken = disturbance.Disturbance("shift", plain.images, back, plain.context, plain.applies)
    monkeypatch.setattr("lightning_cam.change.noise.DISTURBANCES", (broken, *DISTURBANCES[1:]))
    noise = looks(Sided(2), images(3).float(), tmp_path, method=["grad_cam", "hires_cam"]).memory.noise
    assert noise.dropped == {"shift"}
    for tag in ("conv/grad_cam", "conv/hires_cam"):
        assert len(noise.by_kind(tag)) == 2 and noise.of(tag).isfinite().all()


class Boxed:
    """A place of the picture is explained."""

    def choose(self, output, label, head):
        from lightning_cam.targets.target import Choice

        return Choice(placed=True)

    def score(self, output, choice):
        return output[:, :1]


def test_where_a_place_was_chosen_pictures_stay_where_they_are(tmp_path):
    measured = looks(Sided(2), images(3).float(), tmp_path, target=Boxed()).memory.noise.moved
    assert list(measured["conv/grad_cam"]) == ["precision"]


class Patches(nn.Module):
    """Given patches in rows, of which the batch holds the picture beside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(12, 8), nn.Linear(12, 12), nn.Linear(8, 3)

    def forward(self, patches: Tensor) -> Tensor:
        tokens = self.embed(patches)
        return self.head((tokens + self.mix(tokens.mT).mT.tanh()).mean(1))


def test_what_stands_for_a_picture_beside_it_is_not_moved(tmp_path):
    pictures = torch.rand(3, 3, 8, 6)
    patches = nn.functional.unfold(pictures, 2, stride=2).mT.contiguous()
    samples = {"patches": patches, "picture": pictures, "label": LABELS[:3]}
    batch = Batch(samples=samples, image="patches", picture="picture", label="label")
    measured = looks(Patches(), None, tmp_path, layer="embed", data=samples, batch=batch).memory.noise.moved
    assert list(measured["embed/grad_cam"]) == ["precision"]


def test_with_autocast_the_other_precision_is_without_it():
    x, usual = torch.rand(2, 3, 4, 4), lambda: torch.autocast("cpu", torch.bfloat16)
    with other_precision(usual, x)():
        assert not torch.is_autocast_enabled("cpu")
    with other_precision(nullcontext, x)():
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_in_a_run_with_autocast_the_look_is_compared_with_one_without(tmp_path):
    net, x = Sided(2), images(4).float()
    watching = looks(net, x, tmp_path, 0)
    watching.context = lambda: torch.autocast("cpu", torch.bfloat16)
    watching.compute(moment(0))
    measured = watching.memory.noise.moved["conv/grad_cam"]["precision"][:, 0]
    assert measured.tolist() == pytest.approx(expected(net, x, LABELS[:4], "precision"), rel=1e-3, abs=1e-6)


def test_each_of_several_targets_has_its_own_floor(tmp_path):
    net, x = Sided(2).double(), images(4)
    noise = looks(net, x, tmp_path, 3, target=[0, 2]).memory.noise
    for kind, values in noise.moved["conv/grad_cam"].items():
        assert values.shape == (4, 2)
        for position, c in enumerate((0, 2)):
            slow = expected(net, x, torch.full((4,), c), kind)
            assert values[:, position].tolist() == pytest.approx(slow, rel=2e-7)


def test_samples_keep_what_else_they_are_given(tmp_path):
    torch.manual_seed(0)
    net, x, place = Located(), images(6), torch.rand(6, 2, dtype=torch.float64)
    net.double()
    samples = {"image": x, "place": place, "label": LABELS[:6]}
    batch = Batch(samples=samples, image="image", label="label")
    given = []
    net.register_forward_pre_hook(lambda module, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
    watching = looks(net, None, tmp_path, 0, "trunk", data=samples, batch=batch)
    for step in range(0, 24):
        given.clear()
        watching.compute(moment(step))
        values = [value for args, kwargs in given[-1:] for value in (*args, *kwargs.values())]
        turn, rest = divmod(step, 3)
        at = slice(0, 6) if not step or rest else slice((turn - 1) // 2, (turn - 1) // 2 + 1)
        assert any(torch.equal(value, place[at]) for value in values if isinstance(value, Tensor))
    for i in range(6):
        options = dict(layer="trunk", batch={"place": place[i : i + 1]})
        (slow,) = expected(net, x[i : i + 1], LABELS[i : i + 1], "mirror", **options)
        assert float(watching.memory.noise.moved["trunk/grad_cam"]["mirror"][i, 0]) == pytest.approx(slow, rel=2e-7)


def test_of_a_batch_in_chunks_the_first_is_measured(tmp_path):
    net, x = Sided(2), torch.rand(20, 3, 6, 5)
    data = (x, LABELS[:20])
    watching = watcher(net, tmp_path, data, "conv", metrics=["drift_floor"], batch=Batch(samples=data, pictures=16))
    (record,) = watching.look(0)
    assert watching.memory.noise.of("conv/grad_cam").shape == (16, 1)
    floor = record.values["drift_floor"][:, 0]
    assert floor[:16].isfinite().all() and floor[16:].isnan().all()
    assert watching.memory.noise.turn == 1


def test_a_checkpoint_holds_it(tmp_path):
    net, x = Sided(2), torch.rand(3, 3, 6, 5)
    change = lambda step: jolt(net, step)  # noqa: E731
    whole = looks(net, x, tmp_path, 5, change=change)
    state = whole.state_dict()
    torch.save(state, tmp_path / "state.ckpt")
    resumed = watcher(net, tmp_path, (x, LABELS[:3]), "conv", metrics=["drift_floor"])
    resumed.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True))
    assert resumed.memory.noise.turn == 5
    for watching in (whole, resumed):
        torch.manual_seed(9)
        watching.compute(moment(5))
    one, other = whole.memory.noise, resumed.memory.noise
    assert one.turn == other.turn == 6 and one.dropped == other.dropped
    for kind in KINDS:
        assert torch.equal(one.moved["conv/grad_cam"][kind], other.moved["conv/grad_cam"][kind])


def test_what_was_dropped_stays_so_over_a_break(tmp_path):
    net, x = Unbearable(2), torch.rand(3, 3, 6, 5)
    state = looks(net, x, tmp_path).state_dict()
    resumed = watcher(net, tmp_path, (x, LABELS[:3]), "conv", metrics=["drift_floor"])
    resumed.load_state_dict(state)
    assert resumed.memory.noise.dropped == {"precision"}
    assert NoiseFloor.from_state({}) == NoiseFloor()  # older ones hold none


@pytest.mark.parametrize(("n", "method"), [(4, "grad_cam"), (2, "grad_cam"), (3, "hires_cam")])
def test_other_samples_or_methods_behind_a_break_are_measured_from_the_beginning(tmp_path, n, method):
    net, x = Sided(2), torch.rand(4, 3, 6, 5)
    state = looks(net, x[:3], tmp_path, 2).state_dict()
    resumed = watcher(net, tmp_path, (x[:n], LABELS[:n]), "conv", method=method, metrics=["drift_floor"])
    resumed.load_state_dict(state)
    resumed.notices._is_new = lambda text: False
    for step in (2, 3):
        result = resumed.compute(moment(step))
        assert result.records[0].values["drift_floor"].isfinite().all()
        assert resumed.memory.noise.turn == step - 1


def test_a_run_that_asks_for_no_floor_any_more_goes_on_with_other_samples(tmp_path):
    net, x = Sided(2), torch.rand(4, 3, 6, 5)
    state = looks(net, x, tmp_path, 2).state_dict()
    resumed = watcher(net, tmp_path, (x[:2], LABELS[:2]), "conv", metrics=["drift"])
    resumed.load_state_dict(state)
    resumed.notices._is_new = lambda text: False
    for step in (2, 3):
        assert resumed.compute(moment(step)).events == []


def test_it_leaves_no_trace(tmp_path):
    net = plain_net(dropout=0.5, norm=True)
    net.train()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = model_state(net) | modes() | random_states()
    watching = watcher(net, tmp_path, metrics=["drift_floor"])
    for step in range(4):
        watching.look(step)
        after = model_state(net) | modes() | random_states()
        assert {name for name in after if after[name] != before.get(name)} == set()
    assert watching.memory.noise.of("relu/grad_cam").isfinite().all()


def test_nor_does_one_that_fails(tmp_path):
    net = Unbearable(2).train()
    before = model_state(net) | modes() | random_states()
    looks(net, torch.rand(3, 3, 6, 5), tmp_path, 2)
    torch.manual_seed(0)
    after = model_state(net) | modes()
    assert {name for name in after if after[name] != before.get(name)} == set()


def test_it_is_a_curve_of_every_run(tmp_path):
    callback = cam(on_error="raise")
    run = fit(tmp_path, callback, max_epochs=2)
    assert 0 < run.callback_metrics["cam/drift_floor"] < 2
    assert callback.watcher.memory.noise.turn == 3


def test_a_shift_is_by_one_pixel_whatever_the_kind_of_number():
    x = torch.arange(24).reshape(1, 2, 3, 4)
    assert torch.equal(shifted(x), moved_by_one(x))
    signals = torch.rand(2, 3, 7)
    assert torch.equal(shifted(signals), moved_by_one(signals))


def test_rows_of_a_block_are_those_that_both_have():
    rows = Rows(4, 8, 16)
    assert rows.within(slice(0, 16)) == slice(0, 4) and rows.within(slice(5, 6)) == slice(1, 2)
    assert rows.within(slice(2, 5)) == slice(0, 1) and rows.within(slice(7, 9)) == slice(3, 4)
    for elsewhere in (slice(0, 4), slice(8, 9)):
        nothing = rows.within(elsewhere)
        assert nothing.start == nothing.stop
