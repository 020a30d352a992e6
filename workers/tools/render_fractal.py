"""The tool `render_fractal`: a picture of the Mandelbrot set, in pure Python, and so a long computation."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from PIL import Image as Picture
from pydantic import BaseModel, ConfigDict, Field

from tasks_service import Image, TaskContext, TaskService, ToolAnnotations, ToolError, ToolResult

from .fractal.colour import Colour, Painter, Palette, find_range, mean_colour
from .fractal.escape import Escape, escape

BAND = 8
"""Rows between two progress reports."""

CHECKED = 16
"""Pixels between two checkpoints: less than a tenth of a second, even for points of the set."""

MAX_PIXELS = 1_048_576
"""Most pixels of a picture: so many always fit into a result, in few enough colours."""

MAX_PNG = 700_000
"""Most bytes of a PNG: in Base64, with the summary, they are less than a result of 1 MiB."""

CONTRAST = 64
"""The difference of two neighbours, summed over the channels, above which a pixel is sampled more finely."""

SUBPIXELS = ((-0.35, -0.2), (0.35, -0.2), (0.0, 0.4))
"""The additional samples of such a pixel, relative to its centre."""


class FractalSummary(BaseModel):
    """What was drawn."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    png_bytes: int
    """Size of the image."""
    colours: int | None
    """To how many colours the image was reduced to fit into a result; null: not at all."""
    inside_fraction: float
    """Part of the picture that belongs to the set, as far as `max_iterations` can tell."""
    refined_fraction: float
    """Part of the pixels that were sampled more finely, because they differ from their neighbours."""
    seconds: float
    """How long it took."""


def register(service: TaskService) -> None:
    """Add the tool to a service."""

    @service.tool(
        title="Render a fractal",
        annotations=ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
        grace=timedelta(seconds=1),
        poll_interval=timedelta(seconds=0.5),
        timeout=timedelta(hours=1),
    )
    def render_fractal(
        ctx: TaskContext,
        width: Annotated[int, Field(ge=16, le=2048, description="Pixels.")] = 640,
        height: Annotated[int, Field(ge=16, le=2048, description="Pixels.")] = 480,
        center_x: Annotated[float, Field(ge=-4, le=4, description="Real part of the centre.")] = -0.7435,
        center_y: Annotated[float, Field(ge=-4, le=4, description="Imaginary part of the centre.")] = 0.1314,
        scale: Annotated[
            float,
            Field(ge=1e-12, le=16, description="Width of the view; 3.5 shows the whole set, less zooms in."),
        ] = 0.0024,
        max_iterations: Annotated[
            int, Field(ge=10, le=20_000, description="More of them show more detail in deep zooms.")
        ] = 1000,
        palette: Annotated[Palette, Field(description="The colours.")] = Palette.EMBER,
    ) -> Annotated[ToolResult, FractalSummary]:
        """Draw a part of the Mandelbrot set, smoothly coloured and lit, as a PNG image.

        Computed in Python, so it keeps a processor busy: some seconds for a small picture, minutes for a
        large one with many iterations. At most 1,048,576 pixels. Good places: the whole set (centre -0.6, 0,
        scale 3.4), a spiral of the seahorse valley (the defaults), the elephant valley (0.2925755,
        0.0149977, scale 0.006).
        """
        view = View(width, height, complex(center_x, center_y), scale, max_iterations)
        return render(view, palette, ctx)


@dataclass(frozen=True, slots=True)
class View:
    """The part of the plane that is drawn, and its resolution.

    Attributes:
        width: Pixels.
        height: Pixels.
        center: The point in the middle.
        scale: The width of the view in the plane.
        max_iterations: The most iterations of a point.
    """

    width: int
    height: int
    center: complex
    scale: float
    max_iterations: int

    def sample(self, x: float, y: float) -> Escape | None:
        """Iterate the point at a pixel; integers are the centres of pixels, y grows downwards."""
        pixel = self.scale / self.width
        offset = complex((x - (self.width - 1) / 2) * pixel, ((self.height - 1) / 2 - y) * pixel)
        return escape(self.center + offset, self.max_iterations)


