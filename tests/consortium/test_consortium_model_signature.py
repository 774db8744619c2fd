"""OpenSSF model signatures, checked by the tool that nobody here wrote, and held to the member's statement."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from test_consortium_approvals import MEMBERS
from test_consortium_provenance import RUN, model, statement

from hansa.consortium.model_signature import key_file, sign_model
from hansa.consortium.provenance import transcript_digest, verify_model
from hansa.errors import HansaError, IdentityError, PlanError


def signed(tmp_path):
    path = model(tmp_path)
    signature = tmp_path / "model.sig"
    public = sign_model(path, signature)
    told = statement(
        tmp_path, "aurora", replace(RUN, release_key=public, transcript=transcript_digest({"a>b": "0" * 64}))
    )
    return path, signature, told


def test_a_signed_model_is_held_to_the_members_statement(tmp_path):
    path, signature, told = signed(tmp_path)
    found = verify_model(path, [told], MEMBERS, signature)
    assert found.signed_by == "aurora"
    assert "model signature by a key of aurora: it holds" in "\n".join(found.lines())
    assert len(found.transcripts["aurora"]) == 64
    before = path.read_bytes()
    assert b"aurora" not in before  # the model's bytes hold nothing of the run
    other = sign_model(path, tmp_path / "other.sig")
    assert other != key_file(signature).read_text()
    with pytest.raises(IdentityError, match="is no signature of"):
        verify_model(path, [told], MEMBERS, tmp_path / "other.sig")
    (tmp_path / "none.sig").write_bytes(b"{}")
    with pytest.raises(IdentityError, match="ask that member for its files anew"):
        verify_model(path, [told], MEMBERS, tmp_path / "none.sig")
    with pytest.raises(PlanError, match="names no key of a model signature"):
        verify_model(path, [statement(tmp_path, "borealis")], MEMBERS, signature)


def test_a_changed_model_is_found(tmp_path):
    path, signature, told = signed(tmp_path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(HansaError, match="of another model"):
        verify_model(path, [told], MEMBERS, signature)


@pytest.mark.slow
def test_the_tool_of_openssf_accepts_it_and_refuses_another_model(tmp_path):
    path, signature, _ = signed(tmp_path)
    command = [
        *(sys.executable, "-m", "model_signing", "verify", "key", str(path)),
        *("--signature", str(signature), "--public_key", str(key_file(signature))),
    ]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    path.write_bytes(b"another")
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
