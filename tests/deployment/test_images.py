"""An exported adapter of a model of images."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import torch
from peft import AutoPeftModel
from PIL import Image
from sklearn.datasets import load_digits
from small_tasks import compute

from adapad_ray.deployment.prediction import load_exported
from adapad_ray.sweep.export import AdapterChoice, export_adapter
from adapad_ray.sweep.spec_file import parse_spec


def test_images_are_predicted_from_files_beside_the_table(tmp_path):
    content = {
        "name": "digits",
        "model": "tiny-vit",
        "task": "digits",
        "methods": {"dora": {"target_modules": "all-linear"}},
        "budgets": ["40 ranks"],
        "seeds": [0],
        "training": {"epochs": 0.2, "max_train_examples": 300, "max_test_examples": 50, "max_validation_examples": 50},
    }
    results = compute(parse_spec(content), tmp_path)
    budget = str(results["dora"].identity.budget)
    assert export_adapter(tmp_path, tmp_path / "out", AdapterChoice("dora", budget)).warnings == []
    place = tmp_path / "pictures"
    place.mkdir()
    digits = load_digits()
    for i in range(6):
        pixels = np.round(digits.images[i] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
    (place / "rows.csv").write_text("image\n" + "".join(f"{i}.png\n" for i in range(6)))
    model = load_exported(tmp_path / "out")
    rows = model.read(str(place / "rows.csv"), answers=False)
    found = model.predict(rows, place)
    assert found["image"].tolist() == [f"{i}.png" for i in range(6)]
    assert found.filter(like="probability").shape == (6, 10)
    loaded = AutoPeftModel.from_pretrained(str(tmp_path / "out"), num_labels=10).eval()
    pixels = torch.rand(2, model.reader.channels, model.reader.size, model.reader.size)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(pixel_values=pixels).logits, model.model(pixel_values=pixels).logits)
    program = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(program.replace('"out"', repr(str(tmp_path / "out"))).replace("…", str(place / "3.png")), names)
    assert found["prediction"][3] == names["names"][int(names["logits"].argmax())]
    ours = model.kind.encode_split(
        None, pd.DataFrame({"image": [place / "3.png"], "label": [0]}), "test", model.reader, 0
    ).batch([0], 0)["pixel_values"]
    theirs = names["processor"](Image.open(place / "3.png"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
