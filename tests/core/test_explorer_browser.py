"""The explorer in a headless browser: dragged, slid, typed at, by mouse, finger and keyboard."""

import json
import math

import pytest

from core import explain
from tests.browser import Page

from .explorer_script import DIRECTIONS, DOCS, LEVELS, exact_numbers, needs_browser

POINT = """((chart, outcome, share) => {
    const svg = document.getElementById(chart);
    svg.scrollIntoView({ block: "center" });
    const [area, bar] = [svg, svg.querySelectorAll("[role=slider]")[outcome]].map((x) => x.getBoundingClientRect());
    const below = chart === "rewards" ? 36 : 21;
    return [bar.left + bar.width / 2, area.top + 20 + (area.height - 20 - below) * (1 - share)];
})"""
ROWS = "[...document.querySelectorAll('#probabilities tr')].map(row => [...row.cells].map(cell => cell.textContent))"
FOCUSED = "(s => [s.dataset.index, Number(s.ariaValueNow), s.ariaLabel])(document.activeElement)"
VALUES = "s => ['min', 'max', 'now', 'text'].map(name => s.getAttribute(`aria-value${name}`))"


def state_of(page):
    return json.loads(page.evaluate("JSON.stringify(Page.state())"))


def text_of(page, name):
    return page.evaluate(f"document.getElementById('{name}').textContent")


def focus(page, selector):
    page.evaluate(f"document.querySelector('{selector}').focus()")


def wait(page, milliseconds):
    page.evaluate(f"new Promise(done => setTimeout(done, {milliseconds}))")


def enter(page, name, text):
    """Type a text into a field and leave it."""
    field = f"document.getElementById('{name}')"
    page.evaluate(f"(f => {{ f.value = {json.dumps(text)}; f.dispatchEvent(new Event('change')); }})({field})")


def drag(page, chart, outcome, start, end, touch):
    """Drag the bar of an outcome from a share of the height of its chart to another."""
    points = [page.evaluate(f"{POINT}({json.dumps(chart)}, {outcome}, {share})") for share in (start, end)]
    page.drag(*points, touch=touch)


def check_shown(page):
    """The page's own table shows what core computes for its state, and nothing is loaded or goes wrong."""
    state = state_of(page)
    best = max(r for r, p in zip(state["reward"], state["ref"], strict=True) if p > 0)
    threshold = best if state["threshold"] is None else state["threshold"]
    exact = exact_numbers(state | {"threshold": threshold}, pairs=False)["optimum"]
    heads, *rows = page.evaluate(ROWS)
    shown = {head: [float(row[i]) for row in rows] for i, head in enumerate(heads) if i}
    for direction in DIRECTIONS if state["entropy"] == 0 else DIRECTIONS[:1]:
        for level in LEVELS if state["mara"] == "answer" else LEVELS[:2]:
            head = direction if level == "off" else f"{direction}, MARA by {level}"
            values = [math.exp(x) for x in exact[f"{direction} {level}"]]
            assert shown[head] == pytest.approx(values, abs=5.1e-5)
    assert len(page.requests) == 1
    assert page.requests[0].startswith("file:")
    assert page.failures == []
    assert page.errors == []


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_can_be_used_in_a_browser(width, dark):
    touch = width < 600
    with Page(DOCS, width, dark=dark) as page:
        assert page.evaluate("document.title").startswith("Which answers survive RL?")
        for name in page.evaluate("Object.keys(Presets.LIST)"):
            page.evaluate(f"document.querySelector('[data-name={name}]').click()")
            assert state_of(page)["figure"] == name
            assert page.evaluate("document.documentElement.scrollWidth") == width
            check_shown(page)
        page.evaluate("document.querySelector('[data-name=start]').click()")
        before = text_of(page, "verdict")
        drag(page, "rewards", 2, 0, 0.5, touch)
        assert state_of(page)["reward"] == pytest.approx([1, 1, 0.5], abs=0.03)
        assert state_of(page)["figure"] is None
        drag(page, "references", 1, 0.02, 0.6, touch)
        ref = state_of(page)["ref"]
        assert ref[1] == pytest.approx(0.6, abs=0.03)
        assert ref[0] / ref[2] == pytest.approx(0.3 / 0.68)  # the others keep their ratio
        assert text_of(page, "verdict") != before
        check_shown(page)
        drag(page, "rewards", 0, 0.2, 0.1, touch)  # not on the handle: a finger scrolls there
        assert (state_of(page)["reward"][0] == 1) == touch


