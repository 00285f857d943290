"""The settings in folders of sentence-transformers, in every form that they have had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nasopt.errors import UnsupportedModelError
from nasopt.models.loading import load_config
from nasopt.models.sentence_modules import SentenceModules, encoder_folder, sentence_files, sentence_modules


def write(folder: Path, pooling: dict[str, Any], *others: str, listed: bool = True) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **pooling}))
    for name in others:
        (folder / name).mkdir()
    if listed:
        kinds = {"": "Transformer", "1_Pooling": "Pooling"} | {name: name.partition("_")[2] for name in others}
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds.items())
        ]
        (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["cls", "mean"]}, "cls and mean"),
        ({}, None),
    ],
)
def test_the_pooling_is_read(tmp_path: Path, listed: bool, settings: dict[str, Any], pooling: str | None) -> None:
    write(tmp_path, settings, "2_Normalize", listed=listed)
    found = sentence_modules(str(tmp_path), None)
    assert found == SentenceModules(pooling, is_listed=listed, normalize=True)


@pytest.mark.parametrize("listed", [True, False])
def test_other_modules_are_named(tmp_path: Path, listed: bool) -> None:
    write(tmp_path, {"pooling_mode_cls_token": True}, "2_Dense", "3_Normalize", listed=listed)
    found = sentence_modules(str(tmp_path), None)
    assert found == SentenceModules("cls", ("2_Dense",), is_listed=listed, normalize=True)


def test_a_plain_encoder_says_nothing(tiny_bert: Path) -> None:
    assert sentence_modules(str(tiny_bert), None) == SentenceModules()


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1]"])
def test_a_damaged_list_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(UnsupportedModelError, match=r"modules\.json is (damaged|not a list of modules)"):
        sentence_modules(str(tmp_path), None)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_xlm-roberta_config.json"])
def test_prompts_and_the_longest_text_are_read(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"pooling_mode_mean_tokens": True, "include_prompt": False})
    (tmp_path / name).write_text('{"max_seq_length": 48, "do_lower_case": true}')
    settings: dict[str, Any] = {"prompts": {"query": "query: ", "document": None}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert sentence_modules(str(tmp_path), None) == SentenceModules(
        "mean",
        is_listed=True,
        normalize=False,
        max_length=48,
        lowercases=True,
        prompts={"query": "query: ", "document": ""},
        prompt="query: ",
        pools_prompt=False,
    )
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings | {"default_prompt_name": None}))
    assert sentence_modules(str(tmp_path), None).prompt == ""
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "", "document": ""}}')
    assert sentence_modules(str(tmp_path), None).prompt is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config_sentence_transformers.json", '{"default_prompt_name": "query"}'),
        ("config_sentence_transformers.json", '{"prompts": ["query"]}'),
        ("sentence_bert_config.json", "[]"),
        ("1_Pooling/config.json", "{"),
    ],
)
def test_damaged_settings_are_one_line(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path, {"pooling_mode_cls_token": True})
    (tmp_path / name).write_text(content)
    with pytest.raises(UnsupportedModelError, match=rf"{name} (is damaged|names prompts)") as caught:
        sentence_modules(str(tmp_path), None)
    assert "\n" not in str(caught.value)


def test_a_module_of_another_package_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"pooling_mode_cls_token": True})
    listed = json.loads((tmp_path / "modules.json").read_text())
    listed[0]["type"] = "custom_st.Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    assert sentence_modules(str(tmp_path), None).others == ("custom_st.Transformer",)


@pytest.mark.parametrize("normalize", [True, False])
def test_what_is_written_is_read(tmp_path: Path, normalize: bool) -> None:
    modules = SentenceModules(
        "cls", (), True, normalize, 24, prompts={"document": "", "query": "q: "}, prompt="q: ", pools_prompt=False
    )
    for path, text in sentence_files(modules, 8).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert sentence_modules(str(tmp_path), None) == modules
    assert encoder_folder(tmp_path) is None


def test_an_encoder_in_a_folder_of_its_own_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"pooling_mode_cls_token": True})
    assert encoder_folder(tmp_path) is None
    listed = json.loads((tmp_path / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(UnsupportedModelError, match=r"its encoder lies in 0_Transformer, .*; save it anew"):
        load_config(str(tmp_path), None, False)
