"""Where objects are, from files beside the pictures: read, found by the pictures' names, and carried to what the model sees."""

from lightning_cam.data.annotations.annotations import Annotations as Annotations
