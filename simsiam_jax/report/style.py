"""The look of the report's figures: their colours by light and dark pages, and their files.

An arm keeps its colour and marker through all figures. Every colour is a name in `THEME`; `themed_svg` turns each
into a CSS variable, so that one drawing serves light and dark pages.
"""

import io
import re
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from simsiam_jax.report.words import cut

# name: (light, dark). The arms' colours keep apart under the common colour blindnesses (after Okabe and Ito) and
# reach a contrast of 3 on their page; the first arm is grey. All values of a theme differ: themed_svg needs it.
THEME = {
    "paper": ("#fcfbf8", "#14171b"),
    "ink": ("#1c2126", "#e9e6df"),
    "muted": ("#5a626c", "#a3a9b1"),
    "rule": ("#dcd9d1", "#32383f"),
    "arm-0": ("#6a7480", "#9aa4b0"),
    "arm-1": ("#c4570a", "#f08a3c"),
    "arm-2": ("#0a66ad", "#5cb0f0"),
    "arm-3": ("#00805a", "#3cc79a"),
    "arm-4": ("#a8487f", "#e58cc0"),
    "arm-5": ("#8a6d00", "#d9b93a"),
    "arm-6": ("#4b4fb5", "#9b9ff2"),
}
ARM_COLOURS = tuple(light for name, (light, _) in THEME.items() if name.startswith("arm-"))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
PAPER, INK, MUTED, RULE = (THEME[name][0] for name in ("paper", "ink", "muted", "rule"))
# What is right and what is wrong, in the pictures of neighbours and confusions.
RIGHT, WRONG = ARM_COLOURS[3], ARM_COLOURS[1]
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same drawing on every machine
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in an arm's name is a dollar
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "simsiam_jax",  # equal runs give equal files
}


@dataclass(frozen=True)
class Picture:
    """A figure of the page, with the words that go with it.

    Attributes:
      name: The figure's file in report/ without its ending: letters, digits and dashes, unique in the page.
      figure: The figure.
      alternative: What the figure shows, for whoever cannot see it.
      caption: How to read the figure.
    """

    name: str
    figure: Figure
    alternative: str
    caption: str


def arm_colour(position: int) -> str:
    """The colour, in the light theme, of the arm at this position (`ArmRecord.position`)."""
    return ARM_COLOURS[position % len(ARM_COLOURS)]


def arm_marker(position: int) -> str:
    """The marker of the arm at this position: colour is never the only sign."""
    # Where colours begin again, markers are shifted: no two of 49 arms have both in common.
    return MARKERS[(position + position // len(ARM_COLOURS)) % len(MARKERS)]


def styled() -> AbstractContextManager[None]:
    """The style in which every figure of the report is drawn."""
    return matplotlib.rc_context(_STYLE)  # pyright: ignore[reportArgumentType]


def shorten(label: str, length: int) -> str:
    """The label on one line of at most so many letters."""
    label = cut(label, length)
    # A leading underscore means "not in the legend" to matplotlib.
    return f" {label}" if label.startswith("_") else label


def png(figure: Figure) -> bytes:
    """The figure as a PNG on the light theme's ground."""
    return _render(figure, format="png", dpi=160, facecolor=PAPER, metadata={"Software": None})


def themed_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element whose colours are the page's CSS variables.

    It names no outside address, not even a namespace (HTML knows svg). Its ids begin with `name`, so that several such
    elements can stand in one page.

    Args:
      figure: A figure whose colours are all of `THEME`.
      name: Letters, digits and dashes, unique in the page.
    """
    text = _render(figure, format="svg", facecolor="none", metadata={"Date": None}).decode()
    text = text[text.index("<svg") :]
    # Inlined, matplotlib's style element would speak for the whole page; its comments repeat user text.
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text, count=2)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = re.sub(r' width="[^"]*" height="[^"]*"', "", text, count=1)  # the page sets the width, viewBox the rest
    for variable, (light, _) in THEME.items():
        text = text.replace(light, f"var(--{variable})")
    return text.strip()


def css_variables(dark: bool) -> str:
    """`THEME` as CSS declarations, for dark or for light pages."""
    return " ".join(f"--{name}: {colours[dark]};" for name, colours in THEME.items())


def _render(figure: Figure, **options: Any) -> bytes:
    file = io.BytesIO()
    with styled(), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; it is no reason to trouble anyone.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, **options)
    return file.getvalue()
