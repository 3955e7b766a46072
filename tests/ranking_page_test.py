"""docs/ranking.md says what the code computes. Goldens: numpy float64 from DLDL-v2, Eqs. 1-6, for y = 50."""

import doctest
import re
import struct

import numpy as np
import pytest

from data_pipelines.errors import UserError
from experiments import ranking_page

PAGE = (ranking_page.DOCS / "ranking.md").read_text()
PRINTED = {"rtol": 1e-9, "atol": 1e-10}


def test_table_of_the_page_is_what_the_code_computes():
    assert ranking_page.TABLE.search(PAGE)[0] == ranking_page.table()


def test_snippets_of_the_page_run_and_print_what_the_page_says():
    snippets = re.findall(r"```pycon\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(snippets) == PAGE.count("```") // 2 == 2
    printed = []
    run = doctest.DocTestRunner(verbose=False)
    run.run(doctest.DocTestParser().get_doctest("\n".join(snippets), {}, "ranking.md", None, 0), out=printed.append)
    assert run.summarize(verbose=False).failed == 0, "".join(printed)


@pytest.mark.parametrize(
    "sigma, expected, furthest",
    [
        (2.0, [0.7757682335, 0.5997355701, 0.4002644299, 0.2242317665, 0.1032464043], 0.4002644299),
        (0.5, [0.9997361229, 0.8932853535, 0.1067146465, 2.638770559e-4, 1.197946609e-8], 0.1067146465),
        (0.1, [1, 1, 0, 0, 0], 0),
    ],
)
def test_goldens(sigma, expected, furthest):
    found = ranking_page.curves(sigma)
    np.testing.assert_allclose(found["1 - Tp"][48:53], expected, **PRINTED)
    np.testing.assert_allclose(np.abs(found["code"] - found["1 - Tp"]).max(), furthest, **PRINTED)
    np.testing.assert_allclose(np.abs(found["code"] - found["1 - c"]).max(), 0.5, **PRINTED)


def test_t_is_the_lower_triangle_and_is_printed_as_the_upper_one():
    found, ones = ranking_page.curves(2.0), np.ones((101, 101))
    np.testing.assert_allclose(found["Tp"], np.tril(ones) @ found["p"], **PRINTED)
    np.testing.assert_allclose(found["1 - T'p"], (1 - np.triu(ones) @ found["p"])[:-1], **PRINTED)
    assert (np.diff(found["1 - Tp"]) <= 0).all()
    assert (np.diff(found["1 - T'p"]) >= 0).all()


def test_picture_shows_the_curves():
    panels = ranking_page.figure().axes
    assert len(panels) == 3
    for panel, name in zip(panels, ("p", "Tp", "1 - Tp")):
        lines = [line for line in panel.lines if len(line.get_xdata()) > 2]
        for line, sigma in zip(lines, (2.0, 0.5, 0.1)):
            expected = ranking_page.curves(sigma)[name][list(line.get_xdata())]
            np.testing.assert_array_equal(line.get_ydata(), expected)
    np.testing.assert_array_equal(panels[2].lines[-1].get_ydata(), [1] * 6 + [0] * 7)
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["σ = 2", "σ = 0.5", "σ = 0.1"]


def test_page_is_written_again_with_the_numbers_of_today(tmp_path):
    for old in (re.sub(r"0\.\d{4}", "0.1234", PAGE), ranking_page.TABLE.sub("", PAGE)):
        (tmp_path / "ranking.md").write_text(old)
        ranking_page.write(tmp_path)
        assert (tmp_path / "ranking.md").read_text() == PAGE
    new, old = ((folder / "ranking.png").read_bytes()[16:24] for folder in (tmp_path, ranking_page.DOCS))
    assert struct.unpack(">II", new) == struct.unpack(">II", old)  # width and height; fonts may differ
    assert "](ranking.png)" in PAGE


def test_page_without_a_place_for_the_table_is_refused(tmp_path):
    (tmp_path / "ranking.md").write_text("# Ranking\n")
    with pytest.raises(UserError, match="0 places"):
        ranking_page.write(tmp_path)
