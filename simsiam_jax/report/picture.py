"""A figure with the words that go with it, as the report's modules hand it to the page."""

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
      name: Its file in report/, without the ending; letters, digits and dashes, unique in the page.
      figure: What is drawn.
      alternative: What it shows, for whoever cannot see it.
      caption: How to read it.
    """

    name: str
    figure: Figure
    alternative: str
    caption: str
