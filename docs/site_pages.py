"""Pages of the site that other files hold: the README, the guides beside the code, and the reference.

MkDocs calls the functions `on_*` (`mkdocs.yml`).
"""

from __future__ import annotations

import ast
import inspect
import posixpath
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import adapad_ray
from adapad_ray.methods import METHODS
from adapad_ray.report.published import PublishedPoint
from adapad_ray.search.settings import SearchStage, TuneStage
from adapad_ray.sweep.spec import CheckpointPeriod, MethodEntry, Resources, SweepSpec
from adapad_ray.training.settings import TrainingSettings

REPOSITORY = Path(__file__).parent.parent
ELSEWHERE = {
    "index.md": "README.md",
    "extend/methods.md": "adapad_ray/methods/README.md",
    "extend/tasks.md": "adapad_ray/tasks/README.md",
    "extend/report.md": "adapad_ray/report/README.md",
    "results.md": "benchmarks/RESULTS.md",
}
"""Page → the file of the repository that holds its text."""
SECTIONS: dict[str, type[BaseModel]] = {
    "The sweep": SweepSpec,
    "methods.&lt;label&gt;": MethodEntry,
    "training": TrainingSettings,
    "tune": TuneStage,
    "search": SearchStage,
    "resources": Resources,
    "checkpoint": CheckpointPeriod,
    "published": PublishedPoint,
}
"""Key of the sweep's file → its model."""
SIGNS = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages whose text is not in docs/."""
    pages = {page: (REPOSITORY / path).read_text(encoding="utf-8") for page, path in ELSEWHERE.items()}
    pages["reference/sweep-file.md"] = "\n".join(_sweep_file())
    pages["reference/python.md"] = "\n".join(_python())
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links between files of the repository as links between pages."""
    name = page.file.src_uri
    folder = posixpath.dirname(ELSEWHERE.get(name, f"docs/{name}"))
    pages = {path: page for page, path in ELSEWHERE.items()}

    def link(match: re.Match[str]) -> str:
        image, text, address, anchor = match["image"], match["text"], match["address"], match["anchor"] or ""
        path = posixpath.normpath(posixpath.join(folder, address))
        if not (REPOSITORY / path).exists():
            raise PluginError(f"{name}: the link to {address} leads nowhere")
        target = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if target is None:  # a file of the repository that is not on the site
            return text if path in text else f"{text} (`{path}`)"
        return f"{image}[{text}]({posixpath.relpath(target, posixpath.dirname(name) or '.')}{anchor})"

    return re.sub(_LINK, link, markdown)


_LINK = r"(?P<image>!?)\[(?P<text>[^\]\n]*)\]\((?![a-z]+:|#)(?P<address>[^)#\s]+)(?P<anchor>#[^)]*)?\)"


def _sweep_file() -> Iterator[str]:
    """Every field of a sweep's file, from the models that validate it."""
    yield "# Fields of a sweep's file\n"
    yield "From the models that validate the file. [A sweep of your own data](../sweep-file.md) explains them.\n"
    for key, model in SECTIONS.items():
        yield from _model(key, model)
    yield "## Settings of methods\n"
    yield "They stand under a label of `methods`, beside the fields above.\n"
    for name, method in METHODS.items():
        if method.Config.model_fields:
            yield from _model(name, method.Config, level=3)


def _model(title: str, model: type[BaseModel], level: int = 2) -> Iterator[str]:
    meanings = _meanings(model)
    yield f"{'#' * level} {title}\n"
    yield f"{inspect.cleandoc(model.__doc__ or '')}\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for name, field in model.model_fields.items():
        cells = [f"`{name}`", _type(field), _default(field), meanings.get(name, "")]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field → the docstring below it, also of the classes that the model inherits from."""
    meanings: dict[str, str] = {}
    for base in reversed([base for base in model.__mro__ if issubclass(base, BaseModel) and base is not BaseModel]):
        (body,) = [
            node.body
            for node in ast.parse(textwrap.dedent(inspect.getsource(base))).body
            if isinstance(node, ast.ClassDef)
        ]
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                meanings[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return meanings


def _type(field: FieldInfo) -> str:
    bounds = [f"{SIGNS[type(m)]} {getattr(m, type(m).__name__.lower())}" for m in field.metadata if type(m) in SIGNS]
    return ", ".join([_words(field.annotation), *bounds])


def _words(annotation: Any) -> str:
    """A type in words: `list[int] | None` → `list of int or none`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (None, type(None)):
        return "none"
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, arguments))
    if origin is Annotated:
        return _words(arguments[0])
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"{_words(arguments[0])} → {_words(arguments[1])}"
    return "any" if annotation is Any else str(getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default: Any = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return "the defaults below"
    return "none" if default is None else f"`{default!r}`"


def _python() -> Iterator[str]:
    """The functions of `adapad_ray`, from their docstrings."""
    yield "# Python functions\n"
    yield "`import adapad_ray as ar` gives these functions. [From Python](../python.md) has examples.\n"
    for name, module in adapad_ray._API.items():
        yield f"::: adapad_ray.api.{module}.{name}\n    options:\n      heading: ar.{name}\n"
