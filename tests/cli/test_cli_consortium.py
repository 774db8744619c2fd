"""A consortium is founded, joined, changed and used by commands; members that are not signed for do not run."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from hansa.cli.consortium import Shown
from hansa.consortium.identity import load_identity
from hansa.consortium.members import read_members
from hansa.consortium.versions import read_pinned
from hansa.consortium.words import words_of
from made_consortium import HUB, PARTIES, Consortium, assert_refused, hansa, write_member

AURORA, BOREALIS = PARTIES


class Papers:
    """The consortium's file in a folder with identities, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "consortium.json"

    def keys(self, name: str) -> tuple[str | Path, ...]:
        return ("--identity", self.folder / f"{name}.identity")

    def run(self, command: str, *arguments: str | Path, by: str, ok: bool = True):
        done = hansa("consortium", command, *arguments, *self.keys(by), "--consortium", self.file)
        assert not ok or done.exit_code == 0, done.output
        return done

    def found(self) -> None:
        cards = [self.folder / f"{name}.identity" / "card.toml" for name in PARTIES]
        done = hansa("consortium", "create", "nordic", *cards, *self.keys(HUB), "--save", self.file)
        assert "still to sign: aurora, borealis" in done.stdout, done.output
        for name in PARTIES:
            assert_refused(
                hansa("party", write_member(self.folder, name, 1, members=self.file.name)), "still lacks the signature"
            )
            self.run("sign", by=name)

    def shown(self) -> Shown:
        return msgspec.json.decode(hansa("consortium", "show", self.file, "--json").stdout, type=Shown)

    def fresh(self, name: str, folder: str) -> Path:
        assert hansa("init", name, "--folder", self.folder / folder, "--no-passphrase").exit_code == 0
        return self.folder / folder


@pytest.fixture
def papers(consortium: Consortium) -> Papers:
    return Papers(consortium.folder)


def test_members_join_by_codes_and_run_on_what_all_signed(consortium: Consortium, papers: Papers):
    folder = consortium.folder
    assert hansa("consortium", "create", "nordic", *papers.keys(HUB), "--save", papers.file).exit_code == 0
    answers = []
    for name in PARTIES:
        invited = papers.run("invite", name, "--save", folder / f"{name}-invitation.json", by=HUB).stdout.splitlines()
        answers.append(folder / f"{name}-answer.json")
        code = ("--code", invited[1], "--save", answers[-1])
        joined = hansa("consortium", "join", folder / f"{name}-invitation.json", *papers.keys(name), *code)
        assert joined.exit_code == 0, joined.output
        assert words_of(load_identity(folder / f"{HUB}.identity").public) in joined.stdout
        wrong = ("--code", "abandon " * 6, "--save", folder / "x.json")
        refused = hansa("consortium", "join", folder / f"{name}-invitation.json", *papers.keys(name), *wrong)
        assert_refused(refused, "the code is not that of this invitation")
    papers.run("add", *answers, by=HUB)
    copies = []
    for name in PARTIES:
        copies.append(folder / f"{name}-consortium.json")
        papers.run("sign", "--held", papers.file, "--save", copies[-1], by=name)
    merged = hansa("consortium", "merge", *copies, "--save", papers.file)
    assert "it holds" in merged.stdout, merged.output
    found = papers.shown()
    assert [own.kind for own in found.versions] == ["founded", "added"]
    assert found.versions[1].signed_by == (AURORA, BOREALIS, HUB)
    assert {own.member: own.words for own in found.members} == {
        name: words_of(load_identity(folder / f"{name}.identity").public) for name in (HUB, *PARTIES)
    }
    own = {"members": papers.file.name, "policy": {"signed_members_only": True}}
    hub, port = consortium.start_hub(**own)
    parties = [consortium.start_party(name, port, **own) for name in PARTIES]
    assert [each.end()[0] for each in (*parties, hub)] == [0, 0, 0]
    assert json.loads((folder / f"{HUB}-record.json").read_text())["members"] == found.members_digest


def test_a_policy_may_ask_for_a_signed_file(consortium: Consortium):
    member = write_member(consortium.folder, AURORA, 1, policy={"signed_members_only": True})
    assert_refused(hansa("party", member), "signed_members_only", "hansa consortium create")
    report = hansa("check", consortium.folder / "plan.toml", "--member", member)
    assert report.exit_code == 1
    assert "NOT MET: members of" in report.stdout


