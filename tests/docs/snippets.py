"""Code in the documentation: its fenced blocks, and the commands in blocks and in running text."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = ["README.md", "benchmarks/RESULTS.md"]
PAGES += sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("docs/**/*.md"))
PAGES += sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("adapad_ray/**/*.md"))
_BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.S | re.M)
_INLINE = re.compile(r"(?<!`)`(adapad [^`]+)`(?!`)")
_COMMAND = re.compile(r"(?:^|-- |^\S+=\S+ )(adapad .*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    """As the fence names it; empty without one."""
    text: str
    reason: str | None
    """Why it is not run, as the comment `<!-- not run: … -->` above it says; None without one."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A call of `adapad` on a page."""

    page: str
    line: int
    text: str
    whole: bool
    """Whether it is a line of a block that can be typed, not a mention in a sentence."""

    @property
    def words(self) -> list[str]:
        """The words after `adapad`, as a shell reads them."""
        return shlex.split(self.text.replace("\\|", "|"), comments=self.whole)[1:]

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.text}"


def blocks(*languages: str) -> list[Block]:
    """The blocks in these languages, or all, in the order of the pages."""
    found = []
    for page in PAGES:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("language")) + 1
            found.append(Block(page, line, match["language"], match["text"], match["reason"]))
    return [block for block in found if not languages or block.language in languages]


def commands() -> list[Command]:
    """The calls of `adapad`, in the order of the pages."""
    found = []
    for page in PAGES:
        fenced = {line: block for block in blocks() if block.page == page for line in _lines(block)}
        for line, text in enumerate((REPOSITORY / page).read_text(encoding="utf-8").splitlines(), 1):
            if line not in fenced:
                found += [Command(page, line, match[1], whole=False) for match in _INLINE.finditer(text)]
            elif fenced[line].language in ("", "sh") and fenced[line].reason is None:
                found += [Command(page, line, match[1], whole=True) for match in _COMMAND.finditer(text)]
    return found


def _lines(block: Block) -> range:
    return range(block.line, block.line + block.text.count("\n") + 2)
