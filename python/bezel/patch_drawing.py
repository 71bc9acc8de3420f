"""Numbers of patches drawn over their image, as an SVG file that any browser opens."""

from __future__ import annotations

from html import escape

import torch

_PIXEL = 10  # of the drawing, for one of the image
_MARGIN, _GAP = 30, 24
_STRONGEST = 0.85  # opacity
_RAISES, _LOWERS = "#d62728", "#1f5fd6"


def drawing(image: torch.Tensor, scores: torch.Tensor, title: str) -> str:
    """The image, and beside it the same with a colour over each patch.

    Args:
        image: [row column colour], 0 to 1.
        scores: [patch row, patch column]: red where positive, blue where negative, as dense as it
            is large.
        title: Written above.

    Example:
        >>> from bezel.patch_drawing import drawing
        >>> text = drawing(torch.rand(8, 8, 3), torch.randn(2, 2), "which patches")
        >>> text.count("<title>")  # the number of each patch shows under the mouse
        4
    """
    n_rows, n_columns = image.shape[0] * _PIXEL, image.shape[1] * _PIXEL
    left, right = _MARGIN, _MARGIN + n_columns + _GAP
    size = f'width="{right + n_columns + _MARGIN}" height="{n_rows + 3 * _MARGIN}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="{_MARGIN}" font-size="14">{escape(title)}</text>',
        f'<g transform="translate({left} {1.5 * _MARGIN})">{_pixels(image)}</g>',
        f'<g transform="translate({right} {1.5 * _MARGIN})">{_pixels(image, is_grey=True)}',
        *_colours(scores, n_rows / scores.shape[0], n_columns / scores.shape[1]),
        f'</g><text x="{right}" y="{n_rows + 2.3 * _MARGIN}" font-size="12">red raises, blue '
        f"lowers; the strongest: {float(scores.abs().max()):.4f}</text></svg>",
    ]
    return "\n".join(parts)


def _pixels(image: torch.Tensor, is_grey: bool = False) -> str:
    shown = image.mean(-1, keepdim=True).expand_as(image) if is_grey else image
    squares = []
    for y, row in enumerate((255 * shown).round().int().tolist()):
        for x, (red, green, blue) in enumerate(row):
            squares.append(_square(x, y, _PIXEL, _PIXEL, f"rgb({red},{green},{blue})"))
    return "".join(f"{square}/>" for square in squares)


def _colours(scores: torch.Tensor, height: float, width: float) -> list[str]:
    largest = float(scores.abs().max()) or 1.0
    parts = []
    for y, row in enumerate(scores.tolist()):
        for x, score in enumerate(row):
            opacity = _STRONGEST * abs(score) / largest
            square = _square(x, y, width, height, _RAISES if score > 0 else _LOWERS)
            parts.append(
                f'{square} fill-opacity="{opacity:.3f}" stroke="white" stroke-width="0.5">'
                f"<title>row {y}, column {x}: {score:+.4f}</title></rect>"
            )
    return parts


def _square(x: int, y: int, width: float, height: float, colour: str) -> str:
    place = f'x="{x * width:g}" y="{y * height:g}"'
    return f'<rect {place} width="{width:g}" height="{height:g}" fill="{colour}"'
