"""Prompts by name and version: loaded from files, compared, counted, exported and used."""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.library_check import TemplateFinding, check_template
from langchain_tokenopt.prompts.library_diff import TemplateDiff, diff_templates
from langchain_tokenopt.prompts.library_files import read_path, write_library
from langchain_tokenopt.prompts.library_template import LibraryTemplate

_COUNTED_AS = "gpt-5-mini"
_NEAR = 3


class PromptLibrary:
    """Templates by name, several versions of one side by side.

    The version that was added last is the current one. Safe to use from several threads.

    Args:
        templates: To begin with.

    >>> library = PromptLibrary.bundled()
    >>> template = library.get("code_review")
    >>> template.estimate(model="gpt-5-mini", sample={"code": "print(1)"}).variables["code"]
    4
    >>> library.get("code_reviews")
    Traceback (most recent call last):
    langchain_tokenopt.errors.ConfigurationError: no template is named 'code_reviews'; ...
    """

    def __init__(self, templates: Iterable[LibraryTemplate] = ()) -> None:
        self._versions: dict[str, dict[str, LibraryTemplate]] = {}
        self._current: dict[str, str] = {}
        self._lock = threading.Lock()
        for template in templates:
            self.add(template)

    @classmethod
    def load(cls, *paths: str | Path) -> "PromptLibrary":
        """Return the templates of files and folders, later ones over earlier ones.

        Takes Markdown, YAML and JSON, of one template or of a whole exported library.

        Raises:
            ConfigurationError: A file cannot be used; the message names it, the line and the field.
            StoreError: It cannot be read.
        """
        library = cls()
        for path in paths:
            library.add_from(path)
        return library

    @classmethod
    async def aload(cls, *paths: str | Path) -> "PromptLibrary":
        """Do what `load` does in a thread."""
        return await asyncio.to_thread(cls.load, *paths)

    @classmethod
    def bundled(cls) -> "PromptLibrary":
        """Return a library of the templates that come with this package."""
        return cls(_bundled())

    def add(self, template: LibraryTemplate) -> None:
        """Add a template, and make it the current one of its name."""
        self._add(template, current=True)

    def add_from(self, path: str | Path) -> None:
        """Add the templates of a file or a folder: all of them, or none if one cannot be used.

        Raises:
            ConfigurationError: A file cannot be used; the message names it, the line and the field.
            StoreError: It cannot be read.
        """
        for loaded in read_path(Path(path)):
            self._add(loaded.template, current=loaded.current)

    def use(self, reference: str) -> LibraryTemplate:
        """Make a version the current one of its name, and return it."""
        template = self.get(reference)
        with self._lock:
            self._current[template.name] = template.version
        return template

    def get(self, reference: str) -> LibraryTemplate:
        """Return a template.

        Args:
            reference: A name for its current version, or `name@version`; the first digits of a
                version are enough if there is no other that begins so.

        Raises:
            ConfigurationError: There is none, or more than one; names that are near are told.
        """
        name, at, version = reference.partition("@")
        with self._lock:
            versions = dict(self._versions.get(name, {}))
            current = self._current.get(name)
        if current is None:
            raise ConfigurationError(self._unknown(name))
        if not at:
            return versions[current]
        found = [each for each in versions if version and each.startswith(version)]
        if len(found) != 1:
            known = ", ".join(versions)
            message = f"expected one version of {name} that begins with {version!r}"
            raise ConfigurationError(f"{message}, got {', '.join(found) or 'none'} of {known}")
        return versions[found[0]]

    def names(self) -> list[str]:
        """Return the names, sorted."""
        with self._lock:
            return sorted(self._versions)

    def versions(self, name: str) -> list[LibraryTemplate]:
        """Return the versions of a template in the order in which they came.

        Raises:
            ConfigurationError: There is none of this name.
        """
        with self._lock:
            versions = self._versions.get(name)
            if versions:
                return list(versions.values())
        raise ConfigurationError(self._unknown(name))

    def __iter__(self) -> Iterator[LibraryTemplate]:
        """Iterate over the current version of each name."""
        return iter([self.get(name) for name in self.names()])

    def __len__(self) -> int:
        return len(self._versions)

    def __contains__(self, reference: object) -> bool:
        try:
            return isinstance(reference, str) and bool(self.get(reference))
        except ConfigurationError:
            return False

    def check(self, *, model: str = _COUNTED_AS) -> list[TemplateFinding]:
        """Return what could be better about the current versions.

        Tells of variables in front of 1,024 and more tokens that never change: no provider's cache
        serves those to another value of the variable.
        """
        return [found for template in self for found in check_template(template, model=model)]

    def diff(self, before: str, after: str, *, model: str = _COUNTED_AS) -> TemplateDiff:
        """Return how a template differs from another one; tokens are counted as `model` does.

        Raises:
            ConfigurationError: One of them is not known.
        """
        return diff_templates(self.get(before), self.get(after), model=model)

    def export(self, path: str | Path, *, names: Sequence[str] | None = None) -> None:
        """Write templates with all their versions to one YAML or JSON file, for `load`.

        Args:
            path: Ends in `.yaml`, `.yml` or `.json`.
            names: Which; all of them by default.

        Raises:
            ConfigurationError: A name is not known, or the name of the file says no format.
            StoreError: The file cannot be written.
        """
        if isinstance(names, str):
            raise ConfigurationError(f"expected a list of names, got the text {names!r}")
        written = []
        for name in self.names() if names is None else names:
            current = self.get(name)
            written += [(each, each is current) for each in self.versions(current.name)]
        write_library(Path(path), written)

    async def aexport(self, path: str | Path, *, names: Sequence[str] | None = None) -> None:
        """Do what `export` does in a thread."""
        await asyncio.to_thread(self.export, path, names=names)

    def _add(self, template: LibraryTemplate, *, current: bool) -> None:
        with self._lock:
            self._versions.setdefault(template.name, {})[template.version] = template
            if current or template.name not in self._current:
                self._current[template.name] = template.version

    def _unknown(self, name: str) -> str:
        names = self.names()
        near = get_close_matches(name, names, n=_NEAR, cutoff=0.5) or names[:_NEAR]
        told = f"there are {', '.join(near)}" if near else "there is none yet"
        return f"no template is named {name!r}; {told}"


@cache
def _bundled() -> tuple[LibraryTemplate, ...]:
    with as_file(files("langchain_tokenopt.prompts") / "templates") as folder:
        return tuple(loaded.template for loaded in read_path(folder))
