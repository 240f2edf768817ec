"""The study: `python run_all.py` runs every notebook that is out of date, in order, and builds the report.

`steps` below is the whole study as a list. `python run_all.py --dry-run` prints what would run, and why. The
command line itself is in reidlib/study/command_line.py.
"""

import sys

if sys.flags.safe_path:  # python -I or -P: this folder is not searched for reidlib
    sys.path.insert(0, __file__.rpartition("/")[0])

from reidlib.surroundings import end_quietly_if_interrupted, require_sound_python

if __name__ == "__main__":
    end_quietly_if_interrupted()
require_sound_python()  # before the imports below, which would fail with a traceback

from pathlib import Path

from reidlib.config import (
    METHODS,
    OF_BETA,
    OF_FILES,
    experiment_for,
    of_beta_runs,
    run_of,
    settings_of,
    title_of,
)
from reidlib.files import REPOSITORY
from reidlib.study import command_line
from reidlib.study.command_line import Front, Request
from reidlib.study.steps import Step, declared_parameters
from reidlib.switches import SWITCHES

FRONT = Front(
    title="Attention for person re-identification: two papers reproduced",
    claim="ABD-Net claims that attention made diverse by orthogonality retrieves people better than "
    "attention alone; Parameter-Free Spatial Attention claims that weighting places by their summed "
    "response spreads activation over the body. "
    "Every figure and table here is made again from the runs listed below.",
)
PUBLISHED = ("data/paper",)  # the papers' numbers: a table is made again when one of them is corrected
MOST_QUERIES = 2000  # on masks; the notebooks' own number fits the demo's quarter of an hour
REFERENCE = ("results/reference",)  # the runs that are kept in the checkout


