"""What a callback does in a run, written down: its moments and its batches."""

from nets import cam, fit
from torch import Tensor


def watched(callback):
    """The moments at which a callback looks, in order."""
    moments, look = [], callback._look

    def tell(run, module, moment, folder):
        moments.append(moment)
        return look(run, module, moment, folder)

    callback._look = tell
    return moments


def batches(folder, val=None, net=None, train=None, callback_batch=4, seen_by_model=False, layer="relu", before=(), **options):
    """The batch of every look, as the callback keeps it or as the model is given it."""
    callback, found = cam(layer, batch=callback_batch, on_error="raise"), []
    keep, look = callback._fixed_batch, callback._look

    def fixed(*args):
        found.append(keep(*args))
        return found[-1]

    callback._fixed_batch = fixed
    if seen_by_model:

        def watched(run, module, *rest):
            handle = module.register_forward_pre_hook(lambda m, args: found.append(args[0].clone()))
            try:
                return look(run, module, *rest)
            finally:
                handle.remove()

        callback._look = watched
    fit(folder, [*before, callback], net, train=train, val=val, **options)
    return [b for b in found if isinstance(b, Tensor)] if seen_by_model else found
