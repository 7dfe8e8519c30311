"""Figures of a diagnosis."""

import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt

from launch.analysis import diagnosis_figures
from launch.analysis.diagnosis_figures import MAX_LABEL, draw_panels

from .test_diagnosis_page import Curve, Panel


def test_curves_and_onset_are_drawn(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(diagnosis_figures, "save_figure", lambda figure, path: figures.append(figure))
    panels = [
        Panel(curves=[Curve("a", error=(0.1, 0.1, 0.1)), Curve("b"), Curve("c")]),
        Panel(onset=None),
        Panel(),
    ]
    draw_panels(panels, tmp_path / "a.png", "oracle calls")
    first, second, third, empty = figures[0].axes
    assert [line.get_label() for line in first.lines] == ["a", "b", "c", "begins at 2 ± 0"]
    assert len({line.get_color() for line in first.lines[:3]}) == 3
    assert len(second.lines) == 2
    assert second.lines[1].get_linestyle() == "--"
    assert len(second.lines[0].get_label()) == MAX_LABEL
    assert first.get_xlabel() == "oracle calls"
    assert third.get_visible()
    assert not empty.get_visible()
    plt.close(figures[0])


def test_the_files_are_png_and_svg(tmp_path):
    path = draw_panels([Panel()], tmp_path / "a.png", "step")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "title" in ElementTree.tostring(ElementTree.parse(path.with_suffix(".svg")).getroot(), "unicode")
