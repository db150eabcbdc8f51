"""Matches untrusted regular expressions with a time limit."""

from __future__ import annotations

import time
from typing import Any

import regex  # type: ignore[import-untyped]

from adapad_ray.errors import BadRequestError

LONGEST_PATTERN = 1000
"""Most characters of a pattern (a project default)."""
MATCHING_SECONDS = 10.0
"""Time limit for all patterns of one matcher together (a project default)."""


class Matcher:
    """Compiles each pattern once, and stops `MATCHING_SECONDS` after its own creation."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + MATCHING_SECONDS
        self._compiled: dict[str, Any] = {}

    def compile(self, pattern: str, where: str) -> Any:
        """The compiled pattern.

        Args:
            where: names the source of the pattern in error messages.

        Raises:
            BadRequestError: the pattern is too long or not a regular expression.
        """
        if pattern not in self._compiled:
            if len(pattern) > LONGEST_PATTERN:
                raise BadRequestError(
                    f"{where} has a pattern of {len(pattern):,} characters: the limit is {LONGEST_PATTERN:,}"
                )
            try:
                self._compiled[pattern] = regex.compile(pattern)
            except (regex.error, OverflowError, RecursionError) as error:
                raise BadRequestError(
                    f"{where} has {pattern[:100]!r}, which is not a regular expression: {error}"
                ) from error
        return self._compiled[pattern]

    def fullmatch(self, pattern: str, name: str, where: str) -> bool:
        """Whether the pattern matches the whole name.

        Args:
            where: names the source of the pattern in error messages.

        Raises:
            BadRequestError: the pattern is not a regular expression or takes too long.
        """
        compiled = self.compile(pattern, where)
        try:
            return compiled.fullmatch(name, timeout=max(1e-3, self._deadline - time.monotonic())) is not None
        except TimeoutError:
            raise BadRequestError(
                f"{where} has {pattern[:100]!r}, which takes too long to match: list the modules by name instead"
            ) from None
