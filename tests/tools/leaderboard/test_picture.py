"""Labels of the picture: each beside its point, and none over another."""

import itertools

import numpy as np
import pytest
from matplotlib.transforms import Bbox

from tools.leaderboard.board import board
from tools.leaderboard.picture import draw_board, name_of, overlap, place_labels
from tools.leaderboard.records import key_of

from .made_up import record

CROWD = [(0.5 + 0.01 * i, 0.5 + 0.004 * (i * 7 % 5)) for i in range(20)]
NAMES = [(f"method {i} of many", "#000000") for i in range(20)]


def boxes(labels):
    return [label.get_window_extent() for label in labels]


def covered(parts):
    return sum(overlap(a, b) for a, b in itertools.combinations(parts, 2))


def test_labels_of_crowded_points_cover_neither_each_other_nor_points(axes):
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.figure.canvas.draw()
    placed = boxes(place_labels(axes, CROWD, NAMES))
    assert covered(placed) == 0
    for x, y in axes.transData.transform(CROWD):
        assert not any(box.contains(x, y) for box in placed)
    frame = axes.get_window_extent()
    assert all(frame.contains(*box.min) and frame.contains(*box.max) for box in placed)
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    naive = [axes.text(x, y, name) for (x, y), (name, _) in zip(CROWD, NAMES, strict=True)]
    assert covered(boxes(naive)) > 1000  # control: beside their points they do


def test_labels_leave_the_errors_of_points_free(axes):
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.figure.canvas.draw()
    bar = Bbox(axes.transData.transform([(0.1, 0.499), (0.9, 0.501)]))
    one = ([(0.5, 0.5)], [("a point with an error", "#000000")])
    (free,) = boxes(place_labels(axes, *one, [(0.4, float("nan"))]))
    assert overlap(free, bar) == 0
    (covering,) = boxes(place_labels(axes, *one))
    assert overlap(covering, bar) > 0  # control: it knows of no error


def test_a_label_alone_is_beside_its_point(axes):
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.figure.canvas.draw()
    (box,) = boxes(place_labels(axes, [(0.3, 0.4)], [("alone", "#000000")]))
    point = axes.transData.transform((0.3, 0.4))
    assert 0 < np.hypot(*(np.clip(point, box.min, box.max) - point)) < 20
    assert len(axes.lines) == 0  # no line joins it


def test_overlap_is_the_shared_area():
    square = Bbox.from_extents(0, 0, 2, 2)
    assert overlap(square, Bbox.from_extents(1, 1, 4, 4)) == pytest.approx(1)
    assert overlap(square, Bbox.from_extents(2.5, 0, 3, 1)) == 0


def test_the_picture_is_one_file_and_names_what_differs(tmp_path):
    rows = [record("rloo", 0, 0.9, 0.5), record("grpo", 0, 0.8, 0.6, settings={"steps": 3})]
    lines = board({key_of(row): row for row in rows}, "one_of_many")
    assert [name_of(line) for line in lines] == ["base", "RLOO", "GRPO, steps=3"]
    (tmp_path / "images").mkdir()
    path = draw_board(lines, tmp_path / "images" / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
