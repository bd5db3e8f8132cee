"""Methods: ``Seen -> heat [b u v]``. ``names()`` lists them, ``@register`` adds one."""

from lightning_cam.family import METHODS
from lightning_cam.methods.activation import activation_mean as activation_mean
from lightning_cam.methods.activation import cam as cam
from lightning_cam.methods.gradient import grad_cam as grad_cam

find = METHODS.find
names = METHODS.names
register = METHODS.register
