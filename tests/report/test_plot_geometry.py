"""Where a chart puts what it shows, worked out by hand: the plot is x 56 to 904 and y 14 to 300 of 920 x 340."""

import json
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.report.run_folder import chart_macro
from tinyllama.report.plots import Chart, Mark, Point, Series, smoothed, thin
from tinyllama.report.ticks import percent

DIAGONAL = [(0.0, 0.0), (5.0, 50.0), (10.0, 100.0)]


def drawn(points: Sequence[Point], kind: Any = "line", **changes: Any) -> ElementTree.Element:
    chart = Chart("c", "", "", "A title", "loss", [Series("s", points, kind)], x_label="the step", **changes)
    return ElementTree.fromstring(chart_macro("svg", chart))


def places(svg: ElementTree.Element) -> list[list[Any]]:
    """[x, y, x in words, y in words] of each point, as the pointer finds them."""
    return json.loads(svg.attrib["data-chart"])["series"][0]["points"]


def texts(svg: ElementTree.Element, css: str) -> list[tuple[str | None, float, float]]:
    found = svg.findall(f"text[@class='{css}']")
    return [(one.text, float(one.attrib["x"]), float(one.attrib["y"])) for one in found]


def test_the_least_value_is_below_and_has_room():
    svg = drawn(DIAGONAL)  # y from -5 to 105: 2.6 units each
    assert places(svg) == [[56.0, 287.0, "0", "0"], [480.0, 157.0, "5", "50"], [904.0, 27.0, "10", "100"]]
    path = svg.find("path")
    assert path is not None
    assert path.attrib == {"class": "line", "d": "M56.0 287.0L480.0 157.0L904.0 27.0"}


@pytest.mark.parametrize(
    ("values", "changes", "heights"),
    [
        ([40, 100], {"from_zero": True}, [191.0, 27.6]),  # 0 to 105
        ([-10, 100], {"from_zero": True}, [287.0, 27.0]),  # -15.5 to 105.5
        ([0, 100], {"from_zero": True}, [300.0, 27.6]),
        ([0, 100], {}, [287.0, 27.0]),
        ([5, 5], {}, [157.0, 157.0]),  # 4.75 to 5.25
        ([0, 0], {}, [157.0, 157.0]),  # -1 to 1
        ([0, 0], {"from_zero": True}, [300.0, 300.0]),  # 0 to 1
        ([1, 10, 100], {"log_y": True}, [300.0, 157.0, 14.0]),
        ([0, 1, -1, 10], {"log_y": True}, [300.0, 14.0]),  # no logarithm, no point
        ([7], {"log_y": True}, [157.0]),
    ],
)
def test_heights(values: list[float], changes: dict[str, bool], heights: list[float]):
    svg = drawn([(float(x), float(y)) for x, y in enumerate(values)], **changes)
    assert [place[1] for place in places(svg)] == heights


def test_axes_by_hand():
    svg = drawn(DIAGONAL)
    assert texts(svg, "tick") == [
        ("0", 48, 287), ("25", 48, 222), ("50", 48, 157), ("75", 48, 92), ("100", 48, 27),
        ("0", 56, 317), ("2", 225.6, 317), ("4", 395.2, 317), ("6", 564.8, 317), ("8", 734.4, 317), ("10", 904, 317),
    ]  # fmt: skip
    assert texts(svg, "label") == [("the step", 904, 336)]
    grid = [line.attrib for line in svg.findall("line[@class='grid']")]
    assert [(line["x1"], line["x2"], line["y1"], line["y2"]) for line in grid] == [
        ("56", "904", y, y) for y in ("287.0", "222.0", "157.0", "92.0", "27.0")
    ]
    *short_lines, foot = [line.attrib for line in svg.findall("line[@class='axis']")]
    assert (foot["x1"], foot["x2"], foot["y1"], foot["y2"]) == ("56", "904", "300", "300")
    assert [(line["x1"], line["x2"], line["y1"], line["y2"]) for line in short_lines] == [
        (x, x, "300", "304") for x in ("56.0", "225.6", "395.2", "564.8", "734.4", "904.0")
    ]
    pointer = svg.find("line[@class='pointer']")
    assert pointer is not None
    assert (pointer.attrib["y1"], pointer.attrib["y2"]) == ("14", "300")
    assert svg.attrib["viewBox"] == "0 0 920 340"


@pytest.mark.parametrize(("width", "ticks"), [(601, "0 2 4 6 8 10"), (600, "0 2.5 5 7.5 10")])
def test_a_narrow_chart_has_fewer_ticks(width: int, ticks: str):
    svg = drawn([(0.0, 1.0), (10.0, 2.0)], width=width, height=240)
    assert [word for word, _, y in texts(svg, "tick") if y == 240 - 40 + 17] == ticks.split()
    assert [place[0] for place in places(svg)] == [56.0, width - 16.0]


def test_a_logarithmic_axis_has_logarithmic_ticks():
    svg = drawn([(0.0, 1.0), (10.0, 1000.0)], log_y=True)
    assert [(word, y) for word, x, y in texts(svg, "tick") if x == 48] == [
        ("1", 300.0), ("10", 204.7), ("100", 109.3), ("1k", 14.0),
    ]  # fmt: skip


