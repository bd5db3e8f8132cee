"""On photographs and a pretrained net: a run of 300 epochs at the defaults stays small, and can be read again.

``pytest tests/real/test_run_size.py -s`` prints what takes the room.
"""

import pytest
import torch
from photographs import MEAN, NEEDS_DATA, STD, picture, table, whole
from run_records import differing
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch.utils.tensorboard import SummaryWriter

from lightning_cam import Style, Watcher, records

pytestmark = [NEEDS_DATA, pytest.mark.slow]
LOOKS = 301  # 300 epochs and the baseline
FEW = 21


def kind_of(tag):
    return tag.rpartition("/")[2]


@pytest.fixture(scope="module")
def run(nets, tmp_path_factory):
    """A few looks at weights that move, their Records, and the bytes of each kind of event."""
    folder = tmp_path_factory.mktemp("run")
    names = list(dict.fromkeys(row["file"] for row in table("animals/val/boxes.csv")))[:16]
    images = torch.stack([whole(picture(f"animals/val/{name}")) for name in names])
    net, logger = nets["squeezenet"], SummaryWriter(folder)
    style = Style(mean=tuple(MEAN), std=tuple(STD))
    watcher = Watcher(net, images, target="predicted", style=style, loggers=[logger], on_error="raise")
    kept = []
    for step in range(FEW):
        kept.extend(watcher.look(step))
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.01 * p.abs().mean() * torch.randn_like(p))
    watcher.close()
    sizes: dict[str, list[int]] = {}
    for path in folder.rglob("*tfevents*"):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                sizes.setdefault(kind_of(value.tag), []).append(value.ByteSize() + 40)
    return folder, kept, sizes


def test_three_hundred_epochs_at_the_defaults_stay_under_150_megabytes(run):
    _, _, sizes = run
    assert len(sizes["grad_cam"]) == len(sizes["record"]) == FEW and len(sizes["samples"]) == 1
    filmstrips = 8 + sum(place % 5 == 0 for place in range(8, LOOKS))
    assert len(sizes["filmstrip"]) == 8 + sum(place % 5 == 0 for place in range(8, FEW))
    total = LOOKS * (max(sizes["grad_cam"]) + max(sizes["record"])) + filmstrips * max(sizes["filmstrip"]) + sizes["samples"][0]
    for kind, each in sizes.items():
        print(f"{kind}: {len(each)} of {max(each) / 1e3:.1f} kB at most")
    print(f"{LOOKS} looks: {total / 1e6:.0f} MB")
    assert 50e6 < total < 150e6
    assert max(sizes["record"]) < 9_000 and sizes["samples"][0] < 500_000


def test_the_record_of_real_maps_is_what_they_were(run):
    folder, kept, _ = run
    looks = records.read(folder).looks
    assert [differing(one, look.records[0]) for one, look in zip(kept, looks, strict=True)] == [[]] * FEW
    assert len(looks[0].samples.pictures) == 16