def render(view: View, palette: Palette, ctx: TaskContext) -> ToolResult:
    """Draw a view.

    Args:
        view: What to draw.
        palette: Its colours.
        ctx: The context; progress counts rows, once for drawing and once for refining.

    Returns:
        The PNG as image content, a sentence, and a `FractalSummary` as structured content.

    Raises:
        ToolError: Too many pixels.
        AttemptEnded: The attempt must stop; noticed within `CHECKED` pixels.
    """
    if view.width * view.height > MAX_PIXELS:
        raise ToolError(
            f"{view.width} x {view.height} are {view.width * view.height:,} pixels, at most {MAX_PIXELS:,} "
            "are drawn. Ask for a smaller width or height."
        )
    start = time.monotonic()
    field = list(_draw(view, ctx))
    painter = Painter(palette, find_range(point.count for row in field for point in row if point))
    rows = [_paint(painter, row, ctx) for row in field]
    refined = _refine(view, painter, rows, ctx)
    ctx.progress(2 * view.height, 2 * view.height, "writing the image")
    png, colours = encode(rows)
    pixels = view.width * view.height
    summary = FractalSummary(
        width=view.width,
        height=view.height,
        png_bytes=len(png),
        colours=colours,
        inside_fraction=round(sum(row.count(None) for row in field) / pixels, 4),
        refined_fraction=round(refined / pixels, 4),
        seconds=round(time.monotonic() - start, 3),
    )
    return ToolResult(
        [_sentence(view, palette, summary), Image(data=png)],
        structured_content=summary.model_dump(mode="json"),
    )


def _draw(view: View, ctx: TaskContext) -> Iterator[list[Escape | None]]:
    for y in range(view.height):
        if y % BAND == 0:
            ctx.progress(y, 2 * view.height, f"drawing row {y} of {view.height}")
        row: list[Escape | None] = []
        for x in range(view.width):
            if x % CHECKED == 0:
                ctx.check()
            row.append(view.sample(x, y))
        yield row


def _paint(painter: Painter, row: Sequence[Escape | None], ctx: TaskContext) -> list[Colour]:
    ctx.check()
    return [painter.paint(point) for point in row]


def _refine(view: View, painter: Painter, rows: list[list[Colour]], ctx: TaskContext) -> int:
    marked = [_contrasts(rows, y) for y in range(view.height)]
    for y, columns in enumerate(marked):
        if y % BAND == 0:
            ctx.progress(view.height + y, 2 * view.height, f"refining row {y} of {view.height}")
        for n, x in enumerate(columns):
            if n % CHECKED == 0:
                ctx.check()
            finer = [painter.paint(view.sample(x + dx, y + dy)) for dx, dy in SUBPIXELS]
            rows[y][x] = mean_colour([rows[y][x], *finer])
    return sum(map(len, marked))


def _contrasts(rows: Sequence[Sequence[Colour]], y: int) -> list[int]:
    row, below = rows[y], rows[min(y + 1, len(rows) - 1)]
    beside = [*row[1:], row[-1]]
    return [
        x
        for x, (here, right, under) in enumerate(zip(row, beside, below, strict=True))
        if _difference(here, right) > CONTRAST or _difference(here, under) > CONTRAST
    ]


def _difference(one: Colour, other: Colour) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) + abs(one[2] - other[2])


def encode(rows: Sequence[Sequence[Colour]]) -> tuple[bytes, int | None]:
    """Write a picture as PNG, in fewer colours if it would be larger than `MAX_PNG`.

    Args:
        rows: At most `MAX_PIXELS` pixels.

    Returns:
        The PNG, and the number of colours that it was reduced to; None: not reduced.
    """
    image = Picture.new("RGB", (len(rows[0]), len(rows)))
    image.putdata([colour for row in rows for colour in row])
    png = _png(image)
    if len(png) <= MAX_PNG:
        return png, None
    # Even noise in 32 colours takes only 5 bits for a pixel, so the last of these always fits.
    for colours in (256, 128, 64, 32):
        png = _png(image.quantize(colours))
        if len(png) <= MAX_PNG:
            break
    return png, colours


def _png(image: Picture.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _sentence(view: View, palette: Palette, summary: FractalSummary) -> str:
    return (
        f"Mandelbrot set around {view.center.real:.12g} {view.center.imag:+.12g}i, {view.scale:g} wide, "
        f"{view.width} x {view.height} pixels, palette {palette}, up to {view.max_iterations} iterations; "
        f"drawn in {summary.seconds:.1f} s."
    )
