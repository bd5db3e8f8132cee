"""Volumes, videos and signals are read, explained and shown."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import noise
from torch import nn

from lightning_cam import Batch, Style, explain, render
from lightning_cam.data.collated import read_batch
from lightning_cam.heat import maximum, rescale, resize, value_range
from lightning_cam.render import colormap, curve, slices, views


class Net(nn.Module):
    """Two convolutions over so many sides, pooled, and a linear head."""

    def __init__(self, sides, channels=2):
        super().__init__()
        torch.manual_seed(0)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[sides - 1]
        self.features = nn.Sequential(conv(channels, 5, 3, 2, 1), nn.ReLU(), conv(5, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.features(x).flatten(2).mean(2))


SIZES = {1: (64,), 3: (8, 16, 24)}


@pytest.mark.parametrize(("size", "mode"), [((9,), "linear"), ((9, 7), "bilinear"), ((9, 7, 5), "trilinear")])
def test_resize_is_linear_along_as_many_sides_as_the_size_has(size, mode):
    heat = noise(2, 3, *(4, 6, 8)[: len(size)])
    assert torch.equal(resize(heat, size), F.interpolate(heat, size, mode=mode, align_corners=False))
    line = torch.arange(4.0).reshape(1, *(1,) * (len(size) - 1), 4).expand(1, *(2,) * (len(size) - 1), 4)
    grown = resize(line, (*(2,) * (len(size) - 1), 8))
    assert grown.reshape(-1, 8)[0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
def test_peaks_and_scales_are_taken_over_every_side(shape):
    heat = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(maximum(heat), heat.flatten(1).amax(1))
    for norm in ("positive", "minmax", "symmetric"):
        for scale in ("image", "batch", 2.0):
            flat = rescale(heat.flatten(1)[:, None], *value_range(heat.flatten(1)[:, None], norm, scale))
            assert torch.equal(rescale(heat, *value_range(heat, norm, scale)).flatten(1), flat.flatten(1))


def test_slices_each_stand_for_an_equal_share_of_the_heat():
    energy = torch.zeros(4, 10)
    energy[0, [1, 4, 5, 9]] = 1.0
    energy[1, 3] = 1.0
    energy[2, 9] = 1.0
    assert slices.spread(energy, 4).tolist() == [[1, 4, 5, 9], [3, 4, 5, 6], [6, 7, 8, 9], [1, 3, 6, 8]]
    assert slices.spread(energy[:1], 2).tolist() == [[1, 5]]
    assert slices.spread(energy, 99).tolist() == [list(range(10))] * 4
    for seed in range(20):
        chosen = slices.spread(noise(5, 12, seed=seed) ** 8, 5)
        assert (chosen.diff(dim=1) > 0).all() and chosen.min() >= 0 and chosen.max() < 12


def test_slices_are_those_said_and_their_heat_is_theirs():
    volumes, at = noise(2, 3, 8, 4, 5), torch.tensor([[0, 3], [2, 7]])
    taken = slices.take(volumes, at)
    assert taken.shape == (2, 2, 3, 4, 5)
    assert all(torch.equal(taken[i, j], volumes[i, :, at[i, j]]) for i in range(2) for j in range(2))
    normalized = torch.zeros(1, 4, 2, 2)
    normalized[0, 1] = 1.0
    assert slices.energy(normalized, 8, 0.0)[0].tolist() == [0, 1, 3, 3, 1, 0, 0, 0]
    assert slices.energy(torch.full((1, 4, 2, 2), 0.5), 8, 0.5).abs().sum() == 0


def test_a_volume_is_a_row_of_its_hottest_slices_and_its_overlay_is_whole():
    base = (noise(1, 3, 8, 40, 40) * 255).to(torch.uint8)
    normalized = torch.zeros(1, 8, 5, 5)
    normalized[0, 2:6, 2, 2] = 1.0
    style = Style(tile=160, panels=("image",), slices=4)
    card = views.panels(base, normalized, style)
    assert card.shape[-1] == 4 * 120 + 3 * 2
    row = card[0, :, -120:]
    for i, index in enumerate((2, 3, 4, 5)):
        expected = render.overlay.fit(base[:, :, index], 120)[0]
        assert torch.equal(row[:, :, i * 122 : i * 122 + 120], expected)
    whole = render.overlays(base, normalized, style)
    assert whole.shape == base.shape
    assert torch.equal(whole[:, :, 0], base[:, :, 0]) and not torch.equal(whole[:, :, 3], base[:, :, 3])
    heat = render.shown(normalized, base.shape[2:])
    assert torch.equal(whole[:, :, 4], render.blend(base[:, :, 4], heat[:, 4], style))
    assert render.flat(base, normalized, style).shape[-1] == 4 * 40 + 3 * 2


def test_a_filmstrip_keeps_to_one_slice_a_row():
    base = (noise(2, 3, 6, 32, 32) * 255).to(torch.uint8)
    normalized = torch.zeros(3, 2, 6, 4, 4)
    normalized[:, 0, 1], normalized[0, 1, 0], normalized[2, 1, 4] = 0.5, 0.3, 1.0
    cells = views.cells(base, normalized, Style(tile=64))
    assert cells.shape == (4, 2, 3, 48, 48)
    expected = render.overlay.fit(torch.stack([base[0, :, 1], base[1, :, 4]]), 48)
    assert torch.equal(cells[0], expected)
    assert torch.equal(cells[2, 1], expected[1])  # nothing there at that moment
    assert not torch.equal(cells[3, 1], expected[1])


def test_a_signal_is_a_line_that_takes_the_colour_of_its_heat():
    signal = torch.zeros(1, 1, 120)
    normalized = torch.zeros(1, 12)
    normalized[0, 6:] = 1.0
    style = Style(colormap="viridis")
    drawn = curve.curves(signal, normalized, (60, 240), style)[0]
    middle = drawn[:, 30]
    assert np.abs(middle[:, :90].float().mean(1).numpy() - curve.GREY).max() < 25
    hot = colormap.table("viridis", torch.device("cpu"))[255].float()
    assert (middle[:, 150:235].float().mean(1) - hot).abs().max() < 25
    assert drawn[:, 2].unique(dim=1).T.tolist() == [list(curve.NIGHT)]
    plain = curve.curves(signal, None, (60, 240), style)[0]
    assert torch.equal(plain[:, :, :100], drawn[:, :, :100])
    assert torch.equal(drawn[:, :, 150:230], curve.curves(5 * signal + 3, normalized, (60, 240), style)[0][:, :, 150:230])


def test_a_long_signal_loses_no_spike():
    signal = torch.zeros(1, 1, 50_000)
    signal[0, 0, 31_417] = 1.0
    drawn = curve.curves(signal, torch.zeros(1, 10), (60, 240), Style())[0].float()
    column = 3 + round(31_417 / 50_000 * 233)
    assert (drawn[:, 8:12, column - 2 : column + 3] - torch.tensor(curve.NIGHT)[:, None, None]).abs().amax() > 60
    assert (drawn[:, 8:12, 20:100] - torch.tensor(curve.NIGHT)[:, None, None]).abs().amax() == 0


@pytest.mark.parametrize("sides", [1, 3])
@pytest.mark.parametrize("unit", ["positive", "symmetric"])
def test_an_explanation_is_shown_and_saved(sides, unit, tmp_path):
    net, x, style = Net(sides), noise(3, 2, *SIZES[sides]), Style(norm=unit)
    one = explain(net, x, layer="features")
    assert one.heat.shape == (3, *(n // 4 for n in SIZES[sides]))
    assert one.normalized(style).shape == one.heat.shape
    several = explain(net, x, layer="features", target=[0, 2])
    if sides == 3:
        assert one.overlay(style).shape == (3, 3, *SIZES[3])
        assert several.overlay(style).shape == (3, 2, 3, *SIZES[3])
    assert several.overlay(style).shape[:2] == (3, 2)
    for seen in (one, several):
        assert seen.sheet(style).dtype == torch.uint8
        assert all(path.stat().st_size > 300 for path in seen.save(tmp_path, style=style))


def test_absent_targets_are_left_out_of_sheets_and_files(tmp_path):
    net, x = Net(2), noise(3, 2, 16, 24)
    seen = explain(net, x, layer="features", target=lambda logits, label: torch.tensor([[0, 1], [-1, -1], [2, -1]]))
    paths = seen.save(tmp_path, names=["a", "b", "c"])
    assert [path.name for path in paths] == ["a_grad_cam_0.jpg", "a_grad_cam_1.jpg", "c_grad_cam_2.jpg"]
    three = explain(net, x, layer="features", target=[0])
    assert seen.sheet().shape == three.sheet().shape  # three cards
    assert torch.equal(seen.overlay()[1, 0], render.to_rgb(x[1:2], None)[0])  # no heat


def test_batches_are_read_by_the_sides_of_the_model():
    signals, volumes = noise(4, 2, 64), noise(4, 1, 8, 16, 16)
    assert read_batch((signals, torch.arange(4)), Batch(), 1).images is signals
    assert read_batch((volumes, torch.arange(4)), Batch(), 3).images is volumes
    assert read_batch({"ecg": signals[:, 0]}, Batch(image="ecg"), 1).images.shape == (4, 1, 64)
    assert read_batch({"scan": volumes[:, 0]}, Batch(image="scan"), 3).images.shape == (4, 1, 8, 16, 16)
    with pytest.raises(ValueError, match=r"No signals \[b c t\] in the batch"):
        read_batch((volumes, torch.arange(4)), Batch(), 1)
    with pytest.raises(ValueError, match=r"No images \[b c h w\] in the batch"):
        read_batch((volumes, torch.arange(4)), Batch())


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match=r"Signals \[b c t\], images \[b c h w\] and volumes"):
        render.displayable(noise(2, 3), None)
    with pytest.raises(ValueError, match="3 channels and the image 2"):
        render.displayable(noise(2, 2, 9), ((0.0,) * 3, (1.0,) * 3))
    with pytest.raises(ValueError, match="expected 1 to 32"):
        Style(slices=0)


def fitted(folder, net, data, **options):
    import lightning.pytorch as L

    from lightning_cam import CAMCallback

    class Task(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, i):
            return self(batch[0]).square().mean()

        def validation_step(self, batch, i):
            self(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    loader = torch.utils.data.DataLoader(data, batch_size=3)
    callback = CAMCallback("net.features", **options)
    trainer = L.Trainer(
        max_epochs=2, callbacks=[callback], logger=False, default_root_dir=folder, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(Task(), loader, loader)
    return callback


@pytest.mark.parametrize("sides", [1, 3])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_on_signals_or_volumes_is_drawn(sides, tmp_path):
    data = torch.utils.data.TensorDataset(noise(6, 2, *SIZES[sides]), torch.arange(6) % 3)
    callback = fitted(tmp_path, Net(sides), data, batch=4, style=Style(norm="symmetric"), metrics=[])
    assert callback.history["net.features/grad_cam"].titles == ["start", "1", "2"]
    files = sorted(path.name for path in tmp_path.rglob("*.jpg"))
    assert "filmstrip.jpg" in files and len(files) == 3 * 4 + 3 + 1  # overlays, sheets, filmstrip


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_multi_label_run_draws_the_positives_only(tmp_path):
    hot = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1]])
    data = torch.utils.data.TensorDataset(noise(4, 2, 16, 24), hot)
    callback = fitted(tmp_path, Net(2), data, batch=4, target="positives", metrics=["energy_inside"])
    history = callback.history["net.features/grad_cam"]
    assert history.heats[0].shape == (12, 4, 6)
    absent = history.heats[0].isnan().flatten(1).all(1)
    assert absent.tolist() == [False, False, True, True, True, True, False, True, True, False, False, False]
    assert np.isfinite([history.lowest, history.highest]).all()


def test_captions_tell_evidence_for_and_against_and_the_chance_of_each_positive():
    from records import record_of

    from lightning_cam.capture.session import open_session
    from lightning_cam.data.batch import FixedBatch
    from lightning_cam.figures.captions import captions
    from lightning_cam.targets import find

    x, hot = noise(2, 2, 16, 24), torch.tensor([[1, 0, 1], [0, 1, 0]])
    batch = FixedBatch(x, hot, names=("a", "b"), classes=("cat", "dog", "cow"))
    heat = torch.tensor([[[[-2.0, 1.0]], [[-1.0, -3.0]]], [[[0.0, 0.0]], [[torch.nan, torch.nan]]]])
    with open_session(Net(2), ["features"]) as session:
        look = session.forward(x, find("positives"), hot)
    p = (100 * look.output.sigmoid()).round().int().tolist()
    record = record_of(look, heat)
    signed, plain = captions(batch, record, "symmetric"), captions(batch, record)
    lines = [f"cat {p[0][0]}%", f"cow {p[0][2]}%", f"dog {p[1][1]}%", "b"]
    assert [one.line for one in signed] == lines == [one.line for one in plain]
    told = ["for 1, against 2 · a", "for 0, against 3 · a", "no evidence · b", "no evidence"]
    assert [one.under for one in signed] == told
    assert [one.under for one in plain] == ["peak 1 · a", "no evidence · a", "no evidence · b", "no evidence"]
