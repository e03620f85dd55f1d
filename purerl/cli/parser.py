"""Flags: one row each, from which come parsing, checking, error messages and help text.

`argparse` splits the words and lays out the help. Everything a user can get wrong is checked here instead, so that each
mistake gives one line that names the flag, the value and what is allowed.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from purerl.cli import schedules
from purerl.errors import InputError, unknown

COUNTABLE = "[1, 2147483647]"
"""Counts that an int32 holds; as in `purerl.training.loop`, which would import JAX."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of the command line.

    Attributes:
        name: of the value it sets, such as ``learning_rate``; the flag itself is ``--learning-rate``.
        kind: ``int``, ``float``, ``scalar`` (a number or the text of a schedule), ``bool``, ``str``, ``file`` (the name
            of one; its text is the value) or ``any`` (a number if it looks like one, else text), with ``" | None"``
            where ``none`` is allowed too.
        help: one sentence.
        default: shown in the help; the parser itself returns only what was given.
        within: interval of allowed numbers, as in `purerl.struct.field`.
        choices: allowed words, if only some are.
        many: takes several values.
        repeated: may be given several times; the values are collected.
        metavar: what stands for the value in the help.
    """

    name: str
    kind: str
    help: str
    default: Any = None
    within: str = ""
    choices: tuple[str, ...] = ()
    many: bool = False
    repeated: bool = False
    metavar: str = ""

    @property
    def flag(self) -> str:
        """Spelling on the command line, ``--learning-rate``."""
        return "--" + self.name.replace("_", "-")

    @property
    def description(self) -> str:
        """Meaning, default and range."""
        notes = []
        if self.default is not None or "None" in self.kind:
            notes.append(f"default {show(self.default)}")
        if self.within:
            notes.append(f"range {self.within}" + (" or none" if "None" in self.kind else ""))
        return f"{self.help} ({'; '.join(notes)})" if notes else self.help

    def parse(self, text: Any) -> Any:
        """The value of what was typed; `text` is a list for flags with several values and a bool for ``bool``.

        Raises:
            InputError: if it is not of the right kind or out of range.
        """
        if self.kind == "bool":
            return text
        if self.many or self.repeated:
            return [self._parse_one(word) for word in text]
        return self._parse_one(text)

    def _parse_one(self, text: str) -> Any:
        if "None" in self.kind and text.lower() == "none":
            return None
        if self.choices and text not in self.choices:
            raise unknown(f"{self.flag} value", text, self.choices)
        if "str" in self.kind:
            return text
        if self.kind == "file":
            return _content(self.flag, text)
        if "scalar" in self.kind and schedules.is_schedule(text):
            return schedules.parse(self.flag, text, self.within)
        number = _number(text)
        if "any" in self.kind and not math.isfinite(number):
            return text
        if not math.isfinite(number) or ("int" in self.kind and not isinstance(number, int)):
            raise InputError(f"{self.flag} must be a {self._noun}, got {text!r}")
        if "float" in self.kind or "scalar" in self.kind:
            number = float(number)
        if self.within:
            from purerl.struct import inside

            if not inside(number, self.within):
                raise InputError(f"{self.flag} must lie in {self.within}, got {number!r}")
        return number

    @property
    def _noun(self) -> str:
        noun = "whole number" if "int" in self.kind else "finite number"
        return f"{noun} or none" if "None" in self.kind else noun


@dataclasses.dataclass(frozen=True)
class Group:
    """Flags under one heading of the help."""

    title: str
    flags: Sequence[Flag]


def _content(flag: str, path: str) -> str:
    """Text of a file. What a run keeps is the text: the file may change or go."""
    try:
        return Path(path).read_text()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{flag}: cannot read {path!r}: {reason}") from error


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def parse(
    usage: str, description: str, groups: Sequence[Group], argv: Sequence[str], positional: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Parse `argv`.

    Args:
        usage: first line of the help.
        description: second paragraph of the help.
        groups: all flags.
        argv: words after the command.
        positional: name of the other words, if the command takes any.

    Returns:
        The values of the flags that were given, by name, and the other words.

    Raises:
        InputError: for unknown flags, missing, malformed or forbidden values and unexpected words.
        SystemExit: after printing the help that ``--help`` asked for.
    """
    parser = _Parser(prog="purerl", usage=usage, description=description, allow_abbrev=False, add_help=False)
    _check_names(groups)
    flags = [flag for group in groups for flag in group.flags]
    for group in groups:
        section = parser.add_argument_group(group.title)
        for flag in group.flags:
            _add(section, flag)
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    if positional:
        parser.add_argument(positional, nargs="*", default=[], help=argparse.SUPPRESS)
    known, extras = parser.parse_known_intermixed_args(_number_values(map(_directory, argv), flags))
    given = vars(known)
    for word in extras:
        if word.startswith("-"):
            raise _unknown_flag(word.split("=")[0], flags)
    if extras:
        raise InputError(f"unexpected argument {extras[0]!r}")
    words = given.pop(positional, []) if positional else []
    by_name = {flag.name: flag for flag in flags}
    return {name: by_name[name].parse(value) for name, value in given.items()}, words


