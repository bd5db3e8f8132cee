"""Other tasks than naming the picture, and other models than convolutional ones: each only names its target.

python examples/04_tasks.py
"""

from pathlib import Path

import torch
from torchvision.models import VisionTransformer, detection, resnet18, segmentation, video

from lightning_cam import Explanation, Style, explain, render

torch.manual_seed(0)
pictures = torch.rand(2, 3, 64, 96)
film = torch.rand(1, 3, 8, 64, 64)
untrained = {"weights": None, "weights_backbone": None}


def show(task: str, explanation: Explanation) -> None:
    """Write everything an explanation holds as one picture."""
    path = Path("out") / f"{task}.jpg"
    path.parent.mkdir(exist_ok=True)
    sheet = explanation.sheet(Style(tile=224))
    path.write_bytes(render.encode(render.to_host(sheet), "jpeg"))
    print(f"{task}: {explanation.method} at {explanation.layer}, {tuple(explanation.heat.shape)}, {path}")


# where a segmentation looks for the class it finds most of;
# {"segment": {"class_id": 12, "region": [20, 30]}} asks about one class at one place
model = segmentation.lraspp_mobilenet_v3_large(**untrained, num_classes=4)
show("segmentation", explain(model, pictures, target="segment"))

# the box of the highest score; boxes and classes pin others
model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(**untrained, num_classes=3, box_score_thresh=0.0)
show("detection", explain(model, pictures, target="detection"))

# one class less its look-alikes, from a transformer's attention
model = VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=10)
torch.nn.init.normal_(model.heads[0].weight)
target = {"contrast": {"classes": 3}}
show("transformer", explain(model, pictures[..., :64], method="attention_relevance", target=target))

# of a video the frames that hold most of the heat
model = video.r3d_18(weights=None, num_classes=5)
show("video", explain(model, film, target=1))

# several classes a sample, here its labels; where a sample has fewer, -1 fills the row up and no map is shown
model = resnet18(weights=None, num_classes=5)
show("multi-label", explain(model, pictures, target=torch.tensor([[0, 2], [1, -1]])))
