"""lightly-train's own modules: pretraining methods without a forward, and the model of its fine-tuning in a Fabric loop."""

import os

import pytest
import torch
import torch.nn.functional as F
from real_fit import (
    Samples,
    assert_by_hand,
    assert_drawn,
    assert_same_weights,
    by_hand,
    fit_twice,
    of_label,
    picture,
)

from lightning_cam import Batch, CAMCallback, Watcher

os.environ.setdefault("LIGHTLY_TRAIN_EVENTS_DISABLED", "1")  # it tells its makers of every run
pytest.importorskip("lightly_train")

import pytorch_lightning as PL
from compare import close_and_alive
from lightly_train._commands import train_helpers
from lightly_train._methods import method_helpers
from lightly_train._models import package_helpers
from lightly_train._task_models.image_classification.task_model import ImageClassification
from lightning.fabric import Fabric
from nets import trainer
from torch.utils.data import DataLoader, default_collate

pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

CROPS = {"simclr": 2, "dino": 4}
SIZES = {
    "simclr": dict(hidden_dim=32, output_dim=16),
    "dino": dict(hidden_dim=32, bottleneck_dim=16, output_dim=32),
}


def method(name):
    """One of its pretraining methods as ``lightly_train.pretrain`` makes it, with random weights."""
    wrapped = package_helpers.get_wrapped_model("timm/resnet10t", model_args={"pretrained": False}, num_input_channels=3)
    kind = method_helpers.get_method_cls(method=name)
    optimizer = train_helpers.get_optimizer_args(
        optim_type=train_helpers.get_optimizer_type(optim_type="auto"),
        optim_args=None,
        method_cls=kind,
        wrapped_model=wrapped,
    )
    args = train_helpers.get_method_args(
        method_cls=kind,
        method_args=SIZES[name],
        scaling_info=train_helpers.get_scaling_info(dataset_size=4, epochs=2),
        optimizer_args=optimizer,
        wrapped_model=wrapped,
    )
    return train_helpers.get_method(
        method_cls=kind,
        method_args=args,
        optimizer_args=optimizer,
        embedding_model=train_helpers.get_embedding_model(wrapped_model=wrapped),
        global_batch_size=2,
        num_input_channels=3,
    )


def crops(name):
    """Samples as its datasets give them: a file's name, and crops as they are for each file."""

    def make(i):
        x = picture(i)
        views = [x[:, 4 * k : 4 * k + 48, 2 * k : 2 * k + 48].clone() for k in range(CROPS[name])]
        return {"filename": f"{i}.png", "views": views}

    return Samples(make)


def first_crop(batch):
    return batch["views"][0]


@pytest.mark.parametrize(("name", "part"), [("simclr", "embedding_model"), ("dino", "student_embedding_model")])
def test_a_pretraining_method(name, part, tmp_path):
    """The embedding of a crop, followed along what it was at the start; there is no validation."""

    def run(folder, callbacks):
        module = method(name)
        trainer(folder, callbacks, tree=PL).fit(module, DataLoader(crops(name), 2, shuffle=True))
        return module

    def embedding(model, images, batch):
        return model(images).flatten(1)

    callback = CAMCallback(model=part, forward=embedding, target="projection", batch=Batch(image=first_crop), on_error="raise")
    watched = fit_twice(tmp_path, run, callback, PL)
    assert watched.layer.endswith("layer4")
    network = watched.module.get_submodule(part)
    x = first_crop(default_collate([crops(name)[i] for i in range(4)]))
    start = F.normalize(network(x).flatten(1).detach(), dim=1)
    layer = network.wrapped_model.get_model().layer4
    assert_by_hand(watched, layer, lambda: (network(x).flatten(1) * start).sum(1), tolerance=1e-5)


def task_model():
    torch.manual_seed(0)
    return ImageClassification(
        model="timm/resnet10t",
        classes={0: "left", 1: "middle", 2: "right"},
        classification_task="multiclass",
        image_size=(64, 64),
        image_normalize=None,
        backbone_freeze=False,
        backbone_args={"pretrained": False},
        load_weights=False,
    ).double()


def fine_tune(folder, look=lambda model, step: None):
    """Its model of a classification in a loop with Fabric, as its own fine-tuning is."""
    fabric = Fabric(accelerator="cpu", devices=1)
    model = task_model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    data = Samples(lambda i: {"image": picture(i).double(), "label": i % 3})
    loader = fabric.setup_dataloaders(DataLoader(data, 2))
    look(model, 0)
    for epoch in (1, 2):
        model.train()
        for batch in loader:
            loss = F.cross_entropy(model.forward_backend(batch["image"]), batch["label"])
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        look(model, 2 * epoch)
    return model


def test_the_model_of_its_fine_tuning(tmp_path):
    """Whose forward gives labels and probabilities, and another method the logits."""
    data = Samples(lambda i: {"image": picture(i).double(), "label": i % 3})
    watcher = Watcher(None, data, batch=4, forward="forward_backend", on_error="raise", folder=tmp_path)
    records = []

    def look(model, step):
        watcher.model = model
        records.extend(watcher.look(step))

    watched, plain = fine_tune(tmp_path, look), fine_tune(tmp_path)
    assert_same_weights(plain, watched)
    assert len(records) == 3
    assert_drawn(tmp_path, f"cam/{records[0].tag}")
    model, batch = task_model().eval(), default_collate([data[i] for i in range(4)])
    layer = model.backbone.get_model().layer4
    expected = by_hand(layer, lambda: of_label(model.forward_backend(batch["image"]), batch["label"]))
    close_and_alive(records[0].heat[:, 0], expected, 1e-10)