@needs_browser
@pytest.mark.slow
def test_the_page_can_be_used_by_keyboard():
    with Page(DOCS) as page:
        focus(page, "#rewards [role=slider]")
        page.press("ArrowDown", 40)
        page.press("PageDown", 34)
        assert page.evaluate(FOCUSED) == ["0", 0.89, "reward of A"]
        for key, code in (("ArrowRight", 39), ("ArrowRight", 39), ("ArrowRight", 39), ("ArrowUp", 38)):
            page.press(key, code)
        assert page.evaluate(FOCUSED) == ["2", 0.01, "reward of C"]
        focus(page, "#references [role=slider]")
        page.press("Home", 36)
        assert state_of(page)["ref"][0] == 0  # off the support
        check_shown(page)
        page.press("End", 35)
        assert state_of(page)["ref"] == [1, 0, 0]  # nothing else is on it
        check_shown(page)
        stops = "[...document.querySelectorAll('[role=slider]')].filter(s => s.tabIndex === 0).length"
        assert page.evaluate(stops) == 2  # one in each chart
        focus(page, "#beta")
        page.press("ArrowRight", 39)
        assert state_of(page)["beta"] == pytest.approx(0.01 * 10**0.01, rel=1e-2)
        page.press("Home", 36)
        assert state_of(page)["beta"] == 1e-4
        focus(page, "#entropy")
        page.press("ArrowRight", 39)
        assert state_of(page)["entropy"] == 0.005
        check_shown(page)
        bars = page.evaluate(f"[...document.querySelectorAll('[role=slider]')].map({VALUES})")
        assert len(bars) == 6
        assert all(float(low) <= float(now) <= float(high) and text for low, high, now, text in bars)


@needs_browser
@pytest.mark.slow
def test_a_link_reproduces_the_state():
    with Page(DOCS, fragment="#problem=spellings&beta=.1&mara=answer&method=gapo") as page:
        page.evaluate("document.querySelector('input[value=forward]').click()")
        enter(page, "beta-exact", ".0321")
        enter(page, "answer-4", "a, <b>&")
        enter(page, "ref-0", ".123456789")
        wait(page, 1500)  # the address is written, the method computed
        state, address, note = state_of(page), page.evaluate("location.hash"), text_of(page, "method-note")
        enter(page, "beta-exact", "much")  # no number: the state stays, and the field says so
        assert page.evaluate("document.getElementById('beta-exact').className") == "wrong"
        assert state_of(page) == state
        check_shown(page)
    assert (state["beta"], state["direction"], state["answers"][4]) == (0.0321, "forward", "a, <b>&")
    assert note.startswith("gapo, with reverse KL, by following its expected gradient")
    with Page(DOCS, fragment=address) as page:
        assert state_of(page) == state
        wait(page, 1500)
        assert text_of(page, "method-note") == note
        page.evaluate("location.hash = '#reward=1,1&ref=.9,.1&beta=.5'")  # typed over it
        wait(page, 100)
        assert state_of(page)["ref"] == [0.9, 0.1]
        page.evaluate("location.hash = '#reward=1,1&ref=.9,.2'")
        wait(page, 100)
        assert "reference: must sum to 1" in text_of(page, "note")
        check_shown(page)


@needs_browser
@pytest.mark.slow
def test_the_page_of_a_problem_shows_it_and_runs_nothing_of_it(tmp_path):
    path = tmp_path / "problem.html"
    hostile = "</script><img src=x onerror=\"document.title='owned'\">"
    words = [
        "reward=[1,1,0,2]",
        "ref=[.5,.1,.4,0]",
        "beta=.2",
        "entropy_coef=.1",
        f"classes={[hostile, 'b', 'c', 'd']}",
    ]
    assert explain.main([*words, "--html", str(path)]) == 0
    with Page(path, 390) as page:
        state = state_of(page)
        assert [state[name] for name in ("reward", "ref", "beta", "entropy")] == [
            [1, 1, 0, 2],
            [0.5, 0.1, 0.4, 0],
            0.2,
            0.1,
        ]
        assert state["answers"][0] == hostile
        assert page.evaluate("document.title").startswith("Which answers survive RL?")
        assert page.evaluate("document.images.length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        check_shown(page)
