import ast
import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import TypeGuard

import pytest

from predictor.audio.limits import AudioLimits, AudioOptions
from predictor.engine.options import EngineOptions
from predictor.settings.doc import effective, help_text, markdown_table
from predictor.settings.fields import specs
from predictor.settings.read import Settings, SettingsError, load_settings

ARTICLE_FILE = """{
  "model_name": "Qwen3-ASR-1.7B",
  "precision": "fp16",
  "batch_size": 8,
  "max_audio_length": 30,
  "language_detection": true,
  "output_format": "text"
}
"""
NO_FILE = Path("/nonexistent/model-config.json")


def load(*argv: str, env: Mapping[str, str] | None = None, file: Path = NO_FILE) -> Settings:
    return load_settings(list(argv), env or {}, default_file=file)


def refused(*argv: str, env: Mapping[str, str] | None = None, file: Path = NO_FILE) -> str:
    with pytest.raises(SettingsError) as caught:
        load(*argv, env=env, file=file)
    return str(caught.value)


def write(folder: Path, **content: object) -> Path:
    path = folder / "model-config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_defaults_serve_what_the_storage_initializer_mounts() -> None:
    settings = load()
    assert settings.model_name == "qwen3-asr"
    assert settings.served_names == ("qwen3-asr",)
    assert settings.model_dir == Path("/mnt/models")
    assert (settings.http_port, settings.grpc_port) == (8080, 8081)
    assert settings.dtype == "auto"
    assert settings.config_file is None


def test_the_articles_file_works_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "model-config.json"
    path.write_text(ARTICLE_FILE, encoding="utf-8")
    (tmp_path / "preprocess.sh").write_text("#!/bin/bash\n", encoding="utf-8")
    settings = load(env={"MODEL_PATH": "/app/models/Qwen3-ASR-1.7B"}, file=path)
    assert settings.model_name == "Qwen3-ASR-1.7B"
    assert settings.served_names == ("Qwen3-ASR-1.7B", "qwen3-asr")
    assert settings.model_dir == Path("/app/models/Qwen3-ASR-1.7B")
    assert (settings.precision, settings.dtype) == ("fp16", "float16")
    assert settings.max_num_seqs == 8
    assert settings.max_audio_s == 30
    assert settings.language_detection is True
    assert settings.output_format == "text"
    assert settings.config_file == path
    [note] = settings.notes
    assert "preprocess.sh is not run" in note


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = write(tmp_path, batch_size=1, http_port=1111, segment_s=10, max_items=5)
    settings = load(
        "--max_num_seqs=3",
        env={"QWEN3_ASR_MAX_NUM_SEQS": "2", "QWEN3_ASR_HTTP_PORT": "2222"},
        file=path,
    )
    assert (settings.max_num_seqs, settings.http_port, settings.segment_s) == (3, 2222, 10.0)
    sources = {name: source for name, _, source in effective(settings)}
    assert sources["max_num_seqs"] == "flag --max_num_seqs"
    assert sources["http_port"] == "environment QWEN3_ASR_HTTP_PORT"
    assert sources["segment_s"] == f"file {path} key segment_s"
    assert sources["grpc_port"] == "default"


@pytest.mark.parametrize(
    "argv",
    [
        ["--enable_grpc=false", "--model_name", "m", "--log_level", "debug"],
        ["--enable-grpc", "no", "--model-name=m", "--log-level=debug"],
    ],
)
def test_flags_in_both_spellings(argv: list[str]) -> None:
    settings = load(*argv)
    assert (settings.enable_grpc, settings.model_name, settings.log_level) == (False, "m", "debug")


def test_a_boolean_flag_alone_is_true_and_negative_numbers_are_values() -> None:
    settings = load("--enable_grpc", "--loudness_lufs", "-23", env={"QWEN3_ASR_ENABLE_GRPC": "0"})
    assert settings.enable_grpc is True
    assert settings.loudness_lufs == -23.0


def test_optional_settings_are_switched_off_by_their_word(tmp_path: Path) -> None:
    path = write(tmp_path, high_pass_hz=80, audio_channel=1, loudness_lufs=None)
    assert load(file=path).high_pass_hz == 80.0
    settings = load("--high_pass_hz=off", "--audio_channel=mix", file=path)
    assert (settings.high_pass_hz, settings.audio_channel) == (None, "mix")
    assert settings.loudness_lufs is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batch_sise=3"], ["'--batch_sise'", "unknown"]),
        (["--http_prot", "1"], ["'--http_prot'", "did you mean 'http_port'?"]),
        (["model"], ["'model'", "unknown"]),
        (["--http_port"], ["--http_port", "value is missing"]),
        (["--http_port=eighty"], ["http_port='eighty'", "flag", "whole number from 0 to 65535"]),
        (["--http_port=70000"], ["http_port='70000'", "from 0 to 65535"]),
        (["--kv_memory_fraction=nan"], ["kv_memory_fraction='nan'", "from 0.01 to 1"]),
        (["--precision=int4"], ["precision='int4'", "auto, fp32, bf16, fp16, int8"]),
        (["--kv_precision=int8"], ["kv_precision='int8'", "auto, fp8"]),
        (["--aligner_precision=int8"], ["aligner_precision='int8'", "auto, fp32, bf16, fp16, fp8"]),
        (["--enable_grpc=maybe"], ["enable_grpc='maybe'", "true or false"]),
        (["--api_keys=x"], ["'--api_keys'", "unknown"]),
    ],
)
def test_bad_flags_are_named_with_what_would_be_right(argv: list[str], words: list[str]) -> None:
    message = refused(*argv)
    for word in words:
        assert word in message


