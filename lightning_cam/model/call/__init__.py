"""How a model is called; nothing else calls a model."""

from lightning_cam.model.call.inputs import Inputs as Inputs
from lightning_cam.model.call.model_call import ModelCall as ModelCall
from lightning_cam.model.call.options import ForwardOption as ForwardOption
from lightning_cam.model.call.options import ModelOption as ModelOption
from lightning_cam.model.call.options import check_forward as check_forward
from lightning_cam.model.call.options import find_model as find_model