def steps(request: Request) -> list[Step]:
    """Every notebook of the study with its parameters. Each step comes after those it needs."""
    if request.reference:
        return reference_steps(request)
    if request.query_images:
        return [own_images_step(request)]
    if request.checkpoint:
        return [checkpoint_step(request), *transfer_steps(request, (checkpoint_step(request).name,))]
    study, methods, seeds, overrides = request.study, request.methods, list(request.seeds), request.overrides
    place = parameters_of(request)
    sides = [
        run_of(switch, side, study.profile, **overrides)
        for switch in SWITCHES
        if switch.name in request.switches
        for side in switch.sides
    ]
    sweep = of_beta_runs(study.profile, **overrides) if OF_BETA in request.switches else ()
    own_weights = [overrides[name] for name in OF_FILES if isinstance(overrides.get(name), str)]
    images = "cifar100" if study.profile == "paper" else "digits"
    classification = ("23_classification",) if images == "cifar100" else ()  # digits bear no claim
    training = {
        (method, seed): Step(
            f"10_train/{method}-seed{seed}",
            "10_train",
            {**place, "method": method, "seed": seed, "overrides": overrides},
            needs=("01_data",),
            produces=(f"runs/{method}-seed{seed}/metrics.json", f"figures/curves_{method}-seed{seed}.png"),
            # ABD-Net's second branch makes training slower
            weight=1.5
            if experiment_for(method, profile=study.profile, **overrides).family == "abdnet"
            else 1.0,
            title=f"{title_of(method)}, seed {seed}",
            reads=(*PUBLISHED, *own_weights),
        )
        for seed in seeds
        for method in dict.fromkeys([*methods, *sides, *sweep])
    }

    def shows(
        notebook: str,
        needed: tuple[str, ...],
        *produces: str,
        seed: int | None = None,
        measures_all: bool = False,
        **more: object,
    ) -> Step:
        """A step that shows runs: every seed's, or those of one seed, its parameter.

        It needs those of them that are part of this call. With `measures_all` it draws one seed's runs and
        measures every seed's. more: parameters of this notebook alone.
        """
        seeds_shown = seeds if seed is None or measures_all else [seed]
        needs = [
            step.name for (method, own), step in training.items() if method in needed and own in seeds_shown
        ]
        parameters = {**place, "overrides": overrides} | ({} if seed is None else {"seed": seed}) | more
        if measures_all and study.profile in ("full", "paper"):
            parameters["mask_queries"] = MOST_QUERIES
        return Step(
            notebook, notebook, parameters, ("01_data", *needs), produces, weight=0.15, reads=PUBLISHED
        )

    return [
        Step(
            "01_data",
            "01_data",
            place,
            produces=(
                "tables/data_statistics.csv",
                "tables/reference_points.csv",
                "tables/reference_points.json",
                "figures/data_samples.png",
            ),
            weight=0.5,
            images=request.images,
        ),
        Step(
            "02_networks",
            "02_networks",
            {**place, "overrides": overrides},
            produces=("figures/network_abdnet.png", "figures/network_pfsa.png", "tables/networks.csv"),
            weight=0.2,
        ),
        *training.values(),
        shows("20_ablation_abdnet", methods, "tables/ablation_abdnet.csv", "figures/ablation_abdnet.png"),
        shows(
            "21_ablation_spatial_attention", methods, "tables/ablation_pfsa.csv", "figures/ablation_pfsa.png"
        ),
        Step(
            "22_paper_vs_code",
            "22_paper_vs_code",
            {**place, "seeds": seeds, "overrides": overrides},
            (
                "01_data",
                *(
                    step.name
                    for (method, _), step in training.items()
                    if method in {*(switch.base for switch in SWITCHES), *sides}
                ),
            ),
            (
                "tables/deviations.csv",
                "tables/switches.csv",
                "tables/switches_untrained.csv",
                "figures/switches.png",
            ),
            weight=0.7,
        ),
        Step(
            "23_classification",
            "23_classification",
            {**place, "images": images},
            produces=(
                f"runs/classification-{images}",
                "tables/classification.csv",
                "tables/classification_mechanism.csv",
                "figures/classification.png",
            ),
            weight=0.5,
        ),
        *transfer_steps(
            request, ("01_data", *(step.name for (method, _), step in training.items() if method in methods))
        ),
        Step(
            "05_findings",
            "05_findings",
            {**place, "overrides": overrides},
            ("01_data", *(step.name for step in training.values()), *classification),
            ("tables/findings.csv", "figures/findings.png"),
            weight=0.1,
            reads=(*PUBLISHED, *REFERENCE),
            front=True,
        ),
        shows(
            "30_attention_maps",
            ("baseline", "baseline+pam+cam", "abdnet-xe"),
            "figures/attention_maps.png",
            "figures/ranking_activation_maps.png",
            "tables/attention_measures.csv",
            seed=seeds[0],
            measures_all=True,
        ),
        shows(
            "31_class_activation_maps",
            ("gap", "gap+sa1", "gap+sa1.sa-normalization.as-written"),
            "figures/class_activation_maps.png",
            "tables/class_activation_measures.csv",
            seed=seeds[0],
            measures_all=True,
        ),
        shows(
            "32_ranking_gallery",
            ("abdnet-xe", "baseline+pam+cam", "baseline"),
            "figures/ranking_gallery.png",
            "figures/gallery_size.png",
            seed=seeds[0],
        ),
        shows(
            "33_diversity",
            (*(method for method in methods if settings_of(method).get("family") != "pfsa"), *sweep),
            "tables/diversity.csv",
            "figures/channel_correlation.png",
            "figures/spectra.png",
            "figures/diversity_over_epochs.png",
            "figures/of_beta.png",
        ),
        shows(
            "34_failures",
            methods,
            "figures/cmc.png",
            "figures/failures_cameras.png",
            # what only the renderer knows
            *(["figures/failures_attributes.png"] if study.dataset == "synthetic" else []),
            "figures/worst_queries.png",
            "tables/worst_queries.csv",
            "figures/embeddings_2d.png",
            method="abdnet" if "abdnet" in methods else methods[0],
            people=12,
        ),
        shows(
            "35_explorer",
            ("baseline", "baseline+pam+cam", "abdnet-xe"),
            "explorer/explorer.json",
            "tables/explorer.csv",
            "figures/explorer.png",
            seed=seeds[0],
        ),
        shows("90_report", methods, "tables/runs.csv", "figures/overview.png"),
        shows("91_published_tables", methods, "tables/market1501.csv", "tables/pfsa.csv"),
        Step(
            "92_settings",
            "92_settings",
            {**place, "overrides": overrides},
            produces=("tables/rows.csv", "tables/left_out.csv", "tables/rates.csv"),
            weight=0.1,
            reads=(*PUBLISHED, *REFERENCE),
        ),
    ]


