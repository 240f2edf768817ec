"""Selectors below a figure for who steps through a notebook in JupyterLab: another query, person or layer.

Elsewhere nothing is shown: a notebook that papermill executes has nobody to choose.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from reidlib.datasets.types import ReidDataset
from reidlib.progress import situation
from reidlib.run import Run
from reidlib.show import figures, maps, ranking_figures, rankings

# Jupyter's server gives it to the kernels of notebooks that somebody has opened.
SESSION = "JPY_SESSION_NAME"


def somebody_chooses() -> bool:
    """Whether this kernel belongs to a notebook that is open in JupyterLab or the like."""
    return bool(os.environ.get(SESSION)) and situation() == "widget"


def choose_query(
    runs: Sequence[Run], dataset: ReidDataset, query: np.ndarray, gallery: np.ndarray, *, most: int = 20
) -> None:
    """Selectors of a query and of the number of gallery images, above their ranking under each model.

    Args:
        query, gallery: (N, H, W, 3) decoded images in the data set's order.
        most: gallery images, at most.
    """

    def draw(number: int, top: int) -> Figure:
        frame = rankings.ranking_frame(runs, dataset, np.array([number]), top)
        return ranking_figures.ranking_gallery(query, gallery, frame, f"Query {number}")

    def widgets() -> dict:
        from ipywidgets import BoundedIntText, IntSlider

        last = len(dataset.query) - 1
        return {
            "number": BoundedIntText(value=0, min=0, max=last, description=f"query, 0–{last}"),
            "top": IntSlider(value=5, min=1, max=min(most, len(dataset.gallery)), description="first"),
        }

    _show(draw, widgets)


def choose_person(
    models: Mapping[str, torch.nn.Module], labels: Mapping[str, str], images: np.ndarray
) -> None:
    """Selectors of a test image and of a stage of the networks, above where each model is active there.

    Args:
        models: name → an ABD-Net.
        labels: name → its label.
        images: (N, H, W, 3) decoded test images.
    """

    def draw(number: int, stage: str) -> Figure:
        person = images[[number]]
        place = list(maps.STAGES).index(stage)
        heats = [maps.stage_activation(model, person)[place, 0] for model in models.values()]
        pictures = [person[0], *(figures.heat_overlay(person[0], heat) for heat in heats)]
        names = ["image", *(labels[name].replace("\n", " ") for name in models)]
        return figures.image_grid([pictures], [""], title=stage, column_labels=names)

    def widgets() -> dict:
        from ipywidgets import BoundedIntText, Dropdown

        last = len(images) - 1
        return {
            "number": BoundedIntText(value=0, min=0, max=last, description=f"image, 0–{last}"),
            "stage": Dropdown(options=list(maps.STAGES), value=list(maps.STAGES)[-1], description="after"),
        }

    _show(draw, widgets)


def _show(draw: Callable[..., Figure], widgets: Callable[[], dict]) -> None:
    if not somebody_chooses():
        return
    from IPython.display import display
    from ipywidgets import VBox, interactive_output
    from matplotlib import pyplot as plt

    chosen = widgets()

    def show(**values) -> None:
        figure = draw(**values)
        display(figure)
        plt.close(figure)

    display(VBox(list(chosen.values())), interactive_output(show, chosen))
