"""Sections of the configuration, including those whose class is chosen by name.

An estimator or a scene is described by a frozen dataclass of settings, found by its name among the
entry points of a group (`dreamfusion.estimators`, `dreamfusion.scenes`). This package declares its
entry points in pyproject.toml, as other packages do; there is no other registry.
"""

import dataclasses
import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dreamfusion.utils.errors import UserError, one_line

ESTIMATORS = "dreamfusion.estimators"
SCENES = "dreamfusion.scenes"
PRIORS = "dreamfusion.priors"


class PluginError(UserError):
    """An estimator, a scene or a prior that does not exist or cannot be loaded."""


def setting(default: Any, doc: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with a default, a one-line description and an inclusive range."""
    return dataclasses.field(default=default, metadata={"doc": doc, "low": low, "high": high})


def default(owner: type, name: str, value: Any) -> Any:
    """The field `name` of the section class `owner` with another default, for a subclass."""
    (found,) = (field for field in dataclasses.fields(owner) if field.name == name)
    return dataclasses.field(default=value, metadata=found.metadata)


@dataclass(frozen=True)
class Section(ABC):
    """A section whose class is chosen by its `name`. Fields are made by `setting`. A layer that
    changes the name starts from the defaults of the new class."""

    name: str

    def check(self) -> None:  # noqa: B027 -- most have nothing to check
        """Raise ValueError with a one-line message for values that are not compatible."""

    @abstractmethod
    def build(self, *args: Any, **options: Any) -> Any:
        """The object that these settings describe."""


def subsection(cls: type) -> Any:
    """A dataclass field that is a nested section."""
    return dataclasses.field(default_factory=cls)


def named_section(group: str, default: str) -> Any:
    """A dataclass field that is a `Section`, found by name in a group of entry points."""
    return dataclasses.field(
        default_factory=lambda: find_section(group, default)(), metadata={"group": group}
    )


def section_names(group: str) -> list[str]:
    """The names in a group, sorted."""
    return sorted({entry.name for entry in _entries(group)})


@cache
def find_section(group: str, name: str) -> Any:
    """The settings class of that name. Raises PluginError with a one-line message if there is none,
    if there are several, or if it cannot be imported."""
    # A package may be found twice: where it is installed, and in its source folder.
    found = {entry.value: entry for entry in _entries(group) if entry.name == name}
    kind = group.rpartition(".")[2].removesuffix("s")
    if not found:
        names = section_names(group)
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(names) or 'none'}"
        raise PluginError(f"there is no {kind} {name!r}; {hint}")
    where = " and ".join(sorted(found))
    if len(found) > 1:
        raise PluginError(f"{where} both declare the {kind} {name!r}: uninstall one of them")
    try:
        cls = found[where].load()
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise PluginError(f"the {kind} {name!r} of {where} cannot be imported ({what})") from error
    if not (dataclasses.is_dataclass(cls) and isinstance(cls, type)):
        raise PluginError(f"the {kind} {name!r} of {where} is no dataclass of settings")
    return cls


@cache
def _entries(group: str) -> list[EntryPoint]:
    return list(entry_points(group=group))
