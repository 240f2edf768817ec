"""What tables and pages say about runs that did not learn (`Run.learned`).

The scores of such a run are those of its first weights, so they are no score of its method. They are shown
with these words, and neither averaged with others nor compared.
"""

from collections.abc import Callable, Sequence

from reidlib.config import title_of
from reidlib.run import DID_NOT_LEARN, Run


def learned(runs: Sequence[Run]) -> list[Run]:
    """The runs that learned, or of which it is not known."""
    return [run for run in runs if run.learned is not False]


def marked(run: Run, text: str) -> str:
    """A cell with a run's score: "50.1", or "did not learn (0.1)"."""
    return f"{DID_NOT_LEARN} ({text})" if run.learned is False else text


def over_learned(runs: Sequence[Run], form: Callable[[list[Run]], str]) -> str:
    """A cell with the scores of a method's runs: `form` of those that learned, and how many did not.

    If none learned, it is "did not learn" and in brackets `form` of all.
    """
    known = learned(runs)
    if not known:
        return f"{DID_NOT_LEARN} ({form(list(runs))})"
    missing = len(runs) - len(known)
    return form(known) + (f"; {missing} of {len(runs)} {DID_NOT_LEARN}" if missing else "")


def learning_sentences(runs: Sequence[Run]) -> list[str]:
    """One sentence (Markdown) that names the runs that did not learn; [] if all did."""
    without = [run for run in runs if run.learned is False]
    if not without:
        return []
    if len(without) == len(runs) > 1:
        named = f"None of the {len(runs)} runs on this page learned"
    else:
        named = "; ".join(f"{title_of(run.method)}, seed {run.seed}" for run in without)
        named = f"{named}: {DID_NOT_LEARN}"
    return [
        f"**{named}.** Their training loss is still that of a guess, so their scores are those of first "
        "weights: they stand in brackets, and nothing is concluded from them."
    ]


def learning_advice(run: Run) -> str:
    """For the page of a run that did not learn: the numbers, and what to try. "" if it learned."""
    if run.learned is not False:
        return ""
    loss, guess = (run.metrics[f"{name}_cross_entropy"] for name in ("last", "guess"))
    return (
        f"**This run {DID_NOT_LEARN}.** In its last epoch the cross-entropy is {loss:.2f} per classifier; a "
        f"guess among the {run.metrics['train_identities']:,} training people has {guess:.2f}. The scores "
        "below are those of first weights, not of the method. What to try, in this order: more `epochs` or "
        "`steps_per_epoch`; another `learning_rate`, three times lower and three times higher; `trunk_rate` "
        "with it, if the trunk is pretrained; pretrained weights, if it is not."
    )


def column_label(title: str, run: Run) -> str:
    """A narrow column's title, on several lines if the run did not learn."""
    return title if run.learned is not False else f"{title}\n(did not\nlearn)"
