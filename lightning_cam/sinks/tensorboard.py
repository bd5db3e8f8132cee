"""TensorBoard: encoded once, with a description."""

from typing import Any

from lightning_cam.render.picture import Picture
from lightning_cam.sinks.registry import register


@register("TensorBoardLogger", "SummaryWriter")
def tensorboard(logger: Any, tag: str, picture: Picture, step: int) -> None:
    """Write an encoded picture; ``add_image`` would store a PNG five times the size, and no description."""
    writer = getattr(logger, "experiment", logger)  # a SummaryWriter is its own
    file_writer = getattr(writer, "_get_file_writer", None)
    # another writer with the same methods, tensorboardX for one
    if file_writer is None:
        writer.add_image(tag, picture.pixels, step, dataformats="HWC")
        return
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    h, w, _ = picture.pixels.shape
    image = Summary.Image(
        height=h,
        width=w,
        colorspace=3,
        encoded_image_string=picture.encode(),
    )
    # without the plugin's name, those who read the log through EventAccumulator are told that the tag belongs to none
    plugin = SummaryMetadata.PluginData(plugin_name="images")
    metadata = SummaryMetadata(
        summary_description=picture.description,
        plugin_data=plugin,
    )
    entry = Summary.Value(tag=tag, image=image, metadata=metadata)
    file_writer().add_summary(Summary(value=[entry]), step)
    writer.flush()
