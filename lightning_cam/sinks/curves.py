"""The first point of a TensorBoard curve, with the description that its first point alone can give."""

from collections.abc import Mapping
from typing import Any


def takes_descriptions(logger: Any) -> bool:
    """Whether a logger writes TensorBoard's events, under the very tags it is given."""
    # a class derived from these may do something of its own with what it is told to log
    is_board = type(logger).__name__ in ("TensorBoardLogger", "SummaryWriter")
    prefix = getattr(logger, "_prefix", None)
    return is_board and not prefix and hasattr(getattr(logger, "experiment", logger), "_get_file_writer")


def begin_curves(logger: Any, values: Mapping[str, float], descriptions: Mapping[str, str], step: int) -> None:
    """Write the first point of each curve and what it is; a curve without a value yet begins with NaN.

    TensorBoard keeps the description of a tag's first point, and Lightning's own scalars have none.

    Args:
        logger: a ``TensorBoardLogger`` or ``SummaryWriter``.
        values: by tag.
        descriptions: Markdown, by the same tags.
        step: where on the axis.
    """
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary, SummaryMetadata

    writer = getattr(logger, "experiment", logger)
    plugin = SummaryMetadata.PluginData(plugin_name="scalars")
    entries = []
    for tag, value in values.items():
        metadata = SummaryMetadata(
            summary_description=descriptions[tag],
            plugin_data=plugin,
            data_class=DATA_CLASS_SCALAR,
        )
        entries.append(Summary.Value(tag=tag, simple_value=value, metadata=metadata))
    writer._get_file_writer().add_summary(Summary(value=entries), step)
    writer.flush()
