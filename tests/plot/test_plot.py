"""Figures hold what the arithmetic says: cells, taps, frames and texts, not pixels."""

import re
import xml.etree.ElementTree as ET
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


LINES = {"a": [1, 2], "b": [2, 4], "c": [3, 6], "d": [4, 8]}


def drawn(kind, height, width, columns):
    """A figure of two rows, or of one if a row is one panel."""
    cells = np.full((height, width), "") if kind == "grids" else np.eye(height, width)
    panels = {str(number): cells for number in range(2 * columns - 1)}
    return getattr(dl.plot, kind)(panels, columns=columns)


def curves(count):
    lines = dict(list(LINES.items())[:count])
    return dl.plot.curves([1, 2], lines, xlabel="x", ylabel="y")


def stacked(*layers, **options):
    return dl.plot.stack(layers, **options)


@pytest.mark.parametrize(
    ("draw", "arguments", "height"),
    [
        # panels share 7.2 inches and keep their shape; each row has a title
        (drawn, ("pictures", 2, 3, 1), 4.8 + 0.4),
        (drawn, ("pictures", 2, 4, 2), 2 * (1.8 + 0.4)),
        (drawn, ("heat", 2, 3, 1), 4.8 + 0.5),
        (drawn, ("heat", 2, 4, 2), 2 * (1.8 + 0.5)),
        (drawn, ("heat", 4, 15, 1), 1.92 + 0.5),
        (drawn, ("heat", 4, 16, 1), 1.8 + 0.5 + 0.8),  # a bar below
        # a cell is at most 0.6 inches wide
        (drawn, ("grids", 2, 3, 1), 0.6 * 2.4 + 0.45),
        (drawn, ("grids", 1, 8, 2), 2 * (3.6 / 8.4 * 1.4 + 0.45)),
        (curves, (1,), 4.2 + 0.4),  # one row of the legend
        (curves, (3,), 4.2 + 0.8),
        (dl.plot.bars, ({"a": [1]},), 0.5 + 1.9),
        (dl.plot.bars, ({"a": [1], "b": [1], "c": [1]},), 0.5 + 3 * 1.9),
        # a row of units is 1.5 positions above the next, or a ninth of the width
        (stacked, (Window(2), Window(2)), 0.6 + 5.3 / 5 * (2 * 1.5 + 1.6)),
        (stacked, (Window(16),), 0.6 + 5.3 / 18 * (2 + 1.6)),
    ],
)
def test_a_figure_is_as_high_as_what_it_shows(draw, arguments, height):
    assert draw(*arguments).get_size_inches()[1] == pytest.approx(height)


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
    shared = dl.plot.pictures({"a": a, "b": b}, limits=(1, 7))
    assert [ax.images[0].get_clim() for ax in shared.axes] == [(1, 7), (1, 7)]
    assert [ax.images[0].get_interpolation() for ax in shared.axes] == ["nearest"] * 2


def test_pictures_are_grey_unless_told():
    for options, name in (({}, "gray"), ({"cmap": "magma"}, "magma")):
        (ax,) = dl.plot.pictures({"a": np.eye(2)}, columns=1, **options).axes
        assert ax.images[0].get_cmap().name == name


def test_curves_draw_every_point_and_mark_lines_in_two_ways():
    lines = {name: [1, y, 3] for name, y in zip("abcd", (1, 2, 3, 4), strict=True)}
    figure = dl.plot.curves([1, 2, 4], lines, xlabel="over", ylabel="up", log="x")
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("over", "up")
    for line, (name, y) in zip(ax.lines, lines.items(), strict=True):
        assert (line.get_label(), [*line.get_ydata()]) == (name, y)
        assert [*line.get_xdata()] == [1, 2, 4]
    assert [(line.get_color(), line.get_marker()) for line in ax.lines] == [
        ("#0072B2", "o"),  # blue, orange and reddish purple are Okabe and Ito's too
        ("#E69F00", "s"),
        ("#CC79A7", "^"),
        ("#000000", "D"),
    ]
    assert (ax.get_xscale(), ax.xaxis.get_transform().base) == ("log", 2)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4"]


def test_the_legend_stands_above_in_two_columns_and_lines_cross_the_plot():
    figure = curves(3)
    figure.draw_without_rendering()
    (legend,), (ax,) = figure.legends, figure.axes
    a, b, c = (text.get_window_extent() for text in legend.get_texts())
    assert a.y0 == c.y0 > b.y0 > ax.get_window_extent().y1
    assert a.x0 == b.x0 < figure.get_window_extent().width / 4
    assert not legend.get_frame_on()
    assert {(line.get_visible(), line.get_color()) for line in ax.get_ygridlines()} == {
        (True, "#DDDDDD")
    }
    assert not any(line.get_visible() for line in ax.get_xgridlines())


