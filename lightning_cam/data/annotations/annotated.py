"""Samples loaded together with the masks of the objects that files mark in them. b batch, h w image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lightning_cam.data.annotations.annotations import Annotations
from lightning_cam.data.annotations.carried import carrying
from lightning_cam.data.batch import FixedBatch
from lightning_cam.data.dataset import path_of

Masks = Mapping[str, Bool[Tensor, "b h w"]]


def load_annotated(dataset: Any, indices: Sequence[int], annotations: Mapping[str, Annotations]) -> tuple[list[Any], Masks]:
    """Samples of a dataset, and by region the masks of what is marked in them, of the size that the transform gives.

    A picture that a file does not have, or in which it marks nothing, has an empty mask.

    Raises:
        ValueError: for a dataset that keeps no file names or no transform, one whose transform is applied elsewhere, and a
            file that has none of the pictures.
    """
    if not annotations:
        return [dataset[i] for i in indices], {}
    paths = [_path(dataset, i) for i in indices]
    for file in annotations.values():
        file.refuse_strangers(paths)
    samples = []
    with carrying(dataset) as carrier:
        for index, path in zip(indices, paths, strict=True):
            carrier.shapes = {name: file.of(path) or [] for name, file in annotations.items()}
            samples.append(dataset[index])
    if len(carrier.masks) != len(samples):
        raise ValueError(
            f"{type(dataset).__name__} ran its transform {len(carrier.masks)} times for {len(samples)} samples, so where their "
            "objects went is not known. Give the regions out of the batch, Batch(regions='mask')."
        )
    sizes = {tuple(mask.shape) for masks in carrier.masks for mask in masks.values()}
    if len(sizes) > 1:
        raise ValueError("The pictures watched differ in size behind the dataset's transform; resize them to one size.")
    return samples, {name: torch.stack([masks[name] for masks in carrier.masks]) for name in annotations}


def with_masks(batch: FixedBatch, masks: Masks) -> FixedBatch:
    """A batch with further regions.

    Raises:
        ValueError: where its pictures changed in size behind the dataset's transform.
    """
    pictures = batch.pictures
    for name, mask in masks.items():
        if mask.shape[1:] != pictures.shape[2:]:
            raise ValueError(
                f"Behind the dataset's transform pictures are {tuple(mask.shape[1:])}, in the batch "
                f"{tuple(pictures.shape[2:])}: where the objects of {name!r} went is not known. Resize them in the dataset's "
                "transform."
            )
    return replace(batch, regions={**batch.regions, **{name: mask.to(pictures.device) for name, mask in masks.items()}})


def refuse_annotations(annotations: Mapping[str, Annotations], samples: str) -> None:
    """Refuse annotations for samples that come from no file.

    Raises:
        ValueError: where there are any.
    """
    if annotations:
        raise ValueError(
            f"Annotations are found by file names, and {samples} has no file names. Choose samples of the dataset, "
            "Batch(samples=16, regions=...), or give the regions out of the batch, Batch(regions='mask')."
        )


def _path(dataset: Any, index: int) -> str:
    path = path_of(dataset, index)
    if path is None:
        raise ValueError(
            f"{type(dataset).__name__} keeps no file names (.samples or .imgs, as ImageFolder does), by which annotations are "
            "found. Give the regions out of the batch, Batch(regions='mask')."
        )
    return path
