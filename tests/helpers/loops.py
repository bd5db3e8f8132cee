"""What is trained in loops without a Trainer beside images in, logits out; and what a look must not do to each."""

import pytest
import torch
import torch.nn.functional as F
from nets import Pictures
from plain import PlainNet, Task
from streams import Pipeline, Stream
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader


def pairs():
    return Task(DataLoader(Pictures(24), 4, shuffle=True))


# adapters


def adapted(net, **options):
    peft = pytest.importorskip("peft")
    # not B = 0: an adapter that adds nothing would leave no rounding behind
    return peft.get_peft_model(net, peft.LoraConfig(r=2, init_lora_weights=False, **options))


def timms_with_adapters():
    kind = pytest.importorskip("timm").models.VisionTransformer
    sizes = dict(img_size=8, patch_size=2, embed_dim=12, depth=2, num_heads=2, num_classes=3)
    net = kind(**sizes, proj_drop_rate=0.2, attn_drop_rate=0.1)
    return adapted(net, target_modules=["qkv", "proj"], lora_dropout=0.2, modules_to_save=["head"])


def torchvisions_with_adapters():
    """LoRA in torch's own attention, whose every forward puts new parameters in place of the frozen ones, rounded."""
    from torchvision.models import VisionTransformer

    net = VisionTransformer(8, 2, 2, 2, 12, 24, dropout=0.2, attention_dropout=0.1, num_classes=3)
    nn.init.normal_(net.heads.head.weight)
    return adapted(net, target_modules=["self_attention"], modules_to_save=["head"])


def merge_and_unmerge(model, task, batch):
    model.merge_adapter()
    model.unmerge_adapter()


def thaw(model, task, batch):
    model.base_model.model.blocks.requires_grad_(True)


def run_without_gradient(model, task, batch):
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        model(batch[0])
    for module, flag in flags:
        module.training = flag


# a student and its teacher


def slowly(average, new, n):
    return torch.lerp(average, new, 0.1)


class Distillation(nn.Module):
    """A student, and the average of its weights, which normalises and drops as in training: a mean teacher."""

    def __init__(self):
        super().__init__()
        self.student = PlainNet(dropout=0.3, norm=True)
        self.teacher = AveragedModel(self.student, avg_fn=slowly).requires_grad_(False)

    def forward(self, x):
        return self.student(x), self.teacher(x)

    def likeness(self, x):
        student, teacher = self(x)
        return student - teacher


def of_both(model, batch):
    x, y = batch
    student, teacher = model(x)
    return F.cross_entropy(student, y) + F.mse_loss(student, teacher)


def follow(model):
    model.teacher.update_parameters(model.student)


def distilled():
    return Task(pairs().loader, of_both, follow)


def run_the_teacher(model, task, batch):
    with torch.no_grad(), torch.random.fork_rng():
        model.teacher(batch[0])


def put_the_student_to_sleep(model, task, batch):
    model.student.eval()


def average_once_more(model, task, batch):
    follow(model)


# a batch that is a dict


class Located(PlainNet):
    """Takes a box beside the image."""

    def forward(self, image, box):
        return super().forward(image) + box.mean(1, keepdim=True)

    def of_batch(self, images, batch):
        return self(images, batch["box"])


class Whole(PlainNet):
    """Takes the whole dict."""

    def forward(self, batch):
        return super().forward(batch["image"])


def of_located(model, batch):
    return F.cross_entropy(model(batch["image"], batch["box"]), batch["label"])


def of_whole(model, batch):
    return F.cross_entropy(model(batch), batch["label"])


def dicts(loss, **options):
    return lambda: Task(DataLoader(Pictures(24, form="dict", **options), 4, shuffle=True), loss)


def by_hand(model, images, batch):
    """A call of one's own that does what it should not: it changes the batch that it is given, and the images."""
    logits = model(images.clone(), batch.pop("box"))
    images.zero_()
    batch["image"].zero_()
    batch["label"] += 1
    return logits


def write_into_the_batch(model, task, batch):
    batch["image"].zero_()


def write_into_the_dataset(model, task, batch):
    task.loader.dataset.images *= 0.5


def forget_an_entry(model, task, batch):
    batch["more"] = batch["box"]


# loaders without an index


def pipeline():
    return Task(Pipeline(6, 4))


def stream(workers=0):
    return lambda: Task(DataLoader(Stream(24, moving=True), 4, num_workers=workers))


def take_a_batch(model, task, batch):
    next(iter(task.loader))


def write_into_the_pipelines_memory(model, task, batch):
    batch[0].zero_()
