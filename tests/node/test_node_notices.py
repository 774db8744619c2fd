"""`node/notices.py`: who is waited for, in words."""

from __future__ import annotations

import pytest

from hansa.node import notices
from hansa.node.events import Listening, Stage
from hansa.node.notices import NoticeWriter
from hansa.roles.run import Binned, Registered, TableDescribed, Trained, TreeGrown
from hansa.transport.notices import Notice


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_members_that_join_are_counted_and_those_to_come_named():
    watch = NoticeWriter()
    watch.listens()
    assert watch.sentence(Notice("joined", "aurora", ("borealis", "cirrus"))) == (
        "aurora joined, 1 of 3; waiting for borealis, cirrus"
    )
    assert watch.sentence(Notice("joined", "cirrus", ("borealis",))) == "cirrus joined, 2 of 3; waiting for borealis"
    assert (
        watch.sentence(Notice("left", "aurora", ("aurora", "borealis"))) == "aurora left; waiting for aurora, borealis"
    )
    assert watch.sentence(Notice("joined", "borealis", ("aurora",))) == "borealis joined, 2 of 3; waiting for aurora"
    assert watch.sentence(Notice("joined", "aurora")) == "aurora joined, 3 of 3"


def test_a_member_that_dials_counts_nobody_as_it_hears_only_of_those_who_join_after_it():
    said = NoticeWriter().sentence(Notice("joined", "aurora", ("borealis",)))
    assert said == "aurora joined; waiting for borealis"


@pytest.mark.parametrize(
    ("notice", "words"),
    [
        (Notice("away", "borealis", seconds=12.2, limit_s=60), "borealis is away, 12 s of 60"),
        (Notice("away", "borealis", seconds=3, text="hung up"), "borealis is away, 3 s so far: hung up"),
        (Notice("back", "borealis", seconds=12), "borealis is back after 12 s"),
        (Notice("lost", "borealis", text="it did not come back"), "borealis is lost: it did not come back"),
        (Notice("waiting", "", ("a", "b"), seconds=30, limit_s=600), "waiting for a, b, 30 s of 600"),
        (Notice("listening", "", ("a", "b")), "waiting for a, b, 0 s so far"),
        (Notice("dialling", "hub", seconds=4, limit_s=600), "looking for hub, 4 s of 600"),
        (
            Notice("stalled", "hub", seconds=41, limit_s=60),
            "data for hub is on the way and not acknowledged, 41 s of 60",
        ),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_every_notice_has_a_sentence(notice, words):
    assert NoticeWriter().sentence(notice) == words


def test_what_lasts_is_logged_when_it_begins_or_changes_and_now_and_then():
    clock = Clock()
    watch = NoticeWriter(clock)
    waiting = Notice("waiting", "", ("a", "b"))
    assert [watch.is_news(waiting), watch.is_news(waiting)] == [True, False]
    assert watch.is_news(Notice("waiting", "", ("b",)))
    clock.now += notices.REPEAT_S
    assert watch.is_news(Notice("waiting", "", ("b",)))
    away = Notice("away", "b")
    assert [watch.is_news(away), watch.is_news(away)] == [True, False]
    assert watch.is_news(Notice("back", "b"))
    assert watch.is_news(away), "a new absence is news although the last was a moment ago"


def test_trees_are_logged_now_and_then():
    clock = Clock()
    watch = NoticeWriter(clock)
    tree = TreeGrown(trees=3, rounds=10, metrics={"auc": 0.75})
    assert watch.stage(tree) == "training, 3 of at most 10 rounds; auc 0.75000"
    assert watch.stage(tree) == ""
    clock.now += notices.REPEAT_S
    assert watch.stage(tree)


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (Listening(host="h", port=1, member="hub"), "listening at h:1"),
        (Registered(trees=0, rounds=3), "all members have joined; the run begins"),
        (TableDescribed(trees=0, rounds=3), "the pooled table is described; the run is over"),
        (Binned(trees=0, rounds=3), "the cuts are found; training begins, 0 of at most 3 rounds"),
        (Trained(trees=2, rounds=3), "training is over after 2 of at most 3 rounds"),
        (Stage(text="pooled, Hansa"), "pooled, Hansa"),
    ],
)
def test_every_stage_of_a_run_has_a_sentence(event, sentence):
    assert NoticeWriter().stage(event) == sentence
