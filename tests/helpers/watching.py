"""What a callback does in a run, written down: its moments and its batches."""

from nets import cam, fit
from torch import Tensor


def watched(callback):
    """The moments at which a callback looks, in order."""
    moments: list = []
    callback.watcher.observers.append(lambda result: moments.append(result.moment))
    return moments


def given_to_model(callback):
    """What the model is called with in every look, in order."""
    inputs: list[Tensor] = []
    watcher, compute = callback.watcher, callback.watcher.compute

    def observed(moment):
        handle = watcher.model.register_forward_pre_hook(lambda module, args: inputs.append(args[0].clone()))
        try:
            return compute(moment)
        finally:
            handle.remove()

    watcher.compute = observed
    return inputs


def batches(folder, val=None, net=None, train=None, callback_batch=4, seen_by_model=False, layer="relu", before=(), **options):
    """The batch of every look, as the callback keeps it or as the model is given it."""
    callback, shown = cam(layer, batch=callback_batch, metrics=[], on_error="raise"), []
    callback.watcher.observers.append(lambda result: shown.append(result.batch))
    inputs = given_to_model(callback) if seen_by_model else []
    fit(folder, [*before, callback], net, train=train, val=val, **options)
    return inputs if seen_by_model else shown