def test_a_file_that_this_member_never_signed_is_refused(consortium: Consortium, papers: Papers):
    """Somebody with access to the disk puts a consortium of others' keys in the place of the right one."""
    papers.found()
    folder = consortium.folder
    card = folder / f"{AURORA}.identity" / "card.toml"
    others = [papers.fresh(name, f"{name}.posing") for name in (HUB, BOREALIS)]
    cards = [card, *(own / "card.toml" for own in others)]
    founder = ("--identity", others[0])
    assert hansa("consortium", "create", "nordic", *cards, *founder, "--save", folder / "posing.json").exit_code == 0
    posing = ("--identity", others[1], "--consortium", folder / "posing.json")
    assert "still to sign: aurora" in hansa("consortium", "sign", *posing).stdout
    member = write_member(folder, AURORA, 1, members="posing.json")
    assert_refused(hansa("party", member), "still lacks the signature of aurora")
    done = hansa("consortium", "merge", folder / "posing.json", "--save", papers.file)
    assert_refused(done, "two histories of nordic")
    mine = papers.fresh(AURORA, "aurora.posing")
    cards = [own / "card.toml" for own in (mine, *others)]
    whole = folder / "whole.json"
    assert hansa("consortium", "create", "nordic", *cards, *founder, "--save", whole).exit_code == 0
    for own in (mine, others[1]):
        done = hansa("consortium", "sign", "--identity", own, "--consortium", whole)
    assert "it holds" in done.stdout
    member = write_member(folder, AURORA, 1, members="whole.json")
    assert_refused(hansa("party", member), "this identity signed no version of it")


def test_a_rotated_key_is_taken_and_the_old_one_no_more(consortium: Consortium, papers: Papers):
    papers.found()
    folder = consortium.folder
    own = {"members": papers.file.name}

    def run(identity: str) -> None:
        hub, port = consortium.start_hub(**own)
        parties = [
            consortium.start_party(AURORA, port, **own),
            consortium.start_party(BOREALIS, port, identity=identity, **own),
        ]
        assert [each.end()[0] for each in (*parties, hub)] == [0, 0, 0]

    run(f"{BOREALIS}.identity")
    new = papers.fresh(BOREALIS, "borealis.new")
    done = papers.run("rotate", "--new", new, by=BOREALIS)
    assert "rotated borealis; signed by borealis, borealis (earlier key)" in done.stdout
    run(new.name)
    for name in (HUB, *PARTIES):  # logs go on, and what the earlier key signed verifies
        report = hansa("audit", "verify", folder / f"{name}.audit", "--members", papers.file)
        assert "2 runs, 0 refused" in report.stdout, report.output
    old = write_member(folder, BOREALIS, 1, **own)
    assert_refused(hansa("party", old), "not the certificate of 'borealis' in the members file")
    assert papers.shown().earlier[0].member == BOREALIS


def test_a_renewed_card_needs_its_members_signature_alone(consortium: Consortium, papers: Papers):
    papers.found()
    new = consortium.folder / "aurora.new"
    renewed = ("--renew", consortium.folder / "aurora.identity", "--folder", new, "--no-passphrase")
    assert hansa("init", AURORA, *renewed).exit_code == 0
    assert "it holds" in papers.run("rotate", "--new", new, by=AURORA).stdout
    assert papers.shown().versions[-1].kind == "renewed"
    assert read_pinned(papers.file)[AURORA].certificate == load_identity(new).certificate


def test_a_lost_key_is_replaced_by_all_others(consortium: Consortium, papers: Papers):
    papers.found()
    new = papers.fresh(BOREALIS, "borealis.new")
    done = hansa("consortium", "rotate", "--new", new, "--identity", new, "--consortium", papers.file)
    assert "still to sign: borealis (earlier key)" in done.stdout
    papers.run("sign", by=AURORA)
    assert "it holds" in papers.run("sign", by=HUB).stdout


def test_removing_leaving_a_change_and_exporting(consortium: Consortium, papers: Papers):
    papers.found()
    held = papers.file.read_bytes()
    assert "still to sign: hub" in papers.run("remove", BOREALIS, by=AURORA).stdout
    assert_refused(papers.run("remove", HUB, by=AURORA, ok=False), "still lacks the signature of hub")
    done = papers.run("revoke", BOREALIS, "--reason", "stolen", "--anew", by=BOREALIS)
    assert "it holds" in done.stdout
    exported = consortium.folder / "exported.toml"
    assert hansa("consortium", "export", papers.file, "--save", exported).exit_code == 0
    assert dict(read_members(exported)) == dict(read_pinned(papers.file))
    assert set(read_members(exported)) == {HUB, AURORA}
    (consortium.folder / "held.json").write_bytes(held)
    merged = hansa("consortium", "merge", papers.file, "--save", consortium.folder / "held.json")
    assert "version 2, 2 members" in merged.stdout
    missing = write_member(consortium.folder, AURORA, 1, members=papers.file.name)
    assert_refused(hansa("party", missing), "'borealis' was revoked in version 2 (stolen)", "nothing runs with it")
    assert_refused(hansa("consortium", "create", "x", *papers.keys(HUB), "--save", papers.file), "is there already")