def test_runs_are_a_mean_in_a_band_from_the_least_to_the_largest():
    runs = [[1, 2, 9], [3, 2, 0], [2, 5, 0]]
    lines = {"a": runs, "b": [0, 0, 0], "c": runs[:2]}
    (ax,) = dl.plot.curves([0, 1, 2], lines, xlabel="", ylabel="").axes
    assert [*ax.lines[0].get_ydata()] == [2, 3, 3]
    band, other = ax.collections  # a single run has none
    corners = {tuple(point) for point in band.get_paths()[0].vertices.round(6)}
    assert corners == {(0, 1), (0, 3), (1, 2), (1, 5), (2, 0), (2, 9)}
    for area, line in ((band, ax.lines[0]), (other, ax.lines[2])):
        seen_through = colors.to_rgba(line.get_color(), 0.25)
        assert tuple(area.get_facecolor()[0]) == seen_through


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
    assert ax.yaxis.get_transform().base == 2
    assert "1024" in [label.get_text() for label in ax.get_yticklabels()]


@pytest.mark.parametrize(
    ("first", "count", "step"),
    [(0, 13, 1), (0, 14, 2), (0, 27, 3), (100, 13, 1), (1000, 8, 1), (1000, 9, 2)],
)
def test_at_most_13_ticks_stand_below_curves_or_8_long_ones(first, count, step):
    points = range(first, first + count)
    (ax,) = dl.plot.curves(points, {"a": points}, xlabel="", ylabel="").axes
    assert [*ax.get_xticks()] == [*points[::step]]


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
    assert {round(bar.get_width(), 6) for bar in holes.patches} == {0.9}
    assert {bar.get_facecolor() for bar in plain.patches} == {
        colors.to_rgba(COLOURS["input"])
    }
    hatched = next(bar for bar in holes.patches if bar.get_hatch())
    (cell,) = dl.plot.grids({"a": [["hole"]]}, columns=1).axes[0].patches
    for look in ("facecolor", "edgecolor", "linewidth", "hatch"):  # as in a grid
        assert getattr(hatched, f"get_{look}")() == getattr(cell, f"get_{look}")()
    (axis,) = holes.lines
    assert (axis.get_color(), axis.get_linewidth()) == ("black", 1)
    assert [*axis.get_ydata()] == [0, 0]
    assert len(plain.patches) == 3
    assert holes.get_xlim() == plain.get_xlim() == (-3, 3)
    assert (holes.get_title(), plain.get_title()) == ("holes", "plain")
    assert plain.get_ylabel() == "paths"


def test_the_last_of_the_bars_names_their_positions():
    figure = dl.plot.bars({"a": [1], "b": [1], "c": [1, 2, 1]}, ylabel="share")
    names = [ax.get_xlabel() for ax in figure.axes]
    assert names == ["", "", "position, from the middle of the field"]
    assert {ax.get_ylabel() for ax in figure.axes} == {"share"}


def test_bars_count_beyond_64_bits():
    (ax,) = dl.plot.bars({"a": [2**70, 0, 1]}).axes
    assert sorted(bar.get_height() for bar in ax.patches) == [-(2**70) / 12, 1, 2**70]


def test_heat_writes_small_counts_and_hatches_zeros():
    counts = np.array([[1, 0, 10], [4, 5, 0]])
    figure = dl.plot.heat({"a": counts, "b": counts / 2})
    whole, halves, bar = figure.axes
    assert (whole.get_title(), halves.get_title()) == ("a", "b")
    assert texts(whole) == ["1", "", "10", "4", "5", ""]
    inks = [text.get_color() for text in whole.texts]
    assert inks == ["white", "white", "black"] + ["white"] * 3  # above half it is light
    places = [text.get_position() for text in whole.texts]
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert {(text.get_ha(), text.get_va()) for text in whole.texts} == {("center",) * 2}
    for ax in (whole, halves):
        assert not ax.axison
        assert cells(ax) == [("hole", 1, 0), ("hole", 2, 1)]
        assert (ax.images[0].get_array().mask == (counts == 0)).all()
        assert ax.images[0].get_clim() == (0, ax.images[0].get_array().max())
        assert ax.images[0].get_cmap().name == "cividis"
    assert texts(halves) == []
    assert (bar.get_xlabel(), bar.get_xlim()) == ("paths", (0, 5))


@pytest.mark.parametrize(
    ("width", "columns", "points"),
    [(3, 2, 16.2), (15, 1, 16.2), (15, 2, 8.64)],  # 15 cells on 3.6 inches
)
def test_counts_are_half_as_high_as_their_cells_and_at_most_16_points(
    width, columns, points
):
    panel = {"a": np.ones((2, width), int)}
    ax, *_ = dl.plot.heat(panel, columns=columns).axes
    sizes = [text.get_fontsize() for text in ax.texts]
    assert sizes == pytest.approx([points] * 2 * width)


