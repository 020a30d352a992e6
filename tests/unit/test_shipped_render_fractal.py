"""`render_fractal`: a picture that is right, fits into a result, and stops when it is told to."""

from __future__ import annotations

import io
import random
import struct
from itertools import pairwise

import pytest
from PIL import Image as Picture

from tasks_service import Image, TaskCancelled, TaskContext, ToolError, ToolResult
from tests.unit.recording import RecordingAttempt
from workers.tools.fractal.colour import Palette
from workers.tools.fractal.escape import escape
from workers.tools.render_fractal import MAX_PNG, FractalSummary, View, encode, render

WHOLE_SET = View(width=120, height=80, center=-0.6 + 0j, scale=3.4, max_iterations=100)


def picture_of(result: ToolResult) -> Picture.Image:
    content = result.blocks[1]
    assert isinstance(content, Image)
    assert content.mime_type == "image/png"
    return Picture.open(io.BytesIO(content.data))


@pytest.mark.parametrize("c", [0j, -1 + 0j, -0.1 + 0.75j, 0.25 + 0j, -1.75 + 0j, 1j, -2 + 0j])
def test_points_of_the_set_never_escape(c: complex) -> None:
    assert escape(c, 1000) is None


@pytest.mark.parametrize("c", [1 + 0j, 0.26 + 0j, -2.1 + 0j, 0.5 + 0.5j, 12 + 12j])
def test_points_outside_the_set_escape(c: complex) -> None:
    assert escape(c, 1000) is not None


def test_the_count_is_smooth_where_the_iterations_jump() -> None:
    counts = [point.count for x in range(1000) if (point := escape(complex(0.4 + x / 5000, 0.3), 1000))]

    assert max(abs(later - earlier) for earlier, later in pairwise(counts)) < 0.2


def test_the_slope_leads_towards_the_set_against_the_distance() -> None:
    right, above = escape(3 + 0j, 100), escape(-0.5 + 3j, 100)

    assert right is not None
    assert right.slope.real == pytest.approx(1, abs=0.01)
    assert above is not None
    assert above.slope.imag == pytest.approx(1, abs=0.01)


def test_the_result_is_an_image_a_sentence_and_a_summary() -> None:
    result = render(WHOLE_SET, Palette.GLACIER, TaskContext(RecordingAttempt()))
    picture, text = picture_of(result), result.blocks[0]
    summary = FractalSummary.model_validate(result.structured_content)

    assert isinstance(text, str)
    assert "120 x 80" in text
    assert picture.size == (summary.width, summary.height) == (120, 80)
    # The area of the set is 1.5066; the view's is 3.4 x 3.4 x 2 / 3.
    assert summary.inside_fraction == pytest.approx(1.5066 / 7.7067, abs=0.02)


def test_the_upper_half_of_the_whole_set_mirrors_the_lower_one() -> None:
    picture = picture_of(render(WHOLE_SET, Palette.EMBER, TaskContext(RecordingAttempt())))
    dark = [[sum(pixel) < 40 for pixel in row] for row in _rows(picture)]
    agree = sum(
        one == other
        for row, mirrored in zip(dark, dark[::-1], strict=True)
        for one, other in zip(row, mirrored, strict=True)
    )

    assert agree / (120 * 80) > 0.95


def _rows(picture: Picture.Image) -> list[list[tuple[int, int, int]]]:
    data = picture.convert("RGB").tobytes()
    pixels = list(struct.iter_unpack("BBB", data))
    return [pixels[start : start + picture.width] for start in range(0, len(pixels), picture.width)]


@pytest.mark.parametrize("palette", list(Palette))
def test_every_palette_paints_another_picture_with_many_colours(palette: Palette) -> None:
    picture = picture_of(render(WHOLE_SET, palette, TaskContext(RecordingAttempt())))

    assert len(set(picture.getcolors(10_000) or [])) > 1000


def test_even_noise_is_reduced_until_it_fits_into_a_result() -> None:
    noise = random.Random(1).randbytes(3 * 1024 * 1024)
    picture = Picture.frombytes("RGB", (1024, 1024), noise)
    png, colours = encode(_rows(picture))

    assert len(png) <= MAX_PNG
    assert colours == 32


def test_a_picture_with_too_many_pixels_is_refused_before_any_work() -> None:
    attempt = RecordingAttempt()
    with pytest.raises(ToolError, match="at most 1,048,576"):
        render(View(2048, 2048, 0j, 1, 100), Palette.EMBER, TaskContext(attempt))

    assert not attempt.checkpoints


def test_progress_counts_rows_up_to_the_total() -> None:
    attempt = RecordingAttempt()
    render(WHOLE_SET, Palette.DUSK, TaskContext(attempt))
    done = [report.current for report in attempt.reports]

    assert done == sorted(set(done))
    assert {report.total for report in attempt.reports} == {160}
    assert done[-1] == 160


def test_a_cancelled_rendering_stops_within_a_fraction_of_a_second_at_the_hardest_points() -> None:
    attempt = RecordingAttempt(cancel_when=lambda attempt: len(attempt.checkpoints) == 20)
    hard = View(width=512, height=512, center=-0.1528 + 1.0397j, scale=1e-9, max_iterations=20_000)
    with pytest.raises(TaskCancelled):
        render(hard, Palette.EMBER, TaskContext(attempt))

    assert max(later - earlier for earlier, later in pairwise(attempt.checkpoints)) < 0.5
