"""How much of the evidence is on the maps, where class and register tokens may have the rest. b batch, t targets."""

from collections.abc import Mapping
from dataclasses import replace

from lightning_cam.capture.forward import Forward
from lightning_cam.capture.summary.evidence import known_shares
from lightning_cam.record import Record, to_host
from lightning_cam.training.notices import Notices

LITTLE = 0.3  # of the evidence on the map, below which a warning is due


def with_evidence(records: Mapping[str, Record], forward: Forward, notices: Notices) -> dict[str, Record]:
    """Records with the share of the evidence that is on their map, where maps or metrics took the gradient it needs."""
    layers = dict.fromkeys(record.layer for record in records.values() if _is_of_its_layer(record, forward))
    shares = {layer: known_shares(forward, layer) for layer in layers}
    known = {layer: share for layer, share in shares.items() if share is not None}
    if not known:
        return dict(records)
    on_host = dict(zip(known, to_host(list(known.values())), strict=True))
    for layer, share in on_host.items():
        if float(share.nanmean()) < LITTLE:
            notices.warn(_little(forward.title(layer), float(share.nanmean())), f"little evidence on the map of {layer}")
    return {
        tag: replace(record, on_map=on_host.get(record.layer)) if _is_of_its_layer(record, forward) else record
        for tag, record in records.items()
    }


def _is_of_its_layer(record: Record, forward: Forward) -> bool:
    """Whether a map shows the places of one layer: it is fused of no others, nor a map of the image's own, as occlusion is."""
    grid = forward.outputs[record.layer].layout.grid
    return record.title == forward.title(record.layer) and record.heat.shape[2:] == grid


def _little(layer: str, share: float) -> str:
    return (
        f"at the layer {layer!r} only {share:.0%} of the evidence (sum |gradient * activation|) is on the map; the rest is at "
        "class and register tokens, which have no place in a picture, and a clean map does not show where they have it from "
        "(arXiv 2505.05892). At an earlier layer more of it is at the patches still; attention_relevance follows it there."
    )
