"""Figures hold what the arithmetic says: cells, taps, frames and texts, not pixels."""

import re
from collections import Counter

import numpy as np
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import dilated_lib as dl
from dilated_lib import Window
from dilated_lib.plot import COLOURS

STACK = [Window(3, dilation=d) for d in (1, 2, 4)]


def cells(ax):
    """Colour-code name, centre and hatch of every cell of an axes."""
    found = []
    names = {colors.to_rgba(code): name for name, code in COLOURS.items()}
    for patch in ax.patches:
        if patch.get_fill():
            x, y = patch.get_xy()
            centre = (x + patch.get_width() / 2, y + patch.get_height() / 2)
            name = names[patch.get_facecolor()]
            if name == "hole" and not patch.get_hatch():
                name = "empty"
            found.append((name, *np.round(centre, 3)))
    return found


def frames(ax):
    return [
        (*patch.get_xy(), patch.get_width(), patch.get_height())
        for patch in ax.patches
        if not patch.get_fill()
    ]


def texts(ax):
    return [text.get_text() for text in ax.texts]


EXAMPLES = {
    "pictures": lambda: dl.plot.pictures({"a": np.eye(3), "b": np.eye(3)}),
    "curves": lambda: dl.plot.curves([1, 2], {"a": [3, 4]}, xlabel="x", ylabel="y"),
    "bars": lambda: dl.plot.bars({"a": [1, 0, 1], "b": [1]}),
    "heat": lambda: dl.plot.heat({"a": np.eye(3)}, columns=1),
    "grids": lambda: dl.plot.grids({"a": [["tap", "hole"], ["", "input"]]}),
    "stack": lambda: dl.plot.stack(STACK),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_figure_is_720_px_wide_at_twice_the_density_on_white(name):
    figure = EXAMPLES[name]()
    assert isinstance(figure, Figure)
    assert figure.get_size_inches()[0] * figure.dpi == 1440
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert plt.get_fignums() == []  # a notebook shows it once
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", EXAMPLES)
def test_text_is_no_smaller_than_the_pages(name):
    figure = EXAMPLES[name]()
    for ax in figure.axes:
        for text in (ax.title, *ax.get_xticklabels(), *ax.get_yticklabels()):
            assert text.get_fontsize() / 72 * 100 >= 16, text  # 100 px are an inch


def test_the_style_stays_inside_the_figures():
    before = dict(plt.rcParams)
    for draw in EXAMPLES.values():
        draw()
    assert dict(plt.rcParams) == before


def test_pictures_keep_their_values_and_share_limits_where_given():
    a, b = np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3) * 10
    own = dl.plot.pictures({"a": a, "b": b, "c": a})
    assert [ax.get_title() for ax in own.axes] == ["a", "b", "c", ""]
    assert not any(ax.axison for ax in own.axes)
    assert (own.axes[1].images[0].get_array() == b).all()
    assert own.axes[1].images[0].get_clim() == (0, 50)
    shared = dl.plot.pictures({"a": a, "b": b}, limits=(0, 7))
    assert [ax.images[0].get_clim() for ax in shared.axes] == [(0, 7), (0, 7)]
    assert [ax.images[0].get_interpolation() for ax in shared.axes] == ["nearest"] * 2


def test_curves_draw_every_point_and_mark_lines_in_two_ways():
    lines = {"one": [1, 2, 3], "two": [3, 2, 1]}
    figure = dl.plot.curves([1, 2, 4], lines, xlabel="x", ylabel="y", log="x")
    (ax,) = figure.axes
    for line, (name, y) in zip(ax.lines, lines.items(), strict=True):
        assert (line.get_label(), [*line.get_ydata()]) == (name, y)
        assert [*line.get_xdata()] == [1, 2, 4]
    assert len({(line.get_color()) for line in ax.lines}) == 2
    assert len({(line.get_marker()) for line in ax.lines}) == 2
    assert (ax.get_xscale(), ax.xaxis.get_transform().base) == ("log", 2)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4"]


