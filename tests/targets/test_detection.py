"""A detector in a Trainer: its default layer, its own box, and boxes that are labels and regions at once."""

import lightning as L
import pytest
import torch
from nets import SMALL, trainer
from torch.utils.data import DataLoader, Dataset
from torchvision.models import detection

from lightning_cam import Batch, CAMCallback, explain, targets


class Scenes(Dataset):
    """A bright square on a dark ground, with its box."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i):
        image, x = torch.full((3, 64, 64), 0.1), 8 * i
        image[:, 16:48, x : x + 32] = 0.9
        box = torch.tensor([[x, 16, x + 32, 48]], dtype=torch.float32)
        return image, {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)}


def collated(samples):
    return tuple(zip(*samples, strict=True))


class Detector(L.LightningModule):
    def __init__(self):
        super().__init__()
        sizes = dict(min_size=64, max_size=64, score_thresh=0.0)
        self.net = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **sizes)

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return sum(self.net(*batch).values())

    def validation_step(self, batch, batch_idx):
        self.log("found", float(sum(len(one["boxes"]) for one in self.net(batch[0]))), batch_size=len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def run(folder, *callbacks):
    L.seed_everything(3, verbose=False)
    module, loader = Detector(), DataLoader(Scenes(), 2, collate_fn=collated)
    fitting = trainer(folder, list(callbacks), max_epochs=1, limit_train_batches=1)
    fitting.fit(module, loader, loader)
    return module, fitting


def test_a_detector_is_watched_without_a_layer_named_and_trains_as_without(tmp_path):
    batch = Batch(samples=4, regions=lambda batch: [one["boxes"] for one in batch[1]])
    watched, fitting = run(tmp_path / "with", CAMCallback(target="detection", batch=batch, style=SMALL, on_error="raise"))
    energy, share = (fitting.callback_metrics[name] for name in ("cam/energy_inside", "cam/energy_inside_defined"))
    assert 0 <= energy <= 1
    assert share > 0
    assert list((tmp_path / "with").rglob("*net.backbone.body.layer4*")), sorted((tmp_path / "with").rglob("*"))
    plain, _ = run(tmp_path / "without")
    for (name, a), b in zip(watched.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def small(make, **thresholds):
    torch.manual_seed(0)
    return make(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96, **thresholds).eval()


@pytest.mark.parametrize("kind", ["retinanet", "fasterrcnn"])
def test_activations_of_detectors_are_changed_one_by_one(kind):
    """A detector counts its results by its images, so it is given as many as there are changes; all methods go by this."""
    retina = kind == "retinanet"
    make = detection.retinanet_resnet50_fpn if retina else detection.fasterrcnn_mobilenet_v3_large_320_fpn
    net, x = small(make, **{"score_thresh" if retina else "box_score_thresh": 0.0}), torch.rand(1, 3, 64, 96)
    found = explain(net, x, target="detection", method={"recipro_cam": {"chunk": 4}})

    target = targets.detection()
    pinned = target.choose(net(x), None, None)
    kept, changed = [], []

    def alone(module, args, output):
        others = torch.zeros_like(output)
        for place in kept:
            others[(..., *place)] = output[(..., *place)]
        return others

    handle = net.get_submodule(found.layer).register_forward_hook(alone)
    for places in ([(0, 1)], []):
        kept[:] = places
        changed.append(target.score(net(x), pinned).item())
    handle.remove()
    assert found.heat[0, 0, 1].item() == pytest.approx(changed[0] - changed[1], abs=1e-5)


@pytest.mark.parametrize("method", ["flip_average", "sess"])
@pytest.mark.parametrize("target", ["segment", "label_region"])
def test_what_moves_the_picture_is_refused_for_a_place_in_it(method, target):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1))
    where = {"segment": {"class_id": 1, "region": "predicted" if target == "segment" else [2, 3]}}
    with pytest.raises(ValueError, match="moves the picture, and the target is a place in it"):
        explain(net, torch.rand(1, 3, 8, 8), target=where, method={method: {"method": "grad_cam"}})
    explain(net, torch.rand(1, 3, 8, 8), target=where, method={"smooth": {"method": "grad_cam"}})


def test_a_second_derivative_through_boxes_is_refused():
    net = small(detection.fasterrcnn_mobilenet_v3_large_320_fpn, box_score_thresh=0.0)
    with pytest.raises(ValueError, match="shapley_cam differentiates twice"):
        explain(net, torch.rand(1, 3, 64, 96), target="detection", method="shapley_cam")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "target", ["predicted", "runner_up", {"top_k": {"k": 2}}, 1, "log_probability", "positives", "binary", "value"]
)
def test_targets_of_classes_say_that_a_detector_has_boxes(target):
    net = small(detection.retinanet_resnet50_fpn, score_thresh=0.0)
    with pytest.raises(ValueError, match=r"(the model gave|got) detections"):
        explain(net, torch.rand(1, 3, 64, 96), layer="backbone.body.layer4", target=target)
