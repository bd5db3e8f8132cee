"""pytorch-grad-cam's ROAD: the imputation is ours, the choice of pixels is not."""

import pytest
import torch

from lightning_cam.metrics.faithfulness.imputation import linear_imputation

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def test_pixels_are_imputed_as_by_pytorch_grad_cam():
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    x = torch.rand(2, 3, 14, 17, generator=torch.Generator().manual_seed(0))  # it takes single precision alone
    missing = torch.rand(2, 14, 17, generator=torch.Generator().manual_seed(1)) > 0.3
    found = linear_imputation(x.double(), missing)
    for i in range(2):
        theirs = road.NoisyLinearImputer(noise=0)(x[i], (~missing[i]).long())
        torch.testing.assert_close(found[i].float(), theirs, rtol=0, atol=1e-6)


def test_a_map_of_many_zeros_still_breaks_the_thresholds_of_pytorch_grad_cam():
    perturbation = pytest.importorskip("pytorch_grad_cam.metrics.perturbation_confidence")
    heat = torch.zeros(10, 10)
    heat[0] = torch.arange(1.0, 11)

    def kept(image, mask):
        return float(mask.mean())

    # half of the pixels should be there; of a map without zeros they are
    assert perturbation.RemoveMostRelevantFirst(50, kept)(torch.rand(1, 10, 10), heat) == 0
    assert perturbation.RemoveMostRelevantFirst(50, kept)(torch.rand(1, 10, 10), torch.rand(10, 10)) == 0.5
