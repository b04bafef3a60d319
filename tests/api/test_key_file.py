"""API keys with names from a mounted file, rotated while the server runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.api.auth import KeyRing
from predictor.api.client_secrets import ClientSecrets
from predictor.api.key_file import LOOK_EVERY_S, KeyFile
from predictor.errors import InvalidInput, Unauthorized
from predictor.logs import noting
from predictor.settings.secret_files import read_keys


class Clock:
    """Moved by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def key_of(ring: KeyRing, key: str) -> object:
    """The name of the key a request is let in by."""
    with noting() as noted:
        ring.check({"authorization": f"Bearer {key}"})
    return noted["key"]


def test_lines_name_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# callers\nmobile abc\n\n  def  \nweb ghi\n")
    assert read_keys(file) == {"mobile": b"abc", "line-4": b"def", "web": b"ghi"}
    for wrong, said in (("a b c", "line 1: must be NAME KEY"), ("a b\na c", "line 2: the name a")):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=said):
            read_keys(file)


def test_a_mounted_secret_is_a_folder_with_links(tmp_path: Path) -> None:
    """As the kubelet writes it: files are links through `..data`, replaced at once."""
    (tmp_path / "..one").mkdir()
    (tmp_path / "..one/mobile").write_text("abc\n")
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "mobile").symlink_to("..data/mobile")
    assert read_keys(tmp_path) == {"mobile": b"abc"}


def test_keys_are_rotated_and_a_broken_file_locks_nobody_out_or_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("old abc\n")
    ring = KeyRing(["fixed"], KeyFile(file, clock))
    assert (key_of(ring, "abc"), key_of(ring, "fixed")) == ("old", "key-1")
    file.write_text("old abc\nnew xyz\n")
    with pytest.raises(Unauthorized):
        key_of(ring, "xyz")
    clock.now_s += LOOK_EVERY_S
    assert (key_of(ring, "abc"), key_of(ring, "xyz")) == ("old", "new")
    for broken in ("", "a b c\n"):
        file.write_text(broken)
        clock.now_s += LOOK_EVERY_S
        assert key_of(ring, "xyz") == "new"
        with pytest.raises(Unauthorized):
            key_of(ring, "")
    file.unlink()
    for _ in range(3):
        clock.now_s += LOOK_EVERY_S
        assert key_of(ring, "xyz") == "new"
    assert sum("No such file" in line for line in caplog.messages) == 1
    file.write_text("new xyz\n")
    clock.now_s += LOOK_EVERY_S
    with pytest.raises(Unauthorized):
        key_of(ring, "abc")
    assert not any("xyz" in line for line in caplog.messages)


def test_a_file_without_keys_does_not_open_the_door(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    with pytest.raises(ValueError, match="holds no key"):
        KeyFile(tmp_path / "keys")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"anchor": "last_active_at"}, "expires_after.anchor"),
        ({"anchor": None}, "expires_after.anchor"),
        ({"anchor": ["created_at"], "seconds": 60}, "expires_after.anchor"),
        ({"seconds": 5}, "expires_after.seconds"),
        ({"seconds": True}, "expires_after.seconds"),
        ({"minutes": 5}, "expires_after.minutes"),
        ([], "expires_after"),
        (600, "expires_after"),
    ],
)
def test_what_openais_schema_of_a_lifetime_does_not_allow(given: object, field: str) -> None:
    """The schema: openai.types.realtime.ClientSecretCreateParams."""
    with pytest.raises(InvalidInput) as caught:
        ClientSecrets(KeyRing(())).create({"expires_after": given}, ["qwen3-asr"])
    assert caught.value.field == field


@pytest.mark.parametrize(
    "given", [{"seconds": 60}, {"seconds": 60.0}, {"anchor": "created_at"}, {}]
)
def test_what_it_allows(given: object) -> None:
    """1456.0 is an integer to JSON's schemas."""
    made = ClientSecrets(KeyRing(())).create({"expires_after": given}, ["qwen3-asr"])
    assert made["value"].startswith("ek_")


def test_client_secrets_go_with_the_keys_that_signed_them(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("old abc\n")
    ring = KeyRing((), KeyFile(file, clock))
    secrets = ClientSecrets(ring)
    value = secrets.create({}, ["qwen3-asr"])["value"]
    secrets.open(ring, value, {})
    file.write_text("new xyz\n")
    clock.now_s += LOOK_EVERY_S
    with pytest.raises(Unauthorized, match="not valid"):
        secrets.open(ring, value, {})