def test_a_point_alone_stands_in_the_middle_and_is_a_dot():
    svg = drawn([(3.0, 5.0)], "faint")
    circles = [circle.attrib for circle in svg.findall("circle")]
    assert circles == [{"class": "faint point", "cx": "480.0", "cy": "157.0", "r": "4"}]
    assert svg.findall("path") == []
    assert len(drawn(DIAGONAL, "dots").findall("circle")) == 3


def test_dots_are_never_thinned_and_lines_are_beyond_600_points():
    many = [(float(x), float(x % 7)) for x in range(601)]
    assert len(places(drawn(many, "dots"))) == 601
    assert len(places(drawn(many[:600]))) == 600
    assert len(places(drawn(many))) < 600
    assert thin([(float(x), y) for x, y in enumerate((0.0, 5, 1, -3, 2, 2, 9, 4, 3, 1))], limit=4) == [
        (0, 0), (1, 5), (3, -3), (6, 9), (9, 1),
    ]  # fmt: skip
    assert thin(many[:4], limit=4) == many[:4]


def test_smoothing_takes_an_eighth_of_the_points_before_and_what_is_left_after():
    points = [(float(index), float(index % 2)) for index in range(40)]
    smooth = [y for _, y in smoothed(points, 2)]
    assert smooth[7:9] == pytest.approx([1, 2 / 3])  # none, one on each side
    assert smooth[15:17] == pytest.approx([1 / 3, 2 / 5])  # one, two
    assert smooth[24] == pytest.approx(2 / 5)  # three would be 24 // 8, the radius is two
    assert smooth[38:] == pytest.approx([2 / 4, 2 / 3])


SHAPES = {
    "resume": [("line", "480.0 14 480.0 300")],
    "roll-back": [("line", "480.0 14 480.0 300"), ("path", "M480.0 9l-9 5l9 5z")],
    "stop": [("line", "480.0 14 480.0 300")],
    "spike": [("path", "M480.0 7l6 7l-6 7l-6 -7z")],
    "skip": [("path", "M480.0 294m-4 -4l8 8m-8 0l8 -8")],
    "save": [("path", "M480.0 298l-4.5 -8h9z")],
}


@pytest.mark.parametrize("kind", SHAPES)
def test_each_kind_of_mark_has_its_shape(kind: str):
    (group,) = drawn(DIAGONAL, marks=[Mark(5.0, 'a "label"', kind)]).findall("g")
    title, *shapes = list(group)
    assert (group.attrib["class"], title.text) == (f"mark {kind}", 'a "label"')
    found = [
        (shape.tag, shape.attrib.get("d") or " ".join(shape.attrib[name] for name in ("x1", "y1", "x2", "y2")))
        for shape in shapes
    ]
    assert found == SHAPES[kind]


@pytest.mark.parametrize(("count", "shown"), [(40, 40), (41, 21), (80, 40), (81, 27)])
def test_at_most_forty_marks_of_a_kind(count: int, shown: int):
    marks = [Mark(10.0 * index / (count - 1), "saved", "save") for index in range(count)]
    assert len(drawn(DIAGONAL, marks=marks).findall("g")) == shown


def test_marks_at_both_ends_are_inside():
    marks = [Mark(x, "saved", "save") for x in (-0.1, 0.0, 10.0, 10.1)]
    assert len(drawn(DIAGONAL, marks=marks).findall("g")) == 2


def test_a_legend_names_what_is_shown_once():
    line, other = Series("a", DIAGONAL), Series("b", DIAGONAL, "dots")

    def items(series: list[Series], *marks: Mark) -> int:
        return chart_macro("legend", Chart("c", "", "", "t", "y", series, marks)).count("<li>")

    assert items([line, line]) == items([line, Series("b", [])]) == items([line]) == 0
    assert items([line, other]) == 2
    assert items([line], Mark(1, "m", "save"), Mark(2, "m", "save")) == 2
    assert '<i class="key dots"></i>b' in chart_macro("legend", Chart("c", "", "", "t", "y", [line, other]))
    assert (
        chart_macro("legend", Chart("c", "", "", "t", "y", [line], [Mark(1, "m", "skip"), Mark(1, "m", "stop")])).index(
            "stopped"
        )
        > 0
    )


def test_the_chart_in_words_and_under_the_pointer():
    marks = [Mark(5.0, "m", "save"), Mark(6.0, "m", "save"), Mark(6.0, "m", "stop")]
    svg = drawn([(0.0, 0.25), (1000.0, 0.5)], number=percent, marks=marks)
    assert svg.findtext("desc") == (
        "loss by the step. s: from 25.0% to 50.0% over 2 points. Marks: stopped: 1; checkpoint saved: 2."
    )
    assert [place[2:] for place in places(svg)] == [["0", "25.0%"], ["1,000", "50.0%"]]
    assert json.loads(svg.attrib["data-chart"])["x"] == "the step"


def test_no_text_ends_an_attribute_or_an_element():
    evil = "\"'><script>é"
    chart = Chart(
        evil, evil, evil, evil, evil, [Series(evil, DIAGONAL), Series("b", DIAGONAL)], [Mark(5.0, evil, "save")], evil
    )
    svg = chart_macro("svg", chart)
    root = ElementTree.fromstring(svg)
    assert root.find(".//script") is None
    assert root.attrib["aria-labelledby"] == f"{evil}-title {evil}-text"
    assert json.loads(root.attrib["data-chart"])["series"][0]["name"] == evil
    assert "<script" not in chart_macro("legend", chart)
    assert "é" in svg.split('data-chart="')[1].split('"')[0]
