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


def use_own_settings() -> None:
    """Restores matplotlib's defaults. In a kernel, figures are shown below their cell, as PNG."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if hasattr(shell, "kernel"):
        from matplotlib_inline.backend_inline import set_matplotlib_formats
        from matplotlib_inline.config import InlineBackend

        shell.run_line_magic("matplotlib", "inline")
        inline = InlineBackend.instance()
        inline.close_figures = True
        inline.print_figure_kwargs = {"bbox_inches": "tight"}
        set_matplotlib_formats("png")
    matplotlib.rcdefaults()


def literally(text: str) -> str:
    """`text` for a label or a title in which no sign begins a formula."""
    return text.replace("$", r"\$")
