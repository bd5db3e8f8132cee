"""What the package computes and draws, written down, and compared with what was written down before, bit for bit.

    python tests/equality.py write FILE      before a change that must change nothing
    python tests/equality.py compare FILE    after it

Raw maps, scores, numbers and picture bytes: of every method on small inputs of nine nets in float64, and of a fit of three
epochs with boxes under TensorBoard and files. Bits differ between machines, so nothing of it is kept in the repository.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models
from torchvision.models.video import r3d_18

import lightning_cam
from lightning_cam import CAMCallback, Schedule, Style, explain, methods

DEAR = ["score_cam", "ss_cam", "is_cam", "ablation_cam", "recipro_cam", "sess", "integrated_gradients", "integrated_grad_cam"]
DEAR += ["token_ablation", "occlusion", "rise"]
WRAPPED = {name: {name: {"method": "grad_cam"}} for name in ("smooth", "flip_average", "sess")}
OPTIONS = {"ss_cam": {"ss_cam": {"n": 2}}, "is_cam": {"is_cam": {"n": 2}}, "rise": {"rise": {"n": 64}}, **WRAPPED}
TARGETS = ["predicted", "runner_up", {"top_k": {"k": 3}}, 2, ["predicted", 1], "log_probability", "rivals", "counterfactual"]
SIGNED = {"norm": "symmetric"} if "norm" in Style.__dataclass_fields__ else {"unit": "signed"}


def nets() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """A net each, drawn from a fixed seed, and the shape of its input."""
    picture = (2, 3, 64, 64)
    built = {
        "resnet18": (lambda: models.resnet18(num_classes=5), picture),
        "squeezenet1_1": (lambda: models.squeezenet1_1(num_classes=5), picture),
        "densenet121": (lambda: models.densenet121(num_classes=5), picture),
        "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(num_classes=5), picture),
        "convnext_tiny": (lambda: models.convnext_tiny(num_classes=5), picture),
        "vit": (transformer, picture),
        "swin_t": (lambda: models.swin_t(num_classes=5), picture),
        "r3d_18": (lambda: r3d_18(num_classes=5), (1, 3, 4, 32, 32)),
        "signal": (signal, (2, 2, 64)),
    }
    return {name: (seeded(build), shape) for name, (build, shape) in built.items()}


def seeded(build: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = build()
    return model.double().eval()


def transformer() -> nn.Module:
    model = models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=5)
    nn.init.normal_(model.heads[0].weight)
    return model


def signal() -> nn.Module:
    body = [nn.Conv1d(2, 8, 5, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 12, 5, 2), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 5))


def looks() -> Iterator[tuple[str, Any]]:
    """Every method on every net; dear ones on two nets; targets and fusions on one."""
    for net, (model, shape) in nets().items():
        images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        layer = explain(model, images).layer
        for name in dict.fromkeys([*methods.names(), *WRAPPED]):
            if name not in DEAR or net in ("squeezenet1_1", "vit"):
                yield from look(f"{net}/{name}", model, images, layer=layer, method=OPTIONS.get(name, name))
        for i, target in enumerate(TARGETS):
            yield from look(f"{net}/target {i}", model, images, layer=layer, target=target)
        yield from look(f"{net}/signed", model, images, layer=layer, style=Style(tile=64, **SIGNED))
    model, _ = nets()["resnet18"]
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for fusion in lightning_cam.fuse.names():
        yield from look(f"fuse/{fusion}", model, images, layer=["layer2", "layer3", "layer4"], fuse=fusion)
    found = lightning_cam.concepts.factorize(model, images, concepts=3)
    yield from (("concepts/maps", found.maps), ("concepts/scores", found.scores), ("concepts/picture", found.picture()))


def look(name: str, model: nn.Module, images: Tensor, style: Style | None = None, **options: Any) -> Iterator[tuple[str, Any]]:
    style = style or Style(tile=64)
    try:
        shown = explain(model, images, **options)
    except ValueError as refused:
        yield f"{name}/refused", type(refused).__name__
        return
    yield from ((f"{name}/{part}", getattr(shown, part)) for part in ("heat", "score", "logits", "classes", "layer", "method"))
    yield f"{name}/overlay", shown.overlay(style)
    yield f"{name}/sheet", shown.sheet(style)


class Boxed(Dataset):
    """Noise with a brighter square that gives the class away, and its box."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(n)
        self.images = 0.5 * torch.rand(n, 3, 24, 24, generator=generator)
        self.classes = ["left", "middle", "right"]
        for i in range(n):
            self.images[i, i % 3, 4:12, 8 * (i % 3) : 8 * (i % 3) + 8] += 0.5

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        x = 8 * (i % 3)
        return {"image": self.images[i], "label": i % 3, "box": torch.tensor([x, 4, x + 8, 12.0])}


