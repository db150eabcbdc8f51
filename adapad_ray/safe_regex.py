"""Regular expressions that somebody else wrote, matched in bounded time."""

from __future__ import annotations

import time
from typing import Any

import regex  # type: ignore[import-untyped]

from adapad_ray.errors import BadRequestError

LONGEST_PATTERN = 1000
"""Characters of one pattern. Ours."""
MATCHING_SECONDS = 10.0
"""Time that all patterns of one matcher may take together. Ours."""


class Matcher:
    """Compiles each pattern once, and gives up when all of them together have taken `MATCHING_SECONDS`."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + MATCHING_SECONDS
        self._compiled: dict[str, Any] = {}

    def compile(self, pattern: str, where: str) -> Any:
        """The compiled pattern, which stands in `where`.

        Raises:
            BadRequestError: it is too long, or no regular expression.
        """
        if pattern not in self._compiled:
            if len(pattern) > LONGEST_PATTERN:
                raise BadRequestError(
                    f"{where} has a pattern of {len(pattern):,} characters: at most {LONGEST_PATTERN:,} are read"
                )
            try:
                self._compiled[pattern] = regex.compile(pattern)
            except (regex.error, OverflowError, RecursionError) as error:
                raise BadRequestError(
                    f"{where} has {pattern[:100]!r}, which is not a regular expression: {error}"
                ) from error
        return self._compiled[pattern]

    def fullmatch(self, pattern: str, name: str, where: str) -> bool:
        """Whether `pattern`, which stands in `where`, matches the whole `name`.

        Raises:
            BadRequestError: it is no regular expression, or takes too long.
        """
        compiled = self.compile(pattern, where)
        try:
            return compiled.fullmatch(name, timeout=max(1e-3, self._deadline - time.monotonic())) is not None
        except TimeoutError:
            raise BadRequestError(
                f"{where} has {pattern[:100]!r}, which takes too long to match: name the modules instead"
            ) from None