def checkpoint_step(request: Request) -> Step:
    """The one step that scores released weights."""
    (method,) = request.methods
    run = request.study.checkpoint_run(method, request.checkpoint)
    parameters = {"method": method, "checkpoint": request.checkpoint, "overrides": request.overrides}
    return Step(
        f"10_train/{run.name}",
        "10_train",
        {**parameters_of(request), **parameters},
        produces=(f"runs/{run.name}/metrics.json",),
        title=f"{METHODS[method].title}, weights of {Path(request.checkpoint).name}",
        reads=(*PUBLISHED, request.checkpoint),
        images=request.images,
    )


def transfer_steps(request: Request, needs: tuple[str, ...]) -> list[Step]:
    """The step that scores the runs on other data sets; none if no other is named."""
    if not request.targets and request.study.dataset != "joined":
        return []
    parameters = {
        "methods": list(request.methods),
        "targets": request.targets,
        "checkpoint": request.checkpoint,
        "overrides": request.overrides,
    }
    return [
        Step(
            "24_transfer",
            "24_transfer",
            {**parameters_of(request), **parameters},
            needs,
            ("tables/transfer.csv", "tables/transfer_matrix.csv", "figures/transfer.png"),
            weight=0.5,
            reads=(request.checkpoint,) if request.checkpoint else (),
            images=request.target_images,
        )
    ]


def own_images_step(request: Request) -> Step:
    """The one step that searches one's own images."""
    run = Path(request.run)
    weights = [run / name for name in ("weights.json", "scores.json", "model.pt")] if run.is_dir() else [run]
    labels = request.data_options["labels"]
    return Step(
        "40_your_images",
        "40_your_images",
        {
            **parameters_of(request),
            "run": request.run,
            "query_images": list(request.query_images),
            "method": request.methods[0],
            "overrides": request.overrides,
        },
        produces=(
            *(
                f"embeddings/{part}.{kind}"
                for part in ("gallery", "queries")
                for kind in ("parquet", "npy", "csv")
            ),
            "tables/ranking.csv",
            "figures/why_matched.png",
        ),
        reads=(*map(str, weights), *([labels] if Path(labels).is_absolute() else [])),
        images=request.images,
    )


# Notebook → the rows that it cannot do without, and what it writes, for the pages of reference runs.
REFERENCE_PAGES = {
    "02_networks": ((), ("figures/network_abdnet.png", "figures/network_pfsa.png", "tables/networks.csv")),
    "05_findings": ((), ("tables/findings.csv", "figures/findings.png")),
    "20_ablation_abdnet": (
        ("baseline",),
        ("tables/ablation_abdnet.csv", "figures/ablation_abdnet.png"),
    ),
    "21_ablation_spatial_attention": (("gap",), ("tables/ablation_pfsa.csv", "figures/ablation_pfsa.png")),
    "22_paper_vs_code": (("abdnet", "pfsa"), ("tables/switches.csv", "figures/switches.png")),
    "33_diversity": (
        ("baseline",),
        ("tables/diversity.csv", "figures/diversity_over_epochs.png", "figures/of_beta.png"),
    ),
    "90_report": (("baseline",), ("tables/runs.csv", "figures/overview.png")),
    "91_published_tables": (("baseline",), ("tables/market1501.csv", "tables/pfsa.csv")),
    "92_settings": ((), ("tables/rows.csv", "tables/left_out.csv", "tables/rates.csv")),
}


def reference_steps(request: Request) -> list[Step]:
    """The notebooks that need runs but no weights, embeddings or images, for a reference study."""
    parameters = {
        **parameters_of(request),
        "reference": request.reference,
        "overrides": request.overrides,
        "seeds": list(request.seeds),
    }
    found = []
    for notebook, (needed, produces) in REFERENCE_PAGES.items():
        path = REPOSITORY / "notebooks" / f"{notebook}.ipynb"
        if path.is_file() and {*needed} <= {*request.methods}:
            declared = declared_parameters(path)
            own = {name: value for name, value in parameters.items() if name in declared}
            front = notebook == "05_findings"
            reads = (*PUBLISHED, *REFERENCE) if front else (*PUBLISHED, request.reference)
            found.append(Step(notebook, notebook, own, (), produces, reads=reads, front=front))
    return found


def parameters_of(request: Request) -> dict:
    """The parameters that every notebook has."""
    study = request.study
    place = {"profile": study.profile, "dataset": study.dataset, "results": str(study.root.parent)}
    return {**place, "data_root": request.data_root, "data_options": request.data_options}


def main(arguments: list[str] | None = None) -> int:
    return command_line.main(arguments, steps, FRONT)


if __name__ == "__main__":
    sys.exit(main())
