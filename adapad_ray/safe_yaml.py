"""YAML that somebody else wrote, read in bounded time and memory.

Safe YAML creates no objects, but a kilobyte of it can still stand for gigabytes: aliases that repeat aliases, or
numbers with a million digits.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from adapad_ray.errors import BadRequestError

LONGEST_TEXT = 200_000
"""Characters of a sweep's file. Ours, as are the next two."""
MOST_VALUES = 100_000
"""Values of a file, counted as often as its aliases repeat them."""
LONGEST_NUMBER = 100
"""Characters of a number or date."""

LONGEST_WORD = 1500
"""Characters of one text: what messages repeat of it stays readable."""

_TEXT = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:binary")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `2e-3` is a number, as in YAML 1.2; PyYAML alone wants `2.0e-3`."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def read_yaml(text: str, where: str) -> Any:
    """What a YAML text says; `where` begins the sentence about what is wrong with it.

    Raises:
        BadRequestError: it is not valid YAML, or stands for more than is read.
    """
    if len(text) > LONGEST_TEXT:
        raise BadRequestError(f"{where} has {len(text):,} characters, more than the {LONGEST_TEXT:,} that are read")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, where)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise BadRequestError(f"{where} is not valid YAML: {_shortened(error)}") from error
    except RecursionError as error:
        raise BadRequestError(f"{where} is nested too deeply") from error
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:  # a tag and a text unfit for it
        raise BadRequestError(f"{where} holds a value that cannot be read: {_shortened(error)}") from error


def _check_size(root: yaml.Node, where: str) -> None:
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise BadRequestError(f"{where} has an alias that contains itself")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            if isinstance(node, yaml.ScalarNode):
                if "\0" in node.value:
                    raise BadRequestError(f"{where} holds a text with a null character")
                if len(node.value) > (LONGEST_WORD if node.tag in _TEXT else LONGEST_NUMBER):
                    raise BadRequestError(f"{where} has a value of {len(node.value):,} characters: that is too long")
                total = 1
            elif isinstance(node, yaml.MappingNode):
                total = 1 + sum(size(key) + size(value) for key, value in node.value)
            else:
                total = 1 + sum(size(child) for child in node.value)
            open_nodes.discard(id(node))
            sizes[id(node)] = total
        return sizes[id(node)]

    if size(root) > MOST_VALUES:
        raise BadRequestError(
            f"{where} stands for {size(root):,} values, more than the {MOST_VALUES:,} that are read: use fewer aliases"
        )


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
