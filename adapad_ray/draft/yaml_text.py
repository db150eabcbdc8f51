"""Values and comments of a YAML file that people read."""

from __future__ import annotations

import json
import re

from adapad_ray.safe_yaml import read_yaml


def value(text: str) -> str:
    """A text as YAML reads it back: plain where it is a word or a path, else in quotation marks."""
    plain = re.fullmatch(r"[A-Za-z_./~][\w./~-]*", text, re.ASCII) and read_yaml(text, "") == text
    return text if plain else json.dumps(text, ensure_ascii=False)


def comment(text: str) -> str:
    """A text in a comment: one line, printable, not long."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))
    return line if len(line) <= 60 else line[:59] + "…"
