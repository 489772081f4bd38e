"""Files: where a database may lie, what text it takes, and what a JSON file of entries holds."""

import json
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from langchain_tokenopt.errors import ConfigurationError

Held = TypeVar("Held", bound=BaseModel)


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


def read_entries(source: Path | Traversable, held: type[Held], *, called: str) -> Held:
    """Return what a JSON file holds, with numbers as they are written.

    Args:
        source: The file.
        held: What is valid.
        called: The file's name in a message, such as "the price file prices.json".

    Raises:
        ConfigurationError: The file is absent, is not JSON, or an entry is wrong; the message
            names the entry and the field.
    """
    try:
        # 0.1 in JSON is a price, not the nearest float.
        return held.model_validate(json.loads(source.read_text(encoding="utf-8"), parse_float=str))
    except OSError as error:
        raise ConfigurationError(f"cannot read {called}: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}, got {problem['input']!r:.60}"
            for problem in error.errors()
        )
        raise ConfigurationError(f"{called} has wrong entries: {problems}") from error
    except ValueError as error:
        raise ConfigurationError(f"{called} is not JSON: {error}") from error
