"""``explain``: one look at a model, without a run. b batch, t targets, m map (u v for pictures), h w image."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.fabric.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_cam.capture.session import open_session
from lightning_cam.capture.summary.predictions import class_probabilities
from lightning_cam.data.batch import Batch
from lightning_cam.data.loader import load_samples
from lightning_cam.explanation import Explanation as Explanation
from lightning_cam.methods.apply import map_plans
from lightning_cam.methods.fusion import find_fusion
from lightning_cam.model.call import ForwardOption, ModelCall, check_forward
from lightning_cam.model.output import Output
from lightning_cam.registry import METHODS
from lightning_cam.targets.adapters import find


def explain(
    model: nn.Module,
    images: Tensor | Batch,
    *,
    layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
    method: Any = "grad_cam",
    target: Any = "predicted",
    forward: ForwardOption = None,
    batch: Any = None,
    output: Output = None,
    fuse: str | dict[str, Any] | Callable[..., Any] | None = None,
) -> Explanation:
    """Look at a model once. The model is left as it was: modes, gradients, buffers, hooks, random states.

    Args:
        model: any module; it is explained in evaluation mode, on the device it is on.
        images: one image [c h w] or a batch [b c h w], prepared as the model expects it; for a model that begins with a
            convolution over one or three dimensions, signals [c l] or [b c l], volumes [c d h w] or [b c d h w]. Or a ``Batch``
            handed in, ``Batch(samples=batch, image=..., picture=...)``, which says what of it is shown.
        layer: dotted name or module, or several to fuse; by default the last module that returns a map.
        method: a name of ``lightning_cam.methods.names()``, with options as ``{name: {option: value}}``, or a callable.
        target: a name of ``lightning_cam.targets.names()`` that needs no labels, such as ``"predicted"``, with options as
            ``{"top_k": {"k": 5}}``; a class for all, classes [b], or [b t] with -1 where a sample has fewer; a callable, or a
            list of these.
        forward: how the model is run: by default on the images, and on what else its ``forward`` asks for by name, out of
            ``batch``; a method's name; or a callable ``(model, images, batch) -> output``.
        batch: what else belongs to the images, such as ``{"place": place}``.
        output: where the logits are in the model's output: key, position, attribute or callable.
        fuse: how the maps of several layers become one: a name of ``lightning_cam.fuse.names()`` or a callable.

    Raises:
        ValueError: for anything that names something the model, the layer or a family does not have.

    Example:
        >>> explain(resnet18(), torch.rand(2, 3, 224, 224)).heat.shape
        torch.Size([2, 7, 7])
    """
    entry = METHODS.find(method)
    chosen_target = find(target)
    layers = _listed(layer)
    fusion = find_fusion(fuse, layers)
    if len(layers) > 1 and fusion is None:
        raise ValueError(f"{len(layers)} layers give {len(layers)} maps: name one layer, or fuse='mean' to make one of them.")
    samples = load_samples(model, images, batch)
    call = ModelCall(check_forward(forward), samples.inputs, samples.picture)
    with open_session(model, layers, samples.images, output=output, call=call) as session:
        result = session.forward(samples.images, chosen_target)
        # a single method, and several layers are fused, so there is a single plan
        (plan,) = map_plans(session.layers, [entry], fusion)
        heat = plan.heat(result)
        title = plan.title(result)
        on_map = plan.on_map(result)
        for text in result.in_words():
            rank_zero_info(f"explain: {text}")
    choice = result.target_scores.choice
    if choice.note:
        rank_zero_info(f"explain: {choice.note}")
    # a graph held by the result would hold the model's activations too
    score = result.target_scores.score.detach()
    classes = None
    if choice.logit:
        classes = choice.classes
    if choice.single:
        heat = heat[:, 0]
        score = score[:, 0]
    if choice.single and classes is not None:
        classes = classes[:, 0]
    if choice.single and on_map is not None:
        on_map = on_map[:, 0]
    return Explanation(
        heat,
        score,
        result.logits,
        classes,
        title,
        entry.label,
        samples.pictures,
        on_map,
        choice.names,
        class_probabilities(result),
    )


def _listed(layer: Any) -> list[str | nn.Module]:
    if layer is None:
        return []
    if isinstance(layer, list | tuple):
        return list(layer)
    return [layer]
