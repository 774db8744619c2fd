"""Joining by a one-time code: the card that comes back is that of whoever was told the code."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from hansa.consortium.envelopes import EnvelopeJson, encoded, opened, sealed, sign, written
from hansa.consortium.identity import create_identity
from hansa.consortium.invitations import AnswerStatement, answer, invite, read_answer, read_invitation
from hansa.consortium.members import table_of
from hansa.consortium.versions import added, found, signed
from hansa.errors import HansaError, IdentityError

NORTH, SOUTH, EVE = create_identity("north"), create_identity("south"), create_identity("south")
FOUNDED = found("nordic", [], NORTH)
NOW = datetime.now(UTC)


@pytest.fixture
def invited(tmp_path):
    content, code = invite(FOUNDED, "south", NORTH)
    (tmp_path / "invitation.json").write_bytes(content)
    return read_invitation(tmp_path / "invitation.json"), code


def test_the_card_that_comes_back_is_bound_by_the_code(tmp_path, invited):
    invitation, code = invited
    (tmp_path / "answer.json").write_bytes(answer(invitation, code.upper(), SOUTH))
    card, digest = read_answer(tmp_path / "answer.json", FOUNDED, NORTH)
    assert (card, digest) == (SOUTH.card(), invitation.digest)
    whole = signed(added(FOUNDED, [card], [digest], NORTH), SOUTH)
    assert whole.head.missing == ()
    with pytest.raises(IdentityError, match="was used before"):
        added(whole, [create_identity("west").card()], [digest], NORTH)


def test_files_hold_no_code_and_each_invitation_has_its_own(tmp_path, invited):
    _, code = invited
    content = (tmp_path / "invitation.json").read_text()
    another, other_code = invite(FOUNDED, "south", NORTH)
    assert code not in content
    # A word may be one that every invitation has, such as "member".
    assert not any(word in content and word.encode() not in another for word in code.split() if len(word) > 5)
    assert other_code != code


def test_a_wrong_code_is_refused_at_the_new_member(invited):
    invitation, _ = invited
    _, other = invite(FOUNDED, "south", NORTH)
    with pytest.raises(IdentityError, match="the code is not that of this invitation") as caught:
        answer(invitation, other, SOUTH)
    assert caught.value.rule == "the code is the invitation's"
    with pytest.raises(IdentityError, match="the code: has 1 words, expected 6"):
        answer(invitation, "abandon", SOUTH)


def test_who_makes_an_invitation_up_does_not_know_the_code_that_was_told(tmp_path, invited):
    """Eve sends an invitation of her own in north's name: south was told north's code."""
    _, code = invited
    posing = create_identity("north")
    content, _ = invite(found("nordic", [], posing), "south", posing)
    (tmp_path / "eve.json").write_bytes(content)
    with pytest.raises(IdentityError, match="not from 'north'"):
        answer(read_invitation(tmp_path / "eve.json"), code, SOUTH)


def test_a_card_that_is_put_in_on_the_way_is_refused(tmp_path, invited):
    invitation, code = invited
    genuine = answer(invitation, code, SOUTH)
    statement, _, _ = opened(msgspec.json.decode(genuine, type=EnvelopeJson), AnswerStatement, "it")
    predicate = msgspec.structs.replace(statement.predicate, card=table_of(EVE.card()))
    payload = encoded(msgspec.structs.replace(statement, predicate=predicate))
    (tmp_path / "answer.json").write_bytes(written(sealed(payload, {EVE.public: sign(EVE, payload)})))
    with pytest.raises(IdentityError, match="did not know the code") as caught:
        read_answer(tmp_path / "answer.json", FOUNDED, NORTH)
    assert caught.value.rule == "the answer proves the code"
    (tmp_path / "answer.json").write_bytes(written(sealed(payload, {SOUTH.public: sign(SOUTH, payload)})))
    with pytest.raises(HansaError):
        read_answer(tmp_path / "answer.json", FOUNDED, NORTH)


def test_an_invitation_has_its_time_and_its_name(tmp_path, invited):
    invitation, code = invited
    late = NOW + timedelta(days=8)
    with pytest.raises(IdentityError, match="the invitation was open until") as caught:
        answer(invitation, code, SOUTH, now=late)
    assert caught.value.rule == "an invitation has its time"
    (tmp_path / "answer.json").write_bytes(answer(invitation, code, SOUTH))
    with pytest.raises(IdentityError, match="the invitation was open until"):
        read_answer(tmp_path / "answer.json", FOUNDED, NORTH, now=late)
    with pytest.raises(IdentityError, match="is for 'south', and this identity is 'west'"):
        answer(invitation, code, create_identity("west"))
    for days in (0, 91):
        with pytest.raises(IdentityError, match="for 1 to 90 days"):
            invite(FOUNDED, "south", NORTH, days=days)
    with pytest.raises(IdentityError, match="'north' is a member of nordic already"):
        invite(FOUNDED, "north", NORTH)
    with pytest.raises(IdentityError, match="'south' is no member of nordic with this key"):
        invite(FOUNDED, "west", SOUTH)


def test_only_the_inviter_takes_the_answer(tmp_path, invited):
    invitation, code = invited
    (tmp_path / "answer.json").write_bytes(answer(invitation, code, SOUTH))
    west = create_identity("west")
    both = signed(found("nordic", [west.card()], NORTH), west)
    with pytest.raises(IdentityError, match="only that member can take it"):
        read_answer(tmp_path / "answer.json", both, west)
    with pytest.raises(IdentityError, match="only that member can take it"):
        read_answer(tmp_path / "answer.json", found("other", [], NORTH), NORTH)


@pytest.mark.parametrize("which", ["invitation.json", "answer.json"])
def test_no_byte_of_a_payload_can_be_changed(tmp_path, invited, which):
    invitation, code = invited
    (tmp_path / "answer.json").write_bytes(answer(invitation, code, SOUTH))
    path = tmp_path / which
    read = (lambda: read_answer(path, FOUNDED, NORTH)) if which == "answer.json" else (lambda: read_invitation(path))
    document = json.loads(path.read_bytes())
    payload = base64.b64decode(document["payload"])
    for place in range(0, len(payload), 97):
        changed = bytearray(payload)
        changed[place] ^= 1
        document["payload"] = base64.b64encode(changed).decode()
        path.write_text(json.dumps(document))
        with pytest.raises(HansaError):
            read()