def parse_some(flags: Sequence[Flag], argv: Sequence[str]) -> dict[str, Any]:
    """The values of those of `flags` that are in `argv`, among other words, which are not looked at."""
    parser = _Parser(prog="purerl", allow_abbrev=False, add_help=False)
    for flag in flags:
        _add(parser, flag)
    given = vars(parser.parse_known_args(_number_values(map(_directory, argv), flags))[0])
    by_name = {flag.name: flag for flag in flags}
    return {name: by_name[name].parse(value) for name, value in given.items()}


def _check_names(groups: Sequence[Group]) -> None:
    """Raise `InputError` where two flags have one name, as a class of the user's own may ask for."""
    owners = {"help": "every command"}
    for group in groups:
        for flag in group.flags:
            if flag.name in owners:
                raise InputError(
                    f"{flag.flag} would be of both {owners[flag.name]} and {group.title}: give the field another name"
                )
            owners[flag.name] = group.title


def parse_range(flag: str, text: str, example: str, count: int) -> tuple[str, list[float]]:
    """Name and numbers of ``NAME=NUMBER:NUMBER...``, the value of ``--flag``.

    Raises:
        InputError: if it does not look like `example`, with `count` finite numbers.
    """
    name, equals, words = text.partition("=")
    name, numbers = name.strip().removeprefix("--"), [_number(word) for word in words.split(":")]
    if not equals or not name or len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"--{flag} must look like {example}, got {text!r}")
    return name, numbers


def _number(text: str) -> int | float:
    """The number that `text` spells, an int where it is whole; NaN where it spells none."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    if not number.is_integer():
        return number
    try:
        return int(text)  # every digit of it, where a float has sixteen
    except ValueError:
        return int(number)


def _add(section: Any, flag: Flag) -> None:
    common = {"dest": flag.name, "default": argparse.SUPPRESS, "help": flag.description.replace("%", "%%")}
    if flag.kind == "bool":
        # Switches that are off unless given need no negative form, unless something else may have set them.
        action = "store_true" if flag.default is None else argparse.BooleanOptionalAction
        section.add_argument(flag.flag, action=action, **common)
        return
    kind = flag.kind.split(" ")[0].replace("any", "value").replace("scalar", "number")
    metavar = flag.metavar or ("{" + ",".join(flag.choices) + "}" if flag.choices else kind.upper())
    extra = {"nargs": "+"} if flag.many else {"action": "append"} if flag.repeated else {}
    section.add_argument(flag.flag, metavar=metavar, **extra, **common)


def _directory(word: str) -> str:
    """`word`, or a directory whose name begins with a dash as argparse can tell it from a flag."""
    return f".{os.sep}{word}" if word.startswith("-") and os.path.isdir(word) else word


def _number_values(argv: Iterable[str], flags: Sequence[Flag]) -> list[str]:
    """`argv` with negative numbers glued to their flag: argparse takes ``-1e-3`` and ``-inf`` for flags."""
    names = {flag.flag for flag in flags if flag.kind.split(" ")[0] in ("int", "float", "scalar") and not flag.many}
    glued: list[str] = []
    for word in argv:
        if glued and glued[-1] in names and word.startswith("-") and not word.startswith("--"):
            glued[-1] = f"{glued[-1]}={word}"
        else:
            glued.append(word)
    return glued


def _unknown_flag(word: str, flags: Sequence[Flag]) -> InputError:
    names = [flag.flag for flag in flags] + ["--help"]
    names += [f"--no-{flag.flag[2:]}" for flag in flags if flag.kind == "bool" and flag.default is not None]
    # Every flag begins with dashes: leave them out of the likeness.
    close = difflib.get_close_matches(word.lstrip("-").lower(), [name[2:] for name in names], n=3, cutoff=0.6)
    hint = "did you mean " + " or ".join(f"'--{name}'" for name in close) + "?" if close else "see --help"
    return InputError(f"unknown flag {word!r}: {hint}")


def show(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(show(item) for item in value) or "none"
    return str(value)