def test_runs_are_a_mean_in_a_band_from_the_least_to_the_largest():
    runs = [[1, 2, 9], [3, 2, 0], [2, 5, 0]]
    figure = dl.plot.curves(
        [0, 1, 2], {"a": runs, "b": [0, 0, 0]}, xlabel="", ylabel=""
    )
    (ax,) = figure.axes
    assert [*ax.lines[0].get_ydata()] == [2, 3, 3]
    (band,) = ax.collections  # a single run has none
    corners = {tuple(point) for point in band.get_paths()[0].vertices.round(6)}
    assert corners == {(0, 1), (0, 3), (1, 2), (1, 5), (2, 0), (2, 9)}
    assert colors.same_color(band.get_facecolor()[0][:3], ax.lines[0].get_color())


def test_a_break_stands_at_its_place_in_the_colour_of_its_line():
    figure = dl.plot.curves(
        [0, 1], {"a": [1, 2], "b": [2, 1]}, xlabel="", ylabel="", breaks={"b": 0.5}
    )
    a, b, at = figure.axes[0].lines
    assert [*at.get_xdata()] == [0.5, 0.5]
    assert a.get_color() != b.get_color() == at.get_color()
    assert (at.get_linestyle(), b.get_linestyle()) == ("--", "-")


def test_a_logarithmic_height_has_plain_numbers():
    figure = dl.plot.curves([1, 2], {"a": [2, 1024]}, xlabel="", ylabel="", log="y")
    (ax,) = figure.axes
    figure.draw_without_rendering()
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    assert "1024" in [label.get_text() for label in ax.get_yticklabels()]


@pytest.mark.parametrize(("count", "step"), [(13, 1), (14, 2), (27, 3)])
def test_at_most_13_ticks_stand_below_curves(count, step):
    points = range(count)
    (ax,) = dl.plot.curves(points, {"a": points}, xlabel="", ylabel="").axes
    assert [*ax.get_xticks()] == [*range(0, count, step)]


def test_bars_count_from_the_middle_and_hatch_holes():
    figure = dl.plot.bars({"holes": [2, 0, 3, 0, 2], "plain": [1, 2, 1]})
    holes, plain = figure.axes
    found = [
        (bar.get_x() + bar.get_width() / 2, bar.get_height(), bar.get_hatch())
        for bar in sorted(holes.patches, key=lambda bar: bar.get_x())
    ]
    assert np.round([(x, height) for x, height, _ in found], 6).tolist() == [
        [-2, 2],
        [-1, -0.25],
        [0, 3],
        [1, -0.25],
        [2, 2],
    ]
    assert [hatch for *_, hatch in found] == [None, "////", None, "////", None]
    assert len(plain.patches) == 3
    assert holes.get_xlim() == plain.get_xlim() == (-3, 3)
    assert (holes.get_title(), plain.get_title()) == ("holes", "plain")
    assert plain.get_ylabel() == "paths"


def test_heat_writes_small_counts_and_hatches_zeros():
    counts = np.array([[1, 0, 9], [4, 5, 0]])
    figure = dl.plot.heat({"a": counts, "b": counts / 2})
    whole, halves, *bar = figure.axes
    assert texts(whole) == ["1", "", "9", "4", "5", ""]
    inks = [text.get_color() for text in whole.texts]
    assert inks[:4] == ["white", "white", "black", "white"]  # more than half is light
    for ax in (whole, halves):
        assert cells(ax) == [("hole", 1, 0), ("hole", 2, 1)]
        assert (ax.images[0].get_array().mask == (counts == 0)).all()
        assert ax.images[0].get_clim()[0] == 0
    assert texts(halves) == []
    assert [ax.get_xlabel() for ax in bar] == ["paths"]


def test_heat_of_a_wide_field_has_a_bar_in_place_of_numbers():
    figure = dl.plot.heat({"a": np.ones((2, 16), int)}, columns=1, label="share")
    wide, bar = figure.axes
    assert (texts(wide), bar.get_xlabel()) == ([], "share")