def test_heat_of_a_wide_field_has_a_bar_in_place_of_numbers():
    panel = np.ones((2, 16), int) * 5
    figure = dl.plot.heat({"a": panel}, columns=1, label="share")
    wide, bar = figure.axes
    assert (texts(wide), bar.get_xlabel()) == ([], "share")
    assert [tick for tick in bar.get_xticks() if tick <= 5] == [0, 2, 4]
    figure.draw_without_rendering()
    gap = wide.get_position().y0 - bar.get_position().y1
    assert 0 < gap * figure.get_size_inches()[1] < 0.05  # close below the panel


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
    assert [ax.get_title() for ax in figure.axes] == ["here", "there", ""]
    assert not any(ax.axison for ax in figure.axes)
    assert texts(here) == ["0", "1", "2", "3", "4", "5"]
    assert frames(here) == [(0.5, -0.5, 2, 2)]
    assert (texts(there), frames(there), len(cells(there))) == ([], [], 3)
    assert cells(spare) == []


def test_grids_stand_in_the_middle_at_one_scale_with_row_0_on_top():
    panels = {"large": np.full((4, 3), "tap"), "small": np.full((2, 2), "tap")}
    large, small = dl.plot.grids(panels, columns=2).axes
    assert large.get_xlim() == pytest.approx((-0.7, 2.7))
    assert large.get_ylim() == pytest.approx((3.7, -0.7))
    assert small.get_xlim() == pytest.approx((-1.2, 2.2))  # half a cell on each side
    assert small.get_ylim() == pytest.approx((2.7, -1.7))
    assert large.get_aspect() == small.get_aspect() == 1


