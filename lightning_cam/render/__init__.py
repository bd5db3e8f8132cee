"""Image and heat to one uint8 picture, on the device."""

from lightning_cam.render.overlay import blend as blend
from lightning_cam.render.overlay import looks_normalized as looks_normalized
from lightning_cam.render.overlay import shown as shown
from lightning_cam.render.overlay import to_rgb as to_rgb
from lightning_cam.render.picture import Picture as Picture
from lightning_cam.render.picture import encode as encode
from lightning_cam.render.picture import to_host as to_host
from lightning_cam.render.style import Style as Style
from lightning_cam.render.text import Caption as Caption
from lightning_cam.render.views import displayable as displayable
from lightning_cam.render.views import flat as flat
from lightning_cam.render.views import overlays as overlays
