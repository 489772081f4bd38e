"""Where a database may lie, and what text it takes."""

from pathlib import Path

from langchain_tokenopt.errors import ConfigurationError


def database_path(path: str | Path) -> Path:
    """Return the path of a file that can be made or opened.

    Raises:
        ConfigurationError: It is a folder, or its folder does not exist.
    """
    found = Path(path)
    if found.is_dir() or not found.parent.is_dir():
        message = (
            f"expected the path of a file in a folder that exists, got {found}; "
            "create the folder or choose another path"
        )
        raise ConfigurationError(message)
    return found


def storable(text: str) -> str:
    r"""Return `text` without lone surrogates, which SQLite refuses.

    >>> storable("a\ud800b")
    'a?b'
    """
    return text.encode(errors="replace").decode()