def test_grids_draw_cells_values_and_frames_in_place():
    panel = np.array([["tap", "hole", "tap"], ["", "input", "output"]])
    numbers = np.arange(6).reshape(2, 3)
    figure = dl.plot.grids(
        {"here": panel, "there": panel[:1]},
        values={"here": numbers},
        frames={"here": (0, 1, 2, 2)},
    )
    here, there, spare = figure.axes
    assert cells(here) == [
        ("tap", 0, 0),
        ("hole", 1, 0),
        ("tap", 2, 0),
        ("empty", 0, 1),
        ("input", 1, 1),
        ("output", 2, 1),
    ]
    assert texts(here) == ["0", "1", "2", "3", "4", "5"]
    assert frames(here) == [(0.5, -0.5, 2, 2)]
    assert (texts(there), frames(there), len(cells(there))) == ([], [], 3)
    assert cells(spare) == []
    assert here.get_ylim()[0] > here.get_ylim()[1]  # row 0 on top
    spans = [np.ptp(ax.get_xlim()) for ax in (here, there)]
    assert spans[0] == pytest.approx(spans[1])  # one scale


def test_only_a_number_on_a_hatch_gets_a_white_ground():
    figure = dl.plot.grids({"a": [["hole", "tap"]]}, values={"a": [[3, 4]]})
    on_hole, on_tap = figure.axes[0].texts
    assert on_hole.get_bbox_patch().get_facecolor() == (1, 1, 1, 1)
    assert on_tap.get_bbox_patch() is None


def test_grids_refuse_a_name_that_the_colour_code_lacks():
    with pytest.raises(
        ValueError, match=r"cells must be one of input, .*got \['blue'\]"
    ):
        dl.plot.grids({"a": [["tap", "blue"]]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": {"b": [[1]]}}, r"no panel is called \['b'\]; there are \['a'\]"),
        ({"frames": {"c": (0, 0, 1, 1)}}, r"no panel is called \['c'\]"),
        ({"values": {"a": [[1, 2]]}}, r"'a' must have shape \(1, 1\) .*got \(1, 2\)"),
    ],
)
def test_grids_refuse_what_fits_no_panel(arguments, message):
    with pytest.raises(ValueError, match=message):
        dl.plot.grids({"a": [["tap"]]}, **arguments)


def test_curves_refuse_more_lines_than_can_be_told_apart():
    lines = {str(n): [1, 2] for n in range(5)}
    with pytest.raises(ValueError, match="at most 4 lines, got 5"):
        dl.plot.curves([1, 2], lines, xlabel="x", ylabel="y")


def test_units_that_see_nothing_are_not_drawn_as_reached():
    # of the two units that the upper layer reads, one stands on a gap
    layers = [Window(1, 2, transposed=True), Window(2)]
    (ax,) = dl.plot.stack(layers, margin=0).axes
    assert Counter(name for name, *_ in cells(ax))["reached"] == 1
    assert len(ax.lines) == 2


def test_a_stack_draws_what_the_arithmetic_says():
    (ax,) = dl.plot.stack(STACK).axes
    counts = Counter(name for name, *_ in cells(ax))
    # 3 rows of 17 units and one of inputs, the field being 15 and the margin 1
    assert counts == {"output": 1, "reached": 10, "input": 15, "empty": 42}
    assert [x for name, x, _ in cells(ax) if name == "output"] == [7]
    assert [x for name, x, _ in cells(ax) if name == "input"] == list(range(15))
    assert len(ax.lines) == 3 * (1 + 3 + 7)
    assert frames(ax) == [(-0.5, -0.5, 15, 1)]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["input", "k 3", "k 3 d 2", "k 3 d 4"]
    (twin,) = ax.child_axes
    spans = [label.get_text() for label in twin.get_yticklabels()]
    assert spans == ["spans 3", "spans 7", "spans 15"]
    assert ax.get_xlabel() == "15 input positions, from 0 to 14"


