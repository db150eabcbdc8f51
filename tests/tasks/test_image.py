"""Pictures: the model's size, channels and range of values."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image as pillow
from sklearn.datasets import load_digits

from adapad_ray.errors import BadRequestError
from adapad_ray.models import image_format, load_backbone
from adapad_ray.tasks import TYPES, RawTask, encode, load_task, parse_source

GREY = SimpleNamespace(size=8, channels=1, mean=(0.5,), deviation=(0.5,))
COLOUR = SimpleNamespace(size=4, channels=3, mean=(0.0, 0.5, 1.0), deviation=(1.0, 0.5, 0.25))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ADAPAD_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_digits_come_with_scikit_learn():
    raw = load_task("digits")
    assert (raw.name, raw.type, raw.class_names) == ("digits", "image", tuple(map(str, range(10))))
    assert sum(len(frame) for frame in raw.splits.values()) == 1_797
    data = encode(raw, GREY, max_length=128, max_train_examples=50)
    split = data.splits["train"]
    assert split.pixels.shape == (50, 1, 8, 8)
    known = {picture.tobytes(): label for picture, label in zip(*_digits(), strict=True)}
    for pixels, label in zip(split.pixels, split.labels, strict=True):
        assert known[pixels[0].tobytes()] == label
    batch = split.batch(np.arange(4), 0)
    values = batch["pixel_values"].numpy()
    np.testing.assert_allclose(values, split.pixels[:4] / 127.5 - 1, atol=1e-6)
    assert values.min() == -1 and values.max() == 1
    assert split.size_of(batch) == (4, 4)


def _digits():
    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def test_files_and_the_hub_s_own_pictures_are_read_alike(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows, embedded = [], []
    for i in range(60):
        picture = pillow.new("RGB", (4, 4), (i, 2 * i, 255 - i))
        picture.save(folder / f"{i}.png")
        content = io.BytesIO()
        picture.save(content, "png")
        rows.append({"image": f"pictures/{i}.png", "label": i % 2})
        embedded.append({"image": {"bytes": content.getvalue(), "path": None}, "label": i % 2})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(embedded).to_parquet(tmp_path / "train.parquet")
    found = []
    for name in ("train.jsonl", "train.parquet"):
        raw = load_task({"type": "image", "train": str(tmp_path / name)})
        data = encode(raw, COLOUR, max_length=128)
        found.append(np.concatenate([split.pixels for split in data.splits.values()]))
        assert found[-1].shape == (60, 3, 4, 4)
    red = [np.sort(pixels[:, 0, 0, 0]).tolist() for pixels in found]
    assert red[0] == red[1] == list(range(60))
    value = data.splits["train"].batch(np.arange(1), 0)["pixel_values"][0, :, 0, 0]
    pixel = data.splits["train"].pixels[0, :, 0, 0]
    assert value.tolist() == pytest.approx([p / 255 * a + b for p, a, b in zip(pixel, (1, 2, 4), (0, -1, -4))])


def raw_task(table, train):
    """The same rows in every split."""
    source, kind = parse_source({"type": "image", "train": train}), TYPES["image"]
    frame = kind.select(table, source, "train")
    frames, names = kind.number_labels(dict.fromkeys(("train", "validation", "test"), frame), source, "t")
    return RawTask("t", names, "accuracy", frames, "", "image", source)


def test_pictures_of_other_sizes_are_resized():
    table = pd.DataFrame({"image": [np.full((16, 12), 90, dtype=np.uint8)] * 2, "label": [0, 1]})
    data = encode(raw_task(table, "-"), COLOUR, max_length=128)
    assert (data.splits["train"].pixels == 90).all()
    assert data.splits["train"].pixels.shape == (2, 3, 4, 4)


def test_a_picture_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    table = pd.DataFrame({"image": ["a.png", "a.png"], "label": [0, 1]})
    with pytest.raises(BadRequestError, match=r"picture .*a\.png of the .* data cannot be read"):
        encode(raw_task(table, str(tmp_path / "t.csv")), GREY, max_length=128)


def test_the_format_is_the_model_s(tiny_model):
    found = image_format("tiny-vit")
    assert (found.size, found.channels, found.mean, found.deviation) == (8, 1, (0.5,), (0.5,))
    backbone = load_backbone("tiny-vit", 10, auto_class="AutoModelForImageClassification")
    assert backbone.head_modules == ("classifier",)
    assert backbone.tokenizer is None and backbone.pad_token_id == 0
    with pytest.raises(BadRequestError, match="an image task needs a model of square images"):
        image_format(str(tiny_model))
