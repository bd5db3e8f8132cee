"""One look at a model, without a Trainer: raw maps, overlays, and the three best classes of each picture.

python examples/02_explain.py
"""

import torch
from torchvision.models import mobilenet_v2

from lightning_cam import Style, explain

torch.manual_seed(0)
model = mobilenet_v2(weights=None, num_classes=10)
images = torch.rand(2, 3, 96, 96)

explanation = explain(model, images, target={"top_k": {"k": 3}})
print(f"layer {explanation.layer}, raw maps {tuple(explanation.heat.shape)}, classes {explanation.classes.tolist()}")

explanation = explain(model, images, method="cam", target=4)
print(f"class 4: the map averages to {explanation.heat.mean((1, 2)).tolist()}, the logit is {explanation.score.tolist()}")
for path in explanation.save("out", names=["first", "second"], style=Style(colormap="viridis")):
    print(path)
