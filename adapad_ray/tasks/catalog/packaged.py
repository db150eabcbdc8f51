"""Tasks whose rows come from packages instead of files: film reviews and handwritten digits."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from adapad_ray.assets import Asset, fetch, find_asset
from adapad_ray.tasks.data.tables import Tables
from adapad_ray.tasks.source import DataSource
from adapad_ray.tasks.types.classification import ClassificationSource
from adapad_ray.tasks.types.image import ImageSource

DIGITS = "digits"


class DigitsSource(ImageSource):
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

    def read_tables(self) -> Tables:
        """All digits as training rows."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        table = pd.DataFrame({"image": list(images), "label": digits.target})
        digest = hashlib.sha256(images.tobytes() + digits.target.astype(np.int64).tobytes()).hexdigest()
        return Tables(DIGITS, {"train": table}, digest)


class ReviewsSource(ClassificationSource):
    """Rotten Tomatoes' review snippets: `text`, `label` (fresh or rotten) and `group` (the film)."""

    def read_tables(self) -> Tables:
        """All reviews as training rows.

        Plot summaries are left out, and a snippet that belongs to two films stays with the first.
        """
        asset = find_asset("task", "rotten-tomatoes")
        assert asset is not None and self.train is not None
        frame = pd.read_csv(fetch(asset) / self.train)
        frame = frame[frame["category"] != "plot"].drop_duplicates("text")
        columns = {"text": "text", "category": "label", "movie_name": "group"}
        table = frame[list(columns)].rename(columns=columns).reset_index(drop=True)
        return Tables(asset.name, {"train": table}, asset.sha256)


def packaged_source(name: str) -> DataSource | None:
    """The packaged task of this name, or None."""
    if name == DIGITS:
        return DigitsSource(type="image", train=DIGITS)
    asset: Asset | None = find_asset("task", name)
    return None if asset is None else ReviewsSource(train=asset.members[0], group="group")