@pytest.mark.parametrize(("width", "points"), [(2, 21.6), (8, 36 * 3.6 / 8.4)])
def test_values_are_half_as_high_as_their_cells(width, points):
    panel, values = {"a": [["tap"] * width]}, {"a": [[1, 2.5] * (width // 2)]}
    ax, _ = dl.plot.grids(panel, values=values, columns=2).axes
    assert texts(ax)[:2] == ["1", "2.5"]
    assert [text.get_fontsize() for text in ax.texts] == pytest.approx([points] * width)


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


def test_a_stack_refuses_a_margin_below_0():
    with pytest.raises(ValueError, match="margin must be at least 0, got -1"):
        dl.plot.stack(STACK, margin=-1)


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


def test_a_stack_joins_units_of_neighbouring_rows_in_the_colour_of_taps():
    (ax,) = stacked(Window(2), Window(2)).axes
    ends = {(*line.get_xdata(), *line.get_ydata()) for line in ax.lines}
    assert ends == {
        (0.5, 0, 1.5, 0),
        (0.5, 1, 1.5, 0),
        (1.5, 1, 1.5, 0),
        (1.5, 2, 1.5, 0),
        (1, 0.5, 3, 1.5),
        (1, 1.5, 3, 1.5),
    }
    assert {line.get_color() for line in ax.lines} == {COLOURS["tap"]}
    assert {line.get_linewidth() for line in ax.lines} == {1.2}  # there may be many
    behind = max(line.get_zorder() for line in ax.lines)
    assert behind < min(patch.get_zorder() for patch in ax.patches)


def test_a_stack_has_names_beside_its_rows_and_nothing_else():
    (ax,) = stacked(Window(2), Window(2)).axes
    (twin,) = ax.child_axes
    assert [*ax.get_yticks()] == [0, 1.5, 3]
    assert [*twin.get_yticks()] == [1.5, 3]
    assert [*ax.get_xticks()] == []
    assert ax.get_xlim() == pytest.approx((-1.7, 3.7))
    assert ax.get_ylim() == pytest.approx((-0.8, 3.8))
    assert ax.get_aspect() == 1
    for scale in (ax, twin):
        ticks = scale.yaxis.get_major_ticks()
        assert {tick.tick1line.get_markersize() for tick in ticks} == {0}
        assert not any(spine.get_visible() for spine in scale.spines.values())


@pytest.mark.parametrize(
    ("layer", "sides"),
    [
        (Window(3), {0.86}),
        (Window(3, 4), {0.86}),
        (Window(4, 2, padding=1, transposed=True), {0.86, 0.43}),  # twice as many
    ],
)
def test_units_leave_gaps_between_them(layer, sides):
    (ax,) = stacked(layer, unit=3).axes
    widths = {round(p.get_width(), 6) for p in ax.patches if p.get_fill()}
    assert widths == sides


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
    assert row == [place]  # others lie outside the margin
    wide = dl.plot.stack([Window(3, 2), Window(2, 2)], unit=1, margin=8).axes[0]
    row = sorted(x for _, x, y in cells(wide) if y == max(y for *_, y in cells(wide)))
    assert row == [place - 8, place - 4, place, place + 4, place + 8]


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
    ("tap", "", [(1, 0), (1, 0), (1, 0)]),
]


def rules(css):
    """The declarations of each rule, by its selector; those of @ rules are nested."""
    pairs = re.findall(r"([^{}]+)\{((?:[^{}]|\{[^{}]*\})*)\}", css)
    assert "".join(f"{name}{{{inside}}}" for name, inside in pairs) == css
    assert len({name for name, _ in pairs}) == len(pairs)
    return {
        name.replace(".dl-steps.fall", ""): rules(inside) if "{" in inside else inside
        for name, inside in pairs
    }


def test_steps_move_each_cell_to_its_place():
    drawing = dl.plot.Steps("fall", ["It stands,", "it falls,", "it is gone."], FALL)
    assert repr(drawing) == "Steps('fall', 3 steps, 3 cells)"
    one, other, _ = re.findall(r'<g style="(.*?)">', drawing._repr_html_())
    places = r"--p(\d):translate\((\d+)px,(\d+)px\);--o\1:([01]);"
    assert re.sub(places, "", one + other) == ""
    assert re.findall(places, one) == [
        ("1", "0", "0", "1"),
        ("2", "56", "28", "1"),
        ("3", "56", "28", "0"),  # it fades where it was
    ]
    assert re.findall(places, other) == [
        (step, "28", "0", shown) for step, shown in zip("123", "001", strict=True)
    ]


def test_steps_are_drawn_as_large_as_the_places_of_their_cells():
    page = dl.plot.Steps("fall", ["a", "b", "c"], FALL)._repr_html_()
    drawing = ET.fromstring(re.search("<svg.*</svg>", page)[0])
    # 3 columns and 2 rows, 28 px each, and a tenth of a cell around them
    assert drawing.get("viewBox") == "-16.8 -16.8 89.6 61.6"
    assert drawing.get("width") == "89.6"
    parts = [[(part.tag, part.attrib) for part in cell] for cell in drawing]
    square = {"x": "-12.88", "y": "-12.88", "width": "25.76", "height": "25.76"}
    assert parts == [
        [("rect", square | {"fill": COLOURS["input"]}), ("text", {"y": "4"})],
        [("rect", square | {"fill": "#FFFFFF"}), ("text", {"y": "4"})],
        [("rect", square | {"fill": COLOURS["tap"]})],
    ]


def test_steps_are_chosen_or_play_at_three_seconds_a_step():
    page = dl.plot.Steps("fall", ["a", "b", "c"], FALL)._repr_html_()
    css = rules(re.search("<style>(.*)</style>", page)[1])
    at = {n: f"transform:var(--p{n});opacity:var(--o{n});" for n in (1, 2, 3)}
    assert css[" g"] == at[1] + "transition:transform 1s,opacity 1s"
    for n in at:
        assert css.pop(f":has(li:nth-child({n}) :checked) g") == at[n]
        delay = css.pop(f" li:nth-child({n})")
        assert delay == f"animation-delay:{3 * (n - 1)}s!important"
    assert not any("nth-child" in name for name in css)
    # each step takes a third of the 9 s: it stands for 60 % of that, then cells move
    assert css["@keyframes fall"] == {
        "0%,20%": at[1],
        "33.33%,53.33%": at[2],
        "66.67%,86.67%": at[3],
    }
    assert css["@keyframes fall-now"] == {
        "0%,33.33%": "text-decoration:underline",
        "33.43%,100%": "text-decoration:none",
    }
    assert css[":has(.play :checked) g"] == "animation:fall 9s infinite"
    assert css[":has(.play :checked) li"] == "animation:fall-now 9s infinite"
    assert css["@media(prefers-reduced-motion:reduce)"] == {
        " g": "transition:none;animation:none!important",
        " .play": "display:none",
    }


def test_steps_are_chosen_by_their_sentences_and_read_aloud():
    page = dl.plot.Steps("fall", ["a < b,", "b", "c"], FALL)._repr_html_()
    names = re.findall(r'type="radio" name="(\w+)"( checked)?', page)
    assert names == [("fall", ""), ("fall", " checked"), ("fall", ""), ("fall", "")]
    assert 'aria-label="a &lt; b, b c"' in page
    words = re.split("(?:<style>.*</style>|<[^>]*>)+", page)
    assert words == [
        "",
        "a",
        "b",
        " Play all steps; any step below stops them.",
        " 1. a &lt; b,",
        " 2. b",
        " 3. c",
        "",
    ]


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
