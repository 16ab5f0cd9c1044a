"""What a value of a config may be: rules that check one value and say in words what they ask for.

Imports no numpy: a wrong flag is answered at once.
"""

import dataclasses
import re
import sys
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Rule(Protocol):
    """What each key has in configs/ranges.py."""

    @property
    def says(self) -> str:
        """What follows "must be" in a message."""
        ...

    def holds(self, value: Any) -> bool: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number:
    """A finite number with a lower end, `at_least` or `above` it, and perhaps an upper one.

    `note` is what the lower end means, where that is something of its own.
    """

    whole: bool = False
    at_least: int | float | None = None
    above: int | float | None = None
    at_most: int | float | None = None
    below: int | float | None = None
    note: str = ""

    @property
    def says(self) -> str:
        what = "a whole number" if self.whole else "a number"
        note = f" ({self.note})" if self.note else ""
        match (self.at_least, self.at_most, self.below):
            case (None, None, high):
                return f"{what} above {self.above:.10g}{note} and less than {high:.10g}"
            case (None, high, _):
                return f"{what} above {self.above:.10g}{note} and at most {high:.10g}"
            case (low, None, None):
                return f"{low:.10g}{note} or more"
            case (low, None, high):
                return f"{what} from {low:.10g}{note} to less than {high:.10g}"
            case (low, high, _):
                return f"{what} from {low:.10g}{note} to {high:.10g}"

    def holds(self, value: Any) -> bool:
        # True is an int in Python; an int may be too large for a float.
        kinds = int if self.whole else (int, float)
        return (
            isinstance(value, kinds)
            and not isinstance(value, bool)
            and -sys.float_info.max <= value <= sys.float_info.max
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers:
    """A tuple of numbers: `length` of them, or one or more; two, if they are to ascend."""

    each: Number
    length: int | None = None
    ascending: bool = False

    @property
    def says(self) -> str:
        if self.ascending:
            return f"(LOW, HIGH), LOW not above HIGH, each {self.each.says}"
        form = ", ".join(["N"] * self.length) if self.length else "N, ..."
        return f"({form}), each {self.each.says}"

    def holds(self, value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) > 0
            and self.length in (None, len(value))
            and all(map(self.each.holds, value))
            and (not self.ascending or list(value) == sorted(value))
        )


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of a few names."""

    names: tuple[str, ...]

    @property
    def says(self) -> str:
        return f"one of {', '.join(self.names)}"

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names


@dataclasses.dataclass(frozen=True)
class Text:
    """Text that matches a pattern as a whole; `path`: a leading ~ in it is the home folder."""

    says: str
    pattern: str
    path: bool = False

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


@dataclasses.dataclass(frozen=True)
class WordOrNumber:
    """A word, or a number as text: a key of a config that is text takes no other."""

    word: str
    number: Number

    @property
    def says(self) -> str:
        return f"{self.word}, or {self.number.says}"

    def holds(self, value: Any) -> bool:
        if not isinstance(value, str) or value == self.word:
            return value == self.word
        try:
            return self.number.holds(float(value))
        except ValueError:
            return False


@dataclasses.dataclass(frozen=True)
class AnyOf:
    """Whatever one of several rules allows."""

    rules: tuple[Rule, ...]

    @property
    def says(self) -> str:
        return "; or ".join(rule.says for rule in self.rules)

    def holds(self, value: Any) -> bool:
        return any(rule.holds(value) for rule in self.rules)


@dataclasses.dataclass(frozen=True)
class YesOrNo:
    """True or False, and no number that equals one."""

    says: str = "True or False"

    def holds(self, value: Any) -> bool:
        return isinstance(value, bool)


CLASS_WEIGHT = Number(at_least=0, at_most=10**6)  # one that the user gives
