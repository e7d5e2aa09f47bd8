import json
from html import unescape
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.run_folder import chart_macro
from tinyllama.report.plots import MAX_POINTS, Chart, Mark, Series, smoothed, thin

finite = st.floats(-1e9, 1e9)


def _chart(*series: Series, **changes) -> Chart:
    return Chart("c", "A caption", "unit", "A title", "loss", series, **changes)


def _data(svg: str) -> dict:
    return json.loads(ElementTree.fromstring(svg).attrib["data-chart"])


def test_a_chart_is_well_formed_and_carries_every_value():
    points = [(1.0, 4.125), (2.0, 3.0625), (10.0, 2.5)]
    svg = chart_macro("svg", _chart(Series("training", points), Series("validation", [(10.0, 2.75)], "dots")))
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "c-title c-text"
    assert root.findtext("title") == "A title"
    assert root.findtext("desc") == (
        "loss by step. training: from 4.125 to 2.5 over 3 points; validation: from 2.75 to 2.75 over 1 points."
    )
    shown = [point[2:] for series in _data(svg)["series"] for point in series["points"]]
    assert shown == [["1", "4.125"], ["2", "3.0625"], ["10", "2.5"], ["10", "2.75"]]


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30), st.booleans())
def test_points_stay_inside_the_chart(points, log_y: bool):
    points = sorted(points)
    svg = chart_macro("svg", _chart(Series("s", points), log_y=log_y))
    if log_y and all(y <= 0 for _, y in points):
        assert svg == ""
        return
    for x, y, *_ in _data(svg)["series"][0]["points"]:
        assert 0 <= x <= 920
        assert 0 <= y <= 340


def test_missing_values_leave_no_trace():
    nan, inf = float("nan"), float("inf")
    svg = chart_macro("svg", _chart(Series("s", [(1, nan), (2, 5.0), (3, inf), (4, 6.0)])))
    assert [point[2] for point in _data(svg)["series"][0]["points"]] == ["2", "4"]
    assert "nan" not in svg
    assert "inf" not in svg
    assert chart_macro("svg", _chart(Series("s", [(1, nan)]))) == ""
    assert chart_macro("svg", _chart()) == ""


def test_one_point_is_a_dot():
    assert "<circle" in chart_macro("svg", _chart(Series("s", [(1, 1.0)])))


def test_marks_show_what_happened():
    marks = [
        Mark(2, "resumed at step 2", "resume"),
        Mark(3, "checkpoint saved at step 3", "save"),
        Mark(99, "later", "save"),
    ]
    chart = _chart(Series("s", [(1, 1.0), (5, 2.0)]), marks=marks)
    svg = chart_macro("svg", chart)
    assert "resumed at step 2" in svg
    assert "checkpoint saved at step 3" in svg
    assert "later" not in svg  # outside the axis
    assert "resumed" in chart_macro("legend", chart)
    assert chart_macro("legend", _chart(Series("s", [(1, 1.0)]))) == ""


def test_hostile_names_are_escaped():
    svg = chart_macro("svg", _chart(Series("</svg><script>x</script>", [(1, 1.0), (2, 2.0)])))
    assert "<script" not in svg
    assert "</svg><script>x</script>" in unescape(svg)


@given(st.lists(finite, min_size=1, max_size=3000))
def test_thinning_keeps_ends_and_extremes(values):
    points = [(float(index), value) for index, value in enumerate(values)]
    kept = thin(points)
    assert len(kept) <= MAX_POINTS + 4
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert set(kept) <= set(points)
    for extreme in (min, max):
        assert extreme(y for _, y in kept) == extreme(values)


def test_smoothing_by_hand():
    points = [(float(index), float(index % 2)) for index in range(40)]
    smooth = smoothed(points, 2)
    assert smooth[:8] == points[:8]  # nothing before to take
    assert smooth[16][1] == pytest.approx(2 / 5)  # 0 1 0 1 0
    assert [x for x, _ in smooth] == [x for x, _ in points]
    assert smoothed([], 3) == []


@given(st.lists(finite, min_size=1, max_size=200), st.integers(0, 50))
def test_smoothing_stays_within_the_values(values, radius: int):
    smooth = [y for _, y in smoothed(list(enumerate(values)), radius)]
    room = 1e-6 * max(1.0, *(abs(value) for value in values))
    assert min(values) - room <= min(smooth)
    assert max(smooth) <= max(values) + room
