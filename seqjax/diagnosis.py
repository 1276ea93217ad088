"""What it means: the cause in words, and the changes that would help, each with its loss.

Imports `config`, `findings`, `models`, `forecasts` and `loss_budget`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax import models
from seqjax.config import Config, ConfigError
from seqjax.findings import WORTH_IT, is_worth, nats
from seqjax.forecasts import ForecastRefused, Outlook, look_ahead_of
from seqjax.loss_budget import Budget, known_terms


class Measured(NamedTuple):
    """What training gave: losses in nats per step at the final parameters, with standard errors."""

    train_loss: float
    train_loss_se: float
    val_loss: float
    val_loss_se: float
    budget: Budget


def avoidable(outlook: Outlook, measured: Measured | None) -> dict[str, tuple[float, float]]:
    """Each avoidable term that is known: its size and standard error, in nats per step.

    A training loss below the floor was memorised, and what validation then lacks was
    never there to gain: so neither of the last two terms counts for more than the
    distance of the validation loss from the floor.
    """
    forecast = outlook.forecast
    sizes = {name: (value or 0.0, forecast.standard_error) for name, value in known_terms(forecast).items()}
    sizes["model_family"] = (forecast.family_loss - forecast.bayes_loss, forecast.standard_error)
    if measured is not None:
        above_floor = measured.val_loss - forecast.family_loss
        for name, error in (("optimisation", forecast.standard_error), ("generalisation", measured.val_loss_se)):
            size = min(measured.budget[name] or 0.0, above_floor)
            sizes[name] = (size, float(np.hypot(measured.train_loss_se, error)))
    del sizes["label_noise"]
    return sizes


def cause(outlook: Outlook, measured: Measured | None) -> str:
    """The name of the largest avoidable term that matters, or `label_noise`, or `healthy`.

    `cannot_tell` where that term holds model family and optimisation together.
    """
    forecast = outlook.forecast
    sizes = avoidable(outlook, measured)
    causes = {name: size for name, (size, error) in sizes.items() if is_worth(size, error)}
    if causes:
        largest = max(causes, key=lambda name: causes[name])
        return "cannot_tell" if largest == "optimisation" and forecast.kind == "lower_bound" else largest
    return "label_noise" if forecast.noise_entropy > forecast.prior_entropy / 2 else "healthy"


def outlook_sentence(config: Config, outlook: Outlook) -> str:
    """What to expect, in a sentence or three, before training."""
    forecast = outlook.forecast
    parts = [f"This model {sight_in_words(outlook)}."]
    if not outlook.dependence.matrix[config.scored_steps].any():
        parts.append("Its labels depend on no input at all: they are constant, or noise.")
    else:
        parts.append(unseen_in_words(config, outlook) or "Every label depends only on steps that its output sees.")
    lowest = "The lowest loss that it can reach is"
    if forecast.kind == "lower_bound":
        lowest = f"It cannot get below (a lower bound: {forecast.reason})"
    around = f" ± {2 * forecast.standard_error:.4f}" if forecast.standard_error else ""
    parts.append(
        f"{lowest} {nats(forecast.family_loss)}{around} nats; guessing gives {nats(forecast.prior_entropy)}."
    )
    if models.family(config)[0] == "universal" and forecast.kind != "lower_bound":
        parts.append("(This assumes enough width.)")
    return " ".join(parts)


def sight_in_words(outlook: Outlook) -> str:
    """What the scored outputs see, as the predicate of a sentence."""
    view = outlook.view
    scored = np.flatnonzero(view.scored)
    num_steps = len(view.scored)
    back = scored[:, None] - np.arange(num_steps)
    sees = view.sees[scored]
    reach = max((int(back[sees].max()), 0)) if sees.any() else 0
    if num_steps == 1 and sees.all():
        words = "sees the one step that there is"
    else:
        known = [
            ("sees nothing", back != back),
            ("sees only its own step", back == 0),
            ("sees all steps", back == back),
            ("sees its own and all earlier steps", back >= 0),
            ("sees its own and all later steps", back <= 0),
            (f"sees its own step and the {reach} before it", (back >= 0) & (back <= reach)),
        ]
        words = next((w for w, matrix in known if (sees == matrix).all()), f"sees {sees.mean():.0%} of all steps")
    if len(scored) > 1:
        classes = view.position_classes[scored]
        alike = [scored[classes == c] for c in np.unique(classes) if (classes == c).sum() > 1]
        if len(alike) == 1 and len(alike[0]) == len(scored):
            words += " and cannot tell steps apart"
        elif alike:
            words += f" and cannot tell steps {' or '.join(steps_in_words(a) for a in alike)} apart"
    if view.unordered[scored].any():
        words += ", the others as a set without order"
    return words


def unseen_in_words(config: Config, outlook: Outlook) -> str:
    """Which labels depend on steps that their outputs do not see; empty where none does."""
    missing = outlook.dependence.matrix & ~outlook.view.sees & config.scored_steps[:, None]
    rows = np.flatnonzero(missing.any(1)).tolist()
    if not rows:
        return ""
    # Labels that miss the same steps are told in one breath.
    groups: dict[bytes, list[int]] = {}
    for t in rows:
        groups.setdefault(missing[t].tobytes(), []).append(int(t))

    def depends(labels: Sequence[int]) -> str:
        return f"Label {labels[0]} depends" if len(labels) == 1 else f"Labels {steps_in_words(labels)} depend"

    def on(t: int) -> str:
        steps = np.flatnonzero(missing[t])
        return f"step{'s' if len(steps) > 1 else ''} {steps_in_words(steps)}"

    if len(groups) > 2:
        t, s = np.nonzero(missing)
        where = "later" if (s > t).all() else "earlier" if (s < t).all() else "other"
        example = f"label {rows[0]}, for one, on {on(rows[0])}"
        return f"{depends(rows)} on {where} steps that their outputs do not see ({example})."
    told = []
    for labels in groups.values():
        blind = "its output does" if len(labels) == 1 else "their outputs do"
        told.append(f"{depends(labels)} on {on(labels[0])}, which {blind} not see.")
    return " ".join(told)


def steps_in_words(steps: Iterable[int]) -> str:
    """Step numbers as ranges: "0, 2 to 5 and 9"."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(int(step))
        else:
            runs.append([int(step)])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    if len(parts) > 6:
        parts = [*parts[:5], f"{len(parts) - 5} more"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _family(config: Config, outlook: Outlook) -> str:
    own = models.settings(config)
    without = "without activation it is linear" if own.get("activation") == "none" else "it is too weak"
    return f"The model's family costs {{}}: {without}, and the labels are no linear function of a step."


# What each term means, for the text; {} is its size in nats.
EXPLAIN: dict[str, Callable[[Config, Outlook], str]] = {
    "unseen_steps": lambda c, o: f"Steps that the outputs do not see cost {{}}: {unseen_in_words(c, o)}",
    "unknown_position": lambda c, o: (
        f"Not knowing the position or the order of steps costs {{}}: the model {sight_in_words(o)}."
    ),
    "model_family": _family,
    "optimisation": lambda c, o: (
        "Training stopped {} above the lowest loss "
        + ("of any model that sees this." if o.forecast.kind == "lower_bound" else "that this model can reach.")
    ),
    "generalisation": lambda c, o: "What was learnt does not carry over to validation, which costs {}.",
}


def text(config: Config, outlook: Outlook, measured: Measured | None) -> str:
    """The verdict for a person: what costs how much, and whether training did its part."""
    forecast, name = outlook.forecast, cause(outlook, measured)
    sizes = avoidable(outlook, measured)
    told = sorted((n for n in sizes if is_worth(*sizes[n])), key=lambda n: -sizes[n][0])
    parts = []
    if name == "healthy":
        parts.append(
            "Healthy: no avoidable term is above 0.01 nats and three standard errors."
            if measured is not None
            else "Nothing but its training keeps this model from what the labels allow."
        )
    if name == "label_noise":
        parts.append(f"Nothing to mend: the labels themselves are noisy ({nats(forecast.noise_entropy)} nats).")
    if name == "cannot_tell":
        parts.append(f"Cannot tell model family and optimisation apart: {forecast.reason}.")
    parts += [EXPLAIN[n](config, outlook).format(f"{nats(sizes[n][0])} nats") for n in told]
    if measured is not None:
        reached = (
            f"the validation loss is {nats(measured.val_loss)}, the lowest reachable {nats(forecast.family_loss)}"
        )
        memorised = forecast.family_loss - measured.train_loss
        if forecast.kind == "lower_bound":
            parts.append(
                f"The validation loss is {nats(measured.val_loss)}, a lower bound {nats(forecast.family_loss)}."
            )
        elif not is_worth(measured.val_loss - forecast.family_loss, measured.val_loss_se):
            parts.append(f"Training stopped where it had to: {reached}.")
        else:
            how = "Another training could reach less" if memorised > 0 else "Training could have gone further"
            parts.append(f"{how}: {reached}.")
        if is_worth(memorised, measured.train_loss_se):
            below = f"{nats(memorised)} nats below what the inputs tell"
            parts.append(f"The model has memorised: its training loss lies {below}.")
    return " ".join(parts)


class Change(NamedTuple):
    """A candidate remedy.

    settings: what to change in the Config.  cost: what is cheap is offered first.
    when: the causes that it can mend.  proviso: what it takes for granted.
    """

    settings: dict[str, Any]
    cost: int
    when: tuple[str, ...]
    proviso: str | None = None


def candidates(config: Config) -> list[Change]:
    """Changes to try on this Config, whether or not they help."""
    knows = ("unknown_position", "model_family", "cannot_tell")
    sees, trains = ("unseen_steps", *knows), ("optimisation", "cannot_tell")
    # Settings that another model does not have, or should not inherit.
    other = {name: None for name in (*models.OPTIONS, "hidden_sizes") if getattr(config, name) is not None}
    # A model of somebody's own may have no widths to give.
    wider = [{"hidden_sizes": tuple(2 * n for n in sizes)}] if (sizes := _widths(config)) else []
    return [
        Change({"activation": "relu"}, 1, knows),
        Change({"step_position": True}, 1, knows),
        Change({"step_position": True, "activation": "relu"}, 2, knows),
        Change({"labels": "own_step"}, 1, sees, "if the event of each step itself was meant"),
        Change({"readout": "last_step"}, 1, sees, "if one label per sequence is enough"),
        Change({"model": "gru"} | other, 3, sees),
        Change({"model": "reverse_gru"} | other, 3, sees),
        Change({"model": "bidirectional_gru"} | other, 4, sees),
        Change({"num_epochs": 4 * config.num_epochs}, 1, trains),
        Change({"learning_rate": config.learning_rate / 4}, 1, trains),
        *(Change(widths, 2, trains) for widths in wider),
        Change({"num_samples": 4 * config.num_samples}, 2, ("generalisation",)),
    ]


def _widths(config: Config) -> tuple[int, ...]:
    return models.settings(config).get("hidden_sizes", ())


def remedies(config: Config, outlook: Outlook, measured: Measured | None) -> list[dict[str, Any]]:
    """Changes that help, best and cheapest first, each with the loss that it can reach.

    That is the *family* loss after the change, computed; a change that gains less
    than `WORTH_IT` on what is (or, before training, could be) reached is left out.
    """
    forecast, sizes = outlook.forecast, avoidable(outlook, measured)
    causes = {name for name, (size, error) in sizes.items() if is_worth(size, error)}
    bound = forecast.kind == "lower_bound"
    if bound and "optimisation" in causes:
        causes.add("cannot_tell")
    reached = forecast.family_loss if measured is None else measured.val_loss
    # Another model must promise more than this one does; where this one's promise is but a
    # bound, or the change is in the training alone, more than what was reached.
    promised = reached if bound else min(reached, forecast.family_loss)
    found, seen = [], {config}
    for change in candidates(config):
        try:
            changed = dataclasses.replace(config, **change.settings)
            if not causes & set(change.when) or changed in seen:
                continue
            seen.add(changed)
            after = look_ahead_of(changed, outlook.view if changed.model == config.model else None).forecast
        except (ConfigError, ForecastRefused):
            continue
        in_training = not {"unseen_steps", "unknown_position"} & set(change.when)
        if after.family_loss < (reached if in_training else promised) - WORTH_IT:
            remedy = {
                "change": _in_words(config, change),
                "reachable_loss": after.family_loss,
                "kind": after.kind,
                "proviso": change.proviso,
            }
            found.append((round(after.family_loss, 3), change.cost, remedy))
    found.sort(key=lambda item: item[:2])
    return [remedy for _, _, remedy in found]


def _in_words(config: Config, change: Change) -> str:
    """The flags to add, and those to leave out."""

    def flag(name: str, value: Any) -> str:
        if value is True:
            return f"--{name}"
        return f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"

    new = {name: value for name, value in change.settings.items() if getattr(config, name) != value}
    words = " ".join(flag(name, value) for name, value in new.items() if value is not None)
    dropped = " ".join(f"--{name}" for name, value in new.items() if value is None)
    return f"{words} without {dropped}" if dropped else words


def verdict(config: Config, outlook: Outlook, measured: Measured | None = None) -> dict[str, Any]:
    """`verdict` of a result; before training without `measured`."""
    return {
        "cause": cause(outlook, measured),
        "text": text(config, outlook, measured),
        "remedies": remedies(config, outlook, measured),
    }
