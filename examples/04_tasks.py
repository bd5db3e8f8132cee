"""Other tasks than naming the picture, and other models than convolutional ones: each only names its target.

python examples/04_tasks.py
"""

from pathlib import Path

import torch
from torchvision.models import VisionTransformer, detection, resnet18, segmentation, video

from lightning_cam import Explanation, Style, explain, render

torch.manual_seed(0)
pictures, film = torch.rand(2, 3, 64, 96), torch.rand(1, 3, 8, 64, 64)
random = {"weights": None, "weights_backbone": None}


def show(what: str, seen: Explanation) -> None:
    """Write everything one look showed as one picture."""
    path = Path("out") / f"{what}.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(render.encode(render.to_host(seen.sheet(Style(tile=224))), "jpeg"))
    print(f"{what}: {seen.method} at {seen.layer}, {tuple(seen.heat.shape)}, {path}")


# where a segmentation looks for the class it finds most of; {"segment": {"of": 12, "where": [20, 30]}} asks about one place
model = segmentation.lraspp_mobilenet_v3_large(**random, num_classes=4)
show("segmentation", explain(model, pictures, target="segment"))

# the box of the highest score; boxes and classes pin others
model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(**random, num_classes=3, box_score_thresh=0.0)
show("detection", explain(model, pictures, target="detection"))

# one class less its look-alikes, from a transformer's attention
model = VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=10)
torch.nn.init.normal_(model.heads[0].weight)
show("transformer", explain(model, pictures[..., :64], method="attention_relevance", target={"contrast": {"of": 3}}))

# of a video the frames that hold most of the heat
show("video", explain(video.r3d_18(weights=None, num_classes=5), film, target=1))

# several classes a sample, here its labels; where a sample has fewer, -1 fills the row up and no map is shown
labels = torch.tensor([[0, 2], [1, -1]])
show("multi-label", explain(resnet18(weights=None, num_classes=5), pictures, target=labels))
