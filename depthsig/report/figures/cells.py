"""Many short texts as one artist: hundreds of matplotlib's own take longer than everything else in a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.text import Text

Cell = tuple[float, float, str, str]
"""Where a text is anchored (x, y), the text, and its colour."""

LINE_SPACING = 1.2
"""From one line of a text to the next, in heights of a line."""


class Cells(Text):
    """Texts of one size, font and alignment; they take no part in the layout, and are no formulas.

    As a text, it is all of them in a row, so that whoever looks for the characters of a figure finds these.
    """

    def __init__(self, cells: Sequence[Cell], **look: Any) -> None:
        self.cells = [cell for cell in cells if cell[2]]
        look = {"ha": "center", "va": "center", **look}
        super().__init__(0, 0, "".join(text for _, _, text, _ in self.cells), parse_math=False, **look)
        self.set_in_layout(False)

    def texts(self) -> Iterator[str]:
        """The text of every cell."""
        return (text for _, _, text, _ in self.cells)

    def draw(self, renderer: RendererBase) -> None:
        """Draw every text; SVG keeps each as text, anchored as it is here."""
        if not self.get_visible() or self.figure is None:
            return
        font, context = self.get_fontproperties(), renderer.new_gc()
        _, least_height, least_below = renderer.get_text_width_height_descent("lp", font, False)
        page = renderer.get_canvas_width_height()[1] if renderer.flipy() else None
        back = {"left": 0.0, "center": 0.5, "right": 1.0}[self.get_horizontalalignment()]
        lower = {"bottom": 0.0, "center": 0.5, "top": 1.0}[self.get_verticalalignment()]
        renderer.open_group("cells", self.get_gid())
        for x, y, whole, colour in self.cells:
            self.set_position((x, y))  # what SVG anchors it to
            across, up = self.get_transform().transform((x, y))
            context.set_foreground(colour)
            for row, text in enumerate(whole.split("\n")):
                width, height, below = renderer.get_text_width_height_descent(text, font, False)
                height, below = max(height, least_height), max(below, least_below)
                baseline = up - lower * height + below - row * least_height * LINE_SPACING
                down = baseline if page is None else page - baseline
                renderer.draw_text(context, across - back * width, down, text, font, 0, False, self)
        context.restore()
        renderer.close_group("cells")
        self.stale = False


def write_cells(ax: Axes, cells: Sequence[Cell], size: float) -> None:
    """Write texts into cells of a map."""
    drawn = Cells(cells, fontsize=size)
    drawn.set_transform(ax.transData)
    ax.add_artist(drawn)
