"""The explorer: a page of queries under several models, from what `reidlib.show.explorer` collected."""

import json
from typing import Any

from markupsafe import Markup

from reidlib.files import FileError, read_json
from reidlib.report.clean_html import data_uri
from reidlib.study.results import Study

SHEETS = {"query": "image/webp", "gallery": "image/webp", "attention": "image/png"}
STATIC = 12  # queries that are there without a script


def explorer_page(study: Study) -> dict[str, Any] | None:
    """What the template needs for the explorer, or None if the study has none, or a damaged one."""
    try:
        data = read_json(study.explorer / "explorer.json")
        sheets = {name: (study.explorer / f"{name}.{kind[6:]}").read_bytes() for name, kind in SHEETS.items()}
        width, height = data["thumbnail"]
        first = data["queries"][:STATIC]
    except (FileError, OSError, KeyError, TypeError, ValueError):
        return None
    return {
        "sheets": {name: data_uri(kind, sheets[name]) for name, kind in SHEETS.items()},
        "width": width,
        "height": height,
        "data": Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
        "total": len(data["queries"]),
        "models": data["models"],
        "queries": [query_rows(data, number) for number in range(len(first))],
    }


def query_rows(data: dict[str, Any], number: int) -> dict[str, Any]:
    """One query as the page shows it: its label, its picture's place, and one row for each model."""
    query = data["queries"][number]
    rows = []
    for model, title in enumerate(data["models"]):
        images = []
        for place, distance in zip(query["top"][model], query["distance"][model], strict=True):
            if place < 0:
                continue
            identity, camera = data["gallery"][place]
            right = identity == query["identity"]
            label = f"{'right' if right else 'wrong'}: identity {identity}, camera {camera}"
            images.append(
                {
                    "right": right,
                    "label": label,
                    "at": position(data, place, "thumbnail"),
                    "distance_text": f"{distance:.2f}" if distance < 10 else f"{distance:.0f}",
                }
            )
        attention = number * len(data["models"]) + model
        rows.append(
            {
                "title": title,
                "rank": query["rank"][model],
                "precision": query["precision"][model],
                "images": images,
                "attention": attention_style(data, attention),
            }
        )
    return {**query, "at": position(data, number, "thumbnail"), "rows": rows}


def position(data: dict[str, Any], place: int, cell: str) -> str:
    """Where a sheet's n-th cell begins, as CSS: `background-position: …px …px`."""
    width, height = data[cell][:2]
    row, column = divmod(place, data["columns"])
    return f"{-column * width}px {-row * height}px"


def attention_style(data: dict[str, Any], place: int) -> str:
    """The CSS that enlarges the n-th attention map, without its border, to a thumbnail."""
    width, height, border = data["attention"]
    across, down = data["thumbnail"][0] / (width - 2 * border), data["thumbnail"][1] / (height - 2 * border)
    row, column = divmod(place, data["columns"])
    left, top = -(column * width + border) * across, -(row * height + border) * down
    return (
        f"background-size: {data['columns'] * width * across:g}px auto; "
        f"background-position: {left:g}px {top:g}px"
    )
