"""The demo's page: whole, self-contained, the same twice, and safe whatever its strings hold."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from hansa.demo import report
from hansa.errors import DataError
from hansa.views.palette import KEYS

HOSTILE = '<script>alert("x")</script> $\\frac{1}{0$ & "id=\'#010101'
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects elements, attributes and texts, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def run(mode, names, together):
    return report.ModeResult(
        mode=mode,
        together=together,
        traffic={name: report.PartyTraffic(1_934_000, 18_400) for name in names},
        metric=0.9712,
        seconds=6.4,
        round_trips_per_tree=7.0,
        sent=report.SENT[mode],
        guarantee=report.GUARANTEE[mode],
    )


def case(*names, modes=("federated",), alone=0.9):
    parties = [report.PartyResult(name, 13_500, 4_500, 0.0112, alone) for name in names]
    return report.CaseResult(
        title="Sleeping cells",
        description="Three operators.",
        simulated=True,
        metric="AUC",
        higher_is_better=True,
        trees=100,
        parties=parties,
        modes=[run(mode, names, {name: 0.95 + 0.01 * i for i, name in enumerate(names)}) for mode in modes],
        pooled={"XGBoost": 0.9715, "Hansa": 0.9713},
        curves={"together, test rows": [0.8, 0.9, 0.95], "together, training rows": [0.9, 0.97]},
        importance={f"feature_{i}": 1.0 / (i + 1) for i in range(20)},
    )


def test_page_shows_the_numbers(tmp_path):
    report.write_report(tmp_path / "report.html", [case("aurora", "borealis", "cirrus")])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    shown = " ".join(page.texts)
    for expected in (
        "aurora",
        "0.9712",
        "0.9715",
        "0.9713",
        "0.9700",
        "+0.0700",
        "1.12 %",
        "1.93 MB",
        "18.4 kB",
    ):
        assert expected in shown, expected
    assert "Simulated data" in shown
    assert sum(tag == "svg" for tag, _ in page.elements) == 3
    assert "feature_14" in shown
    assert "feature_15" not in shown
    assert "What you are looking at" in shown
    assert "What left each organisation" in shown


def test_page_loads_nothing_and_runs_nothing():
    text = report.render_report([case("a", "b")])
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|javascript:", text.replace("<!DOCTYPE html>", ""))
    for tag, attributes in Page(text).elements:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed"}
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")


def test_hostile_strings_are_texts():
    names = (HOSTILE, "b", "c")
    hostile = dataclasses.replace(
        case(*names),
        title=HOSTILE,
        description=HOSTILE,
        metric=HOSTILE,
        curves={HOSTILE: [0.5, 0.6]},
        importance={HOSTILE: 1.0},
        pooled={HOSTILE: 0.5},
    )
    text = report.render_report([hostile])
    page = Page(text)
    assert "<script" not in text
    assert not any(tag == "script" for tag, _ in page.elements)
    assert "alert(" in " ".join(page.texts)
    assert sum(HOSTILE in piece for piece in page.texts) >= 5
    # In the figures too, dollars and key colours stay what they are.
    assert sum(piece.strip().startswith(HOSTILE[:27]) for piece in page.texts) >= 8


def test_modes_stand_side_by_side():
    names = ("aurora", "borealis", "cirrus")
    page = Page(report.render_report([case(*names, modes=("federated", "secure-aggregation"))]))
    shown = " ".join(page.texts)
    assert shown.count("together, secure-aggregation") == 1
    assert sum(tag == "tr" for tag, _ in page.elements) == 1 + len(names) * 2 + 2 * (1 + 6)
    assert "nobody; the aggregator reads the sum over all parties" in shown
    assert "the aggregator, party by party" in shown


def test_ids_are_unique_and_references_resolve():
    page = Page(report.render_report([case("a", "b"), case("a", "b")]))
    assert len(page.ids) == len(set(page.ids))
    for _, attributes in page.elements:
        for name, value in attributes.items():
            if name in {"href", "xlink:href"}:
                assert value[1:] in page.ids
            if name == "clip-path":
                assert value[len("url(#") : -1] in page.ids


def test_colours_follow_the_page():
    text = report.render_report([case("a", "b", modes=("federated", "secure-aggregation"))])
    assert "prefers-color-scheme: dark" in text
    assert not any(colour in text for colour in KEYS.values())
    style = text[: text.index("</style>")]
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)\)", text)):
        assert style.count(f"{variable}:") == 3, f"{variable} needs a colour for light, dark and paper"
    # Whatever matplotlib draws by default would be invisible on one of the two backgrounds.
    drawn = " ".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set()


def test_a_party_that_cannot_train_alone_is_a_dash_and_explained():
    explained = "A dash under “alone” means"
    assert explained not in report.render_report([case("a", "b")])
    text = report.render_report([case("a", "b", alone=None)])
    assert explained in text
    assert text.count("<td>–</td>") == 2
    nothing = {"a": None, "b": None}
    one_class = dataclasses.replace(case("a", "b"), modes=[run("federated", ("a", "b"), nothing)])
    assert report.render_report([one_class]).count("<td>–</td>") == 2


def test_regression_has_no_positives_and_smaller_is_better():
    parties = [report.PartyResult(name, 10, 5, None, 0.5) for name in ("a", "b")]
    errors = dataclasses.replace(
        case("a", "b"),
        parties=parties,
        metric="RMSE",
        higher_is_better=False,
        modes=[run("federated", ("a", "b"), {"a": 0.4, "b": 0.6})],
    )
    text = report.render_report([errors])
    assert "positives</th>" not in text
    assert '<span class="better">-0.1000</span>' in text
    assert '<span class="worse">+0.1000</span>' in text


def test_same_cases_same_bytes():
    assert report.render_report([case("a", "b")]) == report.render_report([case("a", "b")])


def test_figures_without_numbers_are_left_out():
    bare = dataclasses.replace(case("a", "b"), curves={}, importance={}, pooled={})
    page = Page(report.render_report([bare]))
    assert sum(tag == "svg" for tag, _ in page.elements) == 1


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="no cases"):
        report.render_report([])
    with pytest.raises(DataError, match="has no runs"):
        report.render_report([dataclasses.replace(case("a"), modes=[])])
    with pytest.raises(DataError, match=r"together names \['b'\], the case's parties are \['a'\]"):
        report.render_report([dataclasses.replace(case("a"), modes=[run("federated", ("a",), {"b": 0.5})])])


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (206_000_000, "206 MB")]
)
def test_bytes_are_readable(size, text):
    assert report._bytes(size) == text


def test_under_shares_there_is_no_aggregator_and_rows_did_leave():
    page = Page(report.render_report([case("a", "b", modes=("coopetitive",))]))
    shown = " ".join(" ".join(page.texts).split())
    assert "Rows and labels did leave, as shares, and there is no aggregator" in shown
    assert "stayed where they were" not in shown
    assert "the aggregator reads" not in shown
    assert "kept its rows on its own side" not in shown


def test_three_modes_are_rows_and_not_columns():
    modes = ("federated", "secure-aggregation", "coopetitive")
    three, one = (Page(report.render_report([case("a", "b", modes=own)])) for own in (modes, modes[:1]))
    columns = [
        sum(tag == "th" and attributes.get("scope") == "col" for tag, attributes in p.elements) for p in (three, one)
    ]
    assert columns == [10, 9]
    assert set(report.LEFT) == set(report.SENT)
