"""Reads untrusted YAML in bounded time and memory, and writes it so that it is read back unchanged.

PyYAML's safe loader creates no objects, but a kilobyte can still expand to gigabytes: aliases of aliases, or numbers
with a million digits. It also lets the last of two equal keys win, which is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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
_PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    "float": (
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}
"""Tag → what a plain scalar with it looks like, and how it may begin."""


class _Loader(yaml.SafeLoader):
    """The safe loader with the plain scalars of YAML 1.2. Keys of mappings are text as written.

    PyYAML reads YAML 1.1, where `no` and `on` are booleans, `010` is 8, `1:30` is 90, `2026-01-01` is a date and `2e-3`
    is text. Here all but the last are text, and `2e-3` is a number. A key such as `null` or `01` names a class.
    """

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own name for a table of the class

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, _ in node.value:
            key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which quotes text that a reader of YAML 1.1 or `_Loader` would take for a value."""


_Dumper.yaml_implicit_resolvers = {key: list(known) for key, known in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _tag, (_pattern, _starts) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"({_pattern})\Z"), list(_starts))


def read_yaml(text: str, where: str) -> Any:
    """Parses a YAML document.

    Args:
        where: names the document at the beginning of error messages.

    Raises:
        BadRequestError: the text is not valid YAML, has a key twice, or exceeds a limit.
    """
    if len(text) > LONGEST_TEXT:
        raise BadRequestError(f"{where} has {len(text):,} characters: the limit is {LONGEST_TEXT:,}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, where)
        return loader.construct_document(node)
    except BadRequestError:
        raise
    except yaml.YAMLError as error:
        raise BadRequestError(f"{where} is not valid YAML: {_described(error)}") from error
    except RecursionError as error:
        raise BadRequestError(f"{where} is nested too deeply") from error
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:  # the text does not suit its tag
        raise BadRequestError(f"{where} holds a value that cannot be read: {_shortened(error)}") from error


def write_yaml(content: Any) -> str:
    """Formats `content` as YAML that `read_yaml` reads back unchanged, with keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def _check(root: yaml.Node, where: str) -> None:
    """Checks sizes and keys of a document before anything is made from it."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node, path: tuple[str, ...]) -> int:
        if id(node) in open_nodes:
            raise BadRequestError(f"{where} has an alias that contains itself")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            if isinstance(node, yaml.ScalarNode):
                _check_length(node, where)
                total = 1
            elif isinstance(node, yaml.MappingNode):
                total = 1
                for key, value in node.value:
                    name = key.value if isinstance(key, yaml.ScalarNode) else "?"
                    total += size(key, path) + size(value, (*path, name))
                _check_keys(node, path, where)
            else:
                total = 1 + sum(size(child, path) for child in node.value)
            open_nodes.discard(id(node))
            sizes[id(node)] = total
        return sizes[id(node)]

    if size(root, ()) > MOST_VALUES:
        raise BadRequestError(
            f"{where} expands to {sizes[id(root)]:,} values: the limit is {MOST_VALUES:,}; use fewer aliases"
        )


def _check_length(node: yaml.ScalarNode, where: str) -> None:
    if "\0" in node.value:
        raise BadRequestError(f"{where} has a string with a null character")
    limit = LONGEST_STRING if node.tag in _TEXT else LONGEST_NUMBER
    if len(node.value) > limit:
        raise BadRequestError(f"{where} has a value of {len(node.value):,} characters: the limit is {limit}")


def _check_keys(node: yaml.MappingNode, path: Sequence[str], where: str) -> None:
    """Checks that the keys of a mapping are single values that differ as text: `0` and `"0"` do not."""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise BadRequestError(f"{where}, line {line}: a key is a single word or number, not a list or a mapping")
        if key.value in seen:
            name = ".".join([*path, key.value])[:200]
            lines_of = f"line {line}" if seen[key.value] == line else f"lines {seen[key.value]} and {line}"
            more = " and write <<: [*a, *b]" if key.value == "<<" else ""
            raise BadRequestError(f"{where} has the key {_printable(name)} twice ({lines_of}): remove one{more}")
        seen[key.value] = line


def _described(error: yaml.YAMLError) -> str:
    """The place and the problem of a syntax error."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return _shortened(error)
    mark, problem = error.problem_mark, error.problem or ""
    if "another document" in problem:
        problem = "a second document begins here (---): keep one"
    elif "'\\t'" in problem:
        problem = "a tab: indent with spaces"
    elif "undefined alias" not in problem and error.context:
        problem = f"{problem} ({error.context})"
    return f"line {mark.line + 1}, column {mark.column + 1}: {' '.join(problem.split())[:300]}"


def _shortened(error: Exception) -> str:
    return _printable(" ".join(str(error).split())[:300])


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