class Fitted(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x).mean((2, 3))))

    def training_step(self, batch: Any, _: int) -> Tensor:
        return F.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch["image"]), batch["label"]), batch_size=len(batch["label"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.02)


def fits() -> Iterator[tuple[str, Any]]:
    """Pictures, scalars, files and numbers of two callbacks in one fit, and its weights."""
    with tempfile.TemporaryDirectory() as folder:
        L.seed_everything(3, verbose=False)
        batch, style = {"samples": 6, "regions": "box", "image": "image", "label": "label"}, Style(tile=64)
        callbacks = [
            CAMCallback(
                "body.3", ["grad_cam", "activation_mean"], target=["label", "predicted"], batch=batch, style=style, concepts=2
            ),
            CAMCallback(
                ["body.0", "body.4"], fuse="mean", batch=batch, style=Style(tile=64, scale="run", **SIGNED), tag="fused"
            ),
            CAMCallback(["body.0", "body.4"], "layer_cam", batch=batch, style=style, tag="several", metrics=["energy_inside"]),
            CAMCallback(batch=batch, style=style, tag="default", schedule=Schedule(step="epoch")),
        ]
        loggers = [TensorBoardLogger(folder, "tb"), CSVLogger(folder, "csv")]
        trainer = L.Trainer(
            max_epochs=3, accelerator="cpu", logger=loggers, callbacks=callbacks, log_every_n_steps=1, default_root_dir=folder,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        module = Fitted()
        trainer.fit(module, DataLoader(Boxed(24), 6, shuffle=True), DataLoader(Boxed(12), 6))
        yield from ((f"fit/weight {name}", value) for name, value in module.state_dict().items())
        yield from ((f"fit/metric {name}", float(value)) for name, value in sorted(trainer.callback_metrics.items()))
        yield from events(Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in (".jpg", ".png"):
                yield f"fit/file {path.relative_to(folder)}", path.read_bytes()


def events(folder: Path) -> Iterator[tuple[str, Any]]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for file in sorted(folder.rglob("events.out.tfevents*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                is_record = value.metadata.plugin_data.plugin_name == "lightning_cam"  # it names its session
                if not value.tag.startswith("_hparams") and not is_record:
                    name = f"fit/event {value.tag} at {event.step}"
                    yield (name, value.image.encoded_image_string) if value.HasField("image") else (name, value.simple_value)
                    yield f"{name}, description", value.metadata.summary_description


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.nan_to_num(7.5), other.nan_to_num(7.5))
    return type(one) is type(other) and (one == other or one != one)


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    order, file = sys.argv[1], Path(sys.argv[2])
    now = {name: value.clone() if isinstance(value, Tensor) else value for part in (looks(), fits()) for name, value in part}
    if order == "write":
        torch.save(now, file)
        sys.exit(print(f"{len(now)} values written to {file}"))
    before = torch.load(file, weights_only=False)
    differ = [
        name for name in [*before, *(new for new in now if new not in before)] if not same(before.get(name), now.get(name))
    ]
    print("\n".join(differ))
    sys.exit(print(f"{len(before)} values, {len(differ)} differ") or bool(differ))


if __name__ == "__main__":
    main()
