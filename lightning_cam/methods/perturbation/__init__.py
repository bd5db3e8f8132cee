"""Methods that change what the model is given, or what a layer returns, and read the score: no gradient is needed."""

from lightning_cam.methods.perturbation.layer import ablation_cam as ablation_cam
from lightning_cam.methods.perturbation.layer import recipro_cam as recipro_cam
from lightning_cam.methods.perturbation.layer import token_ablation as token_ablation
from lightning_cam.methods.perturbation.masking import is_cam as is_cam
from lightning_cam.methods.perturbation.masking import score_cam as score_cam
from lightning_cam.methods.perturbation.masking import ss_cam as ss_cam
from lightning_cam.methods.perturbation.occlusion import occlusion as occlusion
from lightning_cam.methods.perturbation.occlusion import rise as rise
