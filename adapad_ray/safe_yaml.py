"""Reads untrusted YAML in bounded time and memory.

PyYAML's safe loader creates no objects, but a kilobyte can still expand to gigabytes: aliases of aliases, or numbers
with a million digits.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from adapad_ray.errors import BadRequestError

LONGEST_TEXT = 200_000
"""Most characters of a file; this limit and the ones below are project defaults."""
MOST_VALUES = 100_000
"""Most values of a file after its aliases are expanded."""
LONGEST_NUMBER = 100
"""Most characters of a number or date."""
LONGEST_STRING = 1500
"""Most characters of a string, so that error messages that quote it stay readable."""

_TEXT = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:binary")


class _Loader(yaml.SafeLoader):
    """The safe loader, with `2e-3` read as a number as in YAML 1.2; PyYAML requires `2.0e-3`."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def read_yaml(text: str, where: str) -> Any:
    """Parses a YAML document.

    Args:
        where: names the document at the beginning of error messages.

    Raises:
        BadRequestError: the text is not valid YAML or exceeds a limit.
    """
    if len(text) > LONGEST_TEXT:
        raise BadRequestError(f"{where} has {len(text):,} characters: the limit is {LONGEST_TEXT:,}")
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
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:  # the text does not suit its tag
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
                    raise BadRequestError(f"{where} has a string with a null character")
                limit = LONGEST_STRING if node.tag in _TEXT else LONGEST_NUMBER
                if len(node.value) > limit:
                    raise BadRequestError(
                        f"{where} has a value of {len(node.value):,} characters: the limit is {limit}"
                    )
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
            f"{where} expands to {size(root):,} values: the limit is {MOST_VALUES:,}; use fewer aliases"
        )


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
