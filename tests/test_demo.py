import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import shufflenet_v2_x0_5

pytest.importorskip("sklearn")
EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import digits  # noqa: E402


def run_demo(out: Path, *options: str) -> str:
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--quick", "--out", str(out), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def paths_in(text: str, ending: str) -> list[Path]:
    return [Path(line.strip()) for line in text.splitlines() if line.strip().endswith(ending)]


def covered(*boxes: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(digits.SIZE, digits.SIZE, dtype=torch.bool)
    for x0, y0, x1, y1 in (box.tolist() for box in boxes):
        mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("tags", ["agree", "random"])
def test_outside_the_two_boxes_a_picture_is_the_photograph(split, tags):
    data = digits.TaggedDigits(split, tags, 200)
    for i in range(0, 200, 7):
        sample = data[i]
        mask = covered(sample["digit"], sample["tag"])
        assert torch.equal(sample["image"][:, ~mask], data.background(i)[:, ~mask])
        assert sample["image"].shape == (3, digits.SIZE, digits.SIZE)
        assert sample["image"].amin() >= 0 and sample["image"].amax() <= 1


def test_the_digits_box_is_tight_and_apart_from_the_tag():
    data = digits.TaggedDigits("val", "agree", 200)
    for i in range(0, 200, 7):
        sample = data[i]
        x0, y0, x1, y1 = sample["digit"].tolist()
        written = (sample["image"] != data.background(i)).any(0)[y0:y1, x0:x1]
        assert written[0].any() and written[-1].any() and written[:, 0].any() and written[:, -1].any()
        assert not (covered(sample["digit"]) & covered(sample["tag"])).any()


def colours(data: digits.TaggedDigits) -> list[int]:
    found = []
    for i in range(len(data)):
        x0, y0, x1, y1 = data[i]["tag"].tolist()
        colour = data[i]["image"][:, (y0 + y1) // 2, (x0 + x1) // 2] * 255
        found.append(digits.COLOURS.index(tuple(colour.round().int().tolist())))
    return found


def test_the_tag_agrees_or_says_nothing():
    agree, random = (digits.TaggedDigits("train", tags, 500) for tags in ("agree", "random"))
    labels = [agree.label(i) for i in range(500)]
    assert colours(agree) == labels
    hits = sum(colour == label for colour, label in zip(colours(random), labels, strict=True))
    assert 25 < hits < 80  # one in ten by chance


def test_a_sample_depends_on_seed_and_index_alone():
    one, same, other = (digits.TaggedDigits("train", "random", 3000, seed) for seed in (1, 1, 2))
    for i in (0, 1500, 2999):
        torch.rand(3)
        assert all(torch.equal(one[i][key], same[i][key]) for key in one[i])
        assert not torch.equal(one[i]["image"], other[i]["image"])
    assert one.label(0) == one.label(1400) and not torch.equal(one[0]["digit"], one[1400]["digit"])  # placed anew
    with pytest.raises(IndexError):
        one[3000]


def test_training_and_validation_share_no_digit_and_no_photograph():
    train, val = (digits.TaggedDigits(split, "agree", 1) for split in ("train", "val"))
    assert len(train.glyphs) + len(val.glyphs) == 1797
    assert not {glyph.numpy().tobytes() for glyph in train.glyphs} & {glyph.numpy().tobytes() for glyph in val.glyphs}
    assert all(not torch.equal(a, b) for a, b in zip(train.photographs, val.photographs, strict=True))


def test_watched_samples_take_turns_in_class():
    data = digits.TaggedDigits("val", "agree", 100)
    assert [data.label(i) for i in data.some_of_each(16)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9]


@pytest.mark.slow
def test_demo_prints_its_table_and_leaves_its_pictures(tmp_path):
    out = run_demo(tmp_path)
    lines = [line.split() for line in out.splitlines()]
    head = "epoch accuracy on digit on tag drift its floor by features by the head settled at"
    assert head.split() in lines
    rows = [line for line in lines if len(line) in (6, 9) and line[0] in ("start", "1", "2")]
    assert [row[0] for row in rows] == ["start", "1", "2"]
    assert all(0 <= float(number) <= 1 for row in rows for number in row[1:4])
    for row in rows[1:]:  # what features and head moved sums to the drift
        assert float(row[4]) == pytest.approx(float(row[6]) + float(row[7]), abs=0.0011)
    assert float(rows[0][-1]) == 0 <= float(rows[2][-1]) <= 2
    pictures = paths_in(out, ".jpg")
    assert len(pictures) == 2 and all(min(Image.open(path).size) > 300 for path in pictures)
    assert f"tensorboard --logdir {tmp_path}/digits/version_0 --samples_per_plugin images=100" in out
    assert list(tmp_path.glob("digits/version_0/events.*"))


@pytest.mark.slow
def test_demo_takes_a_folder_of_pictures_and_weights_from_a_file(tmp_path):
    for part in ("train", "val"):
        for c, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (50, 40), (200 * c, 60 * i, 90)).save(folder / f"{name}{i}.png")
    weights = tmp_path / "weights.pt"
    torch.save(shufflenet_v2_x0_5(num_classes=7).state_dict(), weights)
    given = ["--weights", str(weights), "--size", "64", "--batch-size", "4", "--epochs", "1"]
    out = run_demo(tmp_path / "logs", "--data", str(tmp_path / "pets"), "--model", "shufflenet_v2_x0_5", *given)
    tensors = len(shufflenet_v2_x0_5().state_dict())
    assert f"{tensors - 2} of the model's {tensors} tensors taken" in out  # all but the head of seven classes
    assert "start" in out and "on digit" not in out
    assert len(paths_in(out, ".jpg")) == 2 and (tmp_path / "logs" / "pets" / "version_0" / "metrics.csv").is_file()
