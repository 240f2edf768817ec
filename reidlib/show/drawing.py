"""matplotlib by the study's own settings. Imported before anything else of matplotlib.

A user's environment may ask for other ones: by MPLBACKEND, by a matplotlibrc, or by a profile of IPython.
A figure of the study must not depend on them, and a notebook must show it.
"""

import os
import sys

# matplotlib reads both when it is imported, and refuses what it does not know.
os.environ.pop("MPLBACKEND", None)
os.environ["MATPLOTLIBRC"] = os.devnull

import matplotlib  # noqa: E402
import matplotlib.style  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


def use_own_settings() -> None:
    """Restores matplotlib's defaults. In a kernel, figures are shown below their cell, as PNG."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if hasattr(shell, "kernel"):
        from IPython.core.pylabtools import print_figure
        from matplotlib_inline.backend_inline import set_matplotlib_formats
        from matplotlib_inline.config import InlineBackend

        shell.run_line_magic("matplotlib", "inline")
        inline = InlineBackend.instance()
        inline.close_figures = True
        inline.print_figure_kwargs = {"bbox_inches": "tight"}
        set_matplotlib_formats("png")

        def with_description(figure: Figure) -> tuple[bytes, dict[str, str]] | None:
            picture = print_figure(figure, base64=True, **inline.print_figure_kwargs)
            # `Study.save_figure` notes the name as the figure's group id.
            return picture and (picture, {"alt": description_of(figure), "name": figure.get_gid() or ""})

        shell.display_formatter.formatters["image/png"].for_type(Figure, with_description)
    matplotlib.rcdefaults()


def described(figure: Figure, text: str) -> Figure:
    """Gives a figure its alternative text: what it shows, and what is found in it, for who does not see it.

    The text stands in the report, in the notebook's output, and in the saved files.
    """
    figure.set_label(" ".join(text.split()))
    return figure


def description_of(figure: Figure) -> str:
    """The figure's alternative text; "" if it has none."""
    return figure.get_label()


def literally(text: str) -> str:
    """`text` for a label or a title in which no sign begins a formula."""
    return text.replace("$", r"\$")
