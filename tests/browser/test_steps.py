"""Drawings that move: by choice, by keyboard, played and stopped, or not at all."""

from itertools import pairwise

import pytest

PAGES = {
    "01_dense_prediction": "stride",
    "05_dilated_convolution": "sub-pictures",
    "06_growth_and_gridding": "combs",
}


def boxes(drawing):
    """Where the cells that can be seen stand, once they stand still."""
    return drawing.locator("svg").evaluate(
        """async svg => {
            const playing = svg.getAnimations({ subtree: true });
            await Promise.all(playing.map(one => one.finished));
            return [...svg.querySelectorAll("g")]
                .filter(g => getComputedStyle(g).opacity === "1")
                .map(g => getComputedStyle(g).transform);
        }"""
    )


@pytest.mark.parametrize(("page", "name"), PAGES.items())
def test_the_arrow_keys_move_the_cells_from_step_to_step(turn_to, page, name):
    page, _ = turn_to(f"notebooks/{page}.html", 1280, "light")
    drawing = page.locator(f".dl-steps.{name}")
    steps = drawing.locator("li")
    steps.first.get_by_role("radio").focus()
    seen = [boxes(drawing)]
    for number in range(1, steps.count()):
        page.keyboard.press("ArrowDown")
        assert steps.nth(number).get_by_role("radio").is_checked()
        seen.append(boxes(drawing))
    assert all(one != other for one, other in pairwise(seen))


def moving(drawing):
    return drawing.locator("g").first.evaluate("g => getComputedStyle(g).animationName")


def test_it_plays_until_a_step_is_chosen(turn_to):
    page, _ = turn_to("notebooks/01_dense_prediction.html", 1280, "light")
    drawing = page.locator(".dl-steps.stride")
    assert moving(drawing) == "none"
    drawing.get_by_label("Play all steps").check()
    assert moving(drawing) == "stride"
    drawing.locator("li").nth(1).get_by_role("radio").check()
    assert moving(drawing) == "none"


def test_nothing_plays_where_less_motion_is_wanted(browser, address):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{address}/notebooks/01_dense_prediction.html")
    drawing = page.locator(".dl-steps.stride")
    assert not drawing.locator(".play").is_visible()
    before = boxes(drawing)
    drawing.locator("li").nth(1).get_by_role("radio").check()
    waits = drawing.locator("g").first.evaluate(
        "g => getComputedStyle(g).transitionDuration"
    )
    assert waits == "0s"
    assert boxes(drawing) != before
    context.close()
