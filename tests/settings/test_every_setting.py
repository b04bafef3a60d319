"""Every setting, wrong in every way of its kind, from each source: one line that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predictor.settings.fields import ENV_PREFIX, specs
from predictor.settings.read import SettingsError, load_settings
from predictor.settings.spec import Spec

ABSENT = Path("/nonexistent/model-config.json")


def wrong_texts(spec: Spec) -> list[str]:
    """What no flag and no variable may say."""
    if spec.kind is bool:
        return ["maybe", "2", "tru", "None"]
    if spec.kind in (int, float):
        wrong = ["many", "1,5", "1e", "0x10", "nan", "inf", "-inf", "²"]
        wrong += [] if spec.low is None else [f"{spec.low - 1:.10g}"]
        wrong += [] if spec.high is None else [f"{spec.high + 1:.0f}"]
        return wrong + ([] if spec.kind is float else ["1.5", "1e3"])
    return ["none of them", "AUTO"] if spec.choices else []


def wrong_values(spec: Spec) -> list[object]:
    """What the file may not hold."""
    objects: list[object] = [{}, {"a": 1}, [1], [[]]]
    texts = spec.kind in (int, float, bool)
    if spec.kind is tuple:
        return [*objects, 1, True, "a"]
    return [*objects, ["a"], True if spec.kind is not bool else 1, *(["1"] if texts else [])]


ALL = {name: spec for name, (spec, _) in specs().items()}
IN_FILE = {name: spec for name, spec in ALL.items() if not spec.is_secret}


def refused(flags: list[str], environ: dict[str, str], file: Path = ABSENT) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags, environ, default_file=file)
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name, spec in ALL.items() if wrong_texts(spec)])
def test_a_wrong_flag_or_variable_is_one_line(name: str) -> None:
    variable = ENV_PREFIX + name.upper()
    for text in wrong_texts(ALL[name]):
        for said in (refused([f"--{name}={text}"], {}), refused([], {variable: text})):
            assert "\n" not in said
            assert f"{name}={text!r} from" in said
            assert "must be" in said


@pytest.mark.parametrize("name", IN_FILE)
def test_a_wrong_value_in_the_file_is_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model-config.json"
    for value in wrong_values(IN_FILE[name]):
        file.write_text(json.dumps({name: value}))
        said = refused([], {}, file)
        assert "\n" not in said
        assert f"{name}={value!r} from file {file} key {name}: must " in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cors_origins=app.example.com"], "must be * or origins such as https://"),
        (["--cors_origins=https://app.example.com/page"], "no paths"),
        (["--model_id=a b/c"], "must be OWNER/NAME as on the hub"),
        (["--model_id=./models/Qwen3-ASR-0.6B"], "a folder goes into model_dir"),
        (["--aligner_id=/models/aligner"], "a folder goes into aligner_dir"),
        (["--precision=fp8", "--device=cpu"], "are for CUDA"),
        (["--aligner_precision=fp8", "--device=cpu"], "are for CUDA"),
        (["--kv_precision=fp8", "--device=cpu"], "are for CUDA"),
    ],
)
def test_what_is_wrong_beyond_its_kind_is_one_line_too(flags: list[str], said: str) -> None:
    found = refused(flags, {})
    assert "\n" not in found
    assert said in found


@pytest.mark.parametrize(
    "flag",
    [
        "--cors_origins=*",
        "--cors_origins=https://a.example,http://localhost:3000,capacitor://localhost",
        "--model_id=Qwen/Qwen3-ASR-1.7B-hf",
        "--model_id=gpt2",
    ],
)
def test_what_is_right_passes(flag: str) -> None:
    load_settings([flag], {}, default_file=ABSENT)
