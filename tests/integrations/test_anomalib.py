"""anomalib's own modules, datamodule and Engine: the score of an anomaly, before its post-processor cuts it to 0 to 1."""

import cv2
import numpy as np
import pytest
from real_fit import assert_by_hand, fit_twice

from lightning_cam import Batch, CAMCallback

pytest.importorskip("anomalib")

from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Fastflow, Ganomaly

pytestmark = [pytest.mark.slow, pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

SIDE = 64


def score(module, images, batch):
    """What the module's own forward does, but for its post-processor, whose limits let no gradient through."""
    return module.model(module.pre_processor(images))


@pytest.fixture
def folder(tmp_path):
    """Photographs of a surface, some with a scratch, and where that is."""
    for kind, n in (("good", 8), ("bad", 8), ("mask", 8)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(n):
            picture = np.random.RandomState(i).randint(60, 110, (SIDE, SIDE, 3)).astype(np.uint8)
            if kind == "mask":
                picture[:] = 0
            if kind != "good":
                picture[20:36, 4 * i : 4 * i + 24] = 255
            cv2.imwrite(str(tmp_path / "data" / kind / f"{i:03d}.png"), picture)
    return tmp_path


def fit(folder, make, callback):
    def run(logs, callbacks):
        surfaces = Folder(
            "surfaces",
            root=folder / "data",
            normal_dir="good",
            abnormal_dir="bad",
            mask_dir="mask",
            train_batch_size=2,
            eval_batch_size=4,
            num_workers=0,
            val_split_mode="same_as_test",
            seed=0,
        )
        module = make()
        options = dict(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False)
        Engine(max_epochs=2, callbacks=callbacks, default_root_dir=str(logs), **options).fit(module, datamodule=surfaces)
        return module

    return fit_twice(folder, run, callback)


def watching(layer, **options):
    """The callback of both tests."""
    batch = Batch(4, label="gt_label", regions="gt_mask")
    return CAMCallback(layer, forward=score, output="pred_score", target="value", batch=batch, on_error="raise", **options)


def test_a_normalizing_flow(folder):
    def make():
        return Fastflow(pre_trained=False, flow_steps=1, pre_processor=Fastflow.configure_pre_processor((SIDE, SIDE)))

    watched = fit(folder, make, watching("model.norms.2"))
    module, x = watched.module, watched.batch.image
    layer = module.model.norms[2]
    assert_by_hand(watched, layer, lambda: module.model(module.pre_processor(x)).pred_score.flatten(), tolerance=1e-5)
    assert watched.records[0].values["energy_inside"].shape == (4, 1)


def test_a_generator_that_is_optimised_by_hand(folder):
    """Two optimizers, manual optimization; the layer is found by itself: what the second encoder makes of the copy."""

    def make():
        small = dict(batch_size=2, n_features=8, latent_vec_size=8)
        return Ganomaly(**small, pre_processor=Ganomaly.configure_pre_processor((SIDE, SIDE)))

    watched = fit(folder, make, watching(None))
    assert watched.layer == "model.generator.encoder2.pyramid_features"
    module, x = watched.module, watched.batch.image
    layer = module.model.generator.encoder2.pyramid_features
    assert_by_hand(watched, layer, lambda: module.model(module.pre_processor(x)).pred_score, tolerance=1e-5)
