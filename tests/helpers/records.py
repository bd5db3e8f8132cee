"""A Record of maps made by hand."""

from lightning_cam.capture.summary.predictions import predict
from lightning_cam.heat import maximum
from lightning_cam.record import Moment, Record


def record_of(forward, heat):
    """What a look would have recorded of these maps, [b t *m]."""
    flat, shape = heat.flatten(0, 1), forward.scores.score.shape
    return Record(
        moment=Moment(3, "epoch 1", "1"),
        tag="layer/method",
        layer="layer",
        title="layer",
        method="method",
        heat=heat,
        score=forward.scores.score.detach(),
        absent=forward.scores.choice.absent,
        strength=maximum(flat).reshape(shape),
        against=maximum(-flat).reshape(shape),
        predictions=predict(forward),
    )