def test_unknown_variables_with_our_prefix_stop_the_start() -> None:
    message = refused(env={"QWEN3_ASR_HTTP_PROT": "1", "OTHER": "x"})
    assert "QWEN3_ASR_HTTP_PROT" in message
    assert "QWEN3_ASR_HTTP_PORT" in message
    assert "OTHER" not in message


def test_variables_that_kubernetes_makes_for_services_are_no_settings() -> None:
    environ = {
        "QWEN3_ASR_SERVICE_HOST": "10.0.0.7",
        "QWEN3_ASR_SERVICE_PORT": "80",
        "QWEN3_ASR_SERVICE_PORT_HTTP": "80",
        "QWEN3_ASR_PORT": "tcp://10.0.0.7:80",
        "QWEN3_ASR_PORT_80_TCP": "tcp://10.0.0.7:80",
        "QWEN3_ASR_PORT_80_TCP_ADDR": "10.0.0.7",
        "QWEN3_ASR_PREDICTOR_SERVICE_HOST": "10.0.0.8",
        "QWEN3_ASR_HTTP_PORT": "tcp://10.0.0.9:80",  # a Service called qwen3-asr-http
    }
    assert load(env=environ).http_port == 8080


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(env={"QWEN3_ASR_HTTP_PORT": "", "MODEL_PATH": ""}).http_port == 8080


def test_the_prefixed_variable_beats_the_articles() -> None:
    settings = load(env={"MODEL_PATH": "/a", "QWEN3_ASR_MODEL_DIR": "/b"})
    assert settings.model_dir == Path("/b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"batch_sise": 8}', ["key 'batch_sise'", "did you mean 'batch_size'?"]),
        ('{"batch_size": "8"}', ["max_num_seqs='8'", "key batch_size", "whole number"]),
        ('{"batch_size": true}', ["max_num_seqs=True", "whole number"]),
        ('{"batch_size": 8.5}', ["max_num_seqs=8.5", "whole number"]),
        ('{"max_audio_length": Infinity}', ["max_audio_s=inf", "from 1 to 86400"]),
        ('{"language_detection": "true"}', ["language_detection='true'", "true or false"]),
        ('{"model_name": 7}', ["model_name=7", "text"]),
        ('{"batch_size": 8, "batch_size": 9}', ["'batch_size' is given twice"]),
        ('{"batch_size": 8, "max_num_seqs": 9}', ["are the same setting"]),
        ('{"api_keys": ["x"]}', ["key 'api_keys'", "unknown"]),
        ('{"batch_size": 8', ["line 1 column"]),
        ("[1]", ["JSON object", "list"]),
    ],
)
def test_bad_files_are_refused_by_key(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "model-config.json"
    path.write_text(content, encoding="utf-8")
    message = refused(file=path)
    assert str(path) in message
    for word in words:
        assert word in message


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    assert "No such file" in refused("--config_file", str(tmp_path / "none.json"))
    path = write(tmp_path, batch_size=5)
    assert load(env={"QWEN3_ASR_CONFIG_FILE": str(path)}).max_num_seqs == 5


def test_all_problems_come_in_one_message() -> None:
    message = refused("--http_port=x", "--nonsense_q=1", env={"QWEN3_ASR_PRECISION": "int4"})
    for word in ("http_port", "nonsense_q", "precision='int4' from environment"):
        assert word in message


def test_a_language_beats_detection_from_a_weaker_source(tmp_path: Path) -> None:
    file = tmp_path / "model-config.json"
    file.write_text('{"language_detection": true}')
    settings = load(f"--config_file={file}", env={"QWEN3_ASR_LANGUAGE": "en"})
    assert (settings.language, settings.language_detection) == ("en", False)
    message = refused("--language_detection=true", env={"QWEN3_ASR_LANGUAGE": "en"})
    assert "without detection" in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model_dir=/a", "--model_id=b/c"], ["model_dir=/a", "model_id=b/c", "one of them"]),
        (["--model_revision=main"], ["model_revision=main", "model_id"]),
        (["--language_detection=false"], ["language_detection=False", "needs a language"]),
        (["--language=en", "--language_detection=true"], ["language=en", "without detection"]),
        (["--grpc_port=8080"], ["http_port=8080", "grpc_port=8080", "must differ"]),
        (["--admin_port=8080"], ["http_port=8080", "admin_port=8080", "must differ"]),
        (["--segment_s=300"], ["segment_s=300", "max_model_len=3072", "tokens"]),
        (["--model_name=a//b"], ["model_name=a//b", "letters"]),
        (["--model_aliases=ok,no name"], ["model_aliases=", "letters"]),
        (["--kv_precision", "fp8", "--device", "cpu"], ["kv_precision=fp8", "device=cpu", "CUDA"]),
        (
            ["--kv_precision", "fp8", "--precision", "fp32"],
            ["kv_precision=fp8", "precision=fp32", "16 bits or less"],
        ),
    ],
)
def test_contradictions_name_both_sides(argv: list[str], words: list[str]) -> None:
    message = refused(*argv)
    for word in words:
        assert word in message