def test_a_stack_shows_holes():
    (ax,) = dl.plot.stack([Window(3, dilation=2)] * 2, unit=3, margin=0).axes
    inputs = [(name, x) for name, x, y in cells(ax) if y == 0]
    assert [x for name, x in inputs if name == "input"] == [3, 5, 7, 9, 11]
    assert [x for name, x in inputs if name == "hole"] == [4, 6, 8, 10]


def test_units_of_a_strided_stack_stand_over_the_middle_of_what_they_see():
    (ax,) = dl.plot.stack([Window(3, 2), Window(2, 2)], unit=1).axes
    field = dl.compose([Window(3, 2), Window(2, 2)])
    (place,) = [x for name, x, _ in cells(ax) if name == "output"]
    assert place == field.centre(1)
    top = max(y for *_, y in cells(ax))
    row = sorted(x for _, x, y in cells(ax) if y == top)
    assert set(np.diff(row)) <= {4}


def test_phases_of_a_transposed_layer_share_one_even_spacing():
    (ax,) = dl.plot.stack([Window(4, 2, padding=1, transposed=True)], unit=3).axes
    top = max(y for *_, y in cells(ax))
    row = sorted(x for _, x, y in cells(ax) if y == top)
    assert set(np.diff(row)) == {0.5}
    assert [x for name, x, _ in cells(ax) if name == "output"] == [1.25]
    assert [x for name, x, _ in cells(ax) if name == "input"] == [1, 2]
    assert "k 4 up 2" in [label.get_text() for label in ax.get_yticklabels()]


def test_the_colour_code_is_okabe_and_itos():
    assert COLOURS == {
        "input": "#56B4E9",  # sky blue
        "tap": "#D55E00",  # vermillion
        "output": "#009E73",  # bluish green
        "reached": "#999999",
        "hole": "#FFFFFF",
        "frame": "#000000",
    }


def test_black_text_on_every_colour_has_enough_contrast():
    filled = ("input", "tap", "output", "reached")
    rgb = {name: np.array(colors.to_rgb(COLOURS[name])) for name in filled}
    weights = np.array([0.2126, 0.7152, 0.0722])
    for name, colour in rgb.items():
        linear = np.where(
            colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4
        )
        assert (linear @ weights + 0.05) / 0.05 >= 4.5, name  # black text on it


FALL = [
    ("input", "a", [(0, 0), (2, 1), None]),
    ("", "b", [None, None, (1, 0)]),
]


def test_steps_move_each_cell_to_its_place():
    drawing = dl.plot.Steps("fall", ["It stands,", "it falls,", "it is gone."], FALL)
    one, other = re.findall(r'<g style="(.*?)">', drawing._repr_html_())
    places = r"--p(\d):translate\((\d+)px,(\d+)px\);--o\1:([01]);"
    assert re.findall(places, one) == [
        ("1", "0", "0", "1"),
        ("2", "56", "28", "1"),
        ("3", "56", "28", "0"),  # it fades where it was
    ]
    assert re.findall(places, other) == [
        (step, "28", "0", shown) for step, shown in zip("123", "001", strict=True)
    ]


def test_steps_are_chosen_by_their_sentences_and_read_aloud():
    page = dl.plot.Steps("fall", ["a < b,", "b", "c"], FALL)._repr_html_()
    names = re.findall(r'type="radio" name="(\w+)"( checked)?', page)
    assert names == [("fall", ""), ("fall", " checked"), ("fall", ""), ("fall", "")]
    assert 'aria-label="a &lt; b, b c"' in page
    assert "prefers-reduced-motion" in page


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (("blue", "", [(0, 0)] * 3), "a cell must be one of input, .* got 'blue'"),
        (("tap", "x", [(0, 0)]), "'x' needs a place for each of 3 steps"),
        (("tap", "x", [None] * 3), "one at least that is not None"),
    ],
)
def test_steps_refuse_a_cell_that_cannot_be_drawn(cell, message):
    with pytest.raises(ValueError, match=message):
        dl.plot.Steps("fall", ["a", "b", "c"], [*FALL, cell])
