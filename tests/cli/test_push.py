"""`mtl push`: nothing leaves before a yes, and a license is asked for."""

import pytest

from hub_server import hub_server
from trained import copy_of

# A warning of the library about itself.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_nothing_is_sent_without_a_yes_and_a_license(run, tmp_path, mtl, monkeypatch):
    copy = copy_of(run, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecretsecretsecretse")
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        code, _, error = mtl("push", copy, "me/name", "--yes")
        assert code == 2 and "the license in README.md is not filled in" in error
        card = copy / "README.md"
        card.write_text(card.read_text().replace("license: other", "license: mit"))
        code, _, error = mtl("push", copy, "me/name")
        assert code == 2 and f"to me/name on {hub.address}" in error and "heads.safetensors" in error
        assert error.endswith("error: nothing was sent: add --yes to send these files\n")
        assert hub.requests == []
        code, out, _ = mtl("push", copy, "me/name", "--yes")
        assert code == 0 and out.startswith(f"{hub.address}/me/name/commit/")
        assert b"license: mit" in hub.files["main"]["README.md"]


def test_a_damaged_run_is_not_sent(run, tmp_path, mtl):
    copy = copy_of(run, tmp_path)
    (copy / "heads.safetensors").write_bytes(b"")
    code, _, error = mtl("push", copy, "me/name", "--yes", "--private")
    assert code == 2 and "is not as it was written (sha256 differs)" in error