def test_a_language_turns_detection_off() -> None:
    settings = load("--language=English")
    assert (settings.language, settings.language_detection) == ("English", False)
    assert settings.sources["language_detection"] == "follows from language"


def test_a_hub_id_replaces_the_default_folder() -> None:
    settings = load("--model_id=Qwen/Qwen3-ASR-0.6B-hf", "--model_revision=v1")
    assert settings.model_dir is None
    assert settings.model_revision == "v1"


def test_secrets_come_from_the_environment_and_are_never_shown() -> None:
    settings = load(env={"QWEN3_ASR_API_KEYS": "alpha, beta"})
    assert settings.api_keys == ("alpha", "beta")
    lines = [" ".join(line) for line in effective(settings)]
    assert not any("alpha" in line or "beta" in line for line in lines)
    assert "api_keys (2 set) environment QWEN3_ASR_API_KEYS" in lines
    assert "alpha" not in repr(settings)


def test_settings_cannot_change() -> None:
    with pytest.raises(FrozenInstanceError):
        load().http_port = 1  # type: ignore[misc]


def test_help_and_table_hold_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load("--help")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert printed == help_text()
    table = markdown_table()
    for name, (spec, _) in specs().items():
        assert f"| `{name}` |" in table
        assert f"--{name}\n" in printed or spec.is_secret


def test_the_readme_has_the_table_of_the_code() -> None:
    readme = Path(__file__).parents[2] / "predictor" / "settings" / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin, end = "<!-- settings:begin -->\n", "<!-- settings:end -->"
    table = text.partition(begin)[2].partition(end)[0]
    assert table.strip() == markdown_table().strip(), "run: python -m predictor.settings.read"


def test_defaults_are_those_of_the_parts_they_go_to() -> None:
    settings = load()
    engine, limits, audio = EngineOptions(), AudioLimits(), AudioOptions()
    for option in (
        "max_num_seqs",
        "max_model_len",
        "kv_precision",
        "kv_memory_fraction",
        "max_prefill_audio_s",
        "max_tokens_per_audio_s",
        "stall_timeout_s",
    ):
        assert getattr(settings, option) == getattr(engine, option), option
    for limit in ("max_channels", "max_decoded_values", "decode_timeout_s", "max_pending_bytes"):
        assert getattr(settings, limit) == getattr(limits, limit), limit
    assert settings.max_body_bytes == limits.max_bytes
    assert settings.max_audio_s == limits.max_duration_s
    assert settings.audio_channel == audio.channel
    assert settings.high_pass_hz is audio.high_pass_hz
    assert settings.loudness_lufs is audio.loudness_lufs


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ([], "auto"),
        (["--precision=fp16"], "float16"),
        (["--precision=fp8"], "auto"),
        (["--precision=fp8", "--aligner_precision=bf16"], "bfloat16"),
        (["--precision=fp32", "--aligner_precision=fp8"], "fp8"),
    ],
)
def test_the_aligner_is_in_8_bits_only_by_its_own_name(flags: list[str], dtype: str) -> None:
    assert load(*flags).aligner_dtype == dtype


def test_every_setting_is_read_by_something() -> None:
    package = Path(__file__).parents[2] / "predictor"
    read = set()
    for path in package.rglob("*.py"):
        if path.stem not in ("config", "settings_parse", "settings_check", "settings_doc"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            read |= {node.attr for node in ast.walk(tree) if _is_read_of_settings(node)}
    known = set(specs())
    # A language is set exactly when detection is off: every other pair is refused.
    by_way_of = {
        "precision": "dtype",
        "aligner_precision": "aligner_dtype",
        "language_detection": "language",
        "model_aliases": "served_names",
    }
    unread = {name for name in known if name not in read and by_way_of.get(name) not in read}
    assert not unread


def _is_read_of_settings(node: ast.AST) -> TypeGuard[ast.Attribute]:
    if not isinstance(node, ast.Attribute):
        return False
    owner = node.value
    name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
    return name in ("settings", "_settings")
