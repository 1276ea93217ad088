"""What is known before training: what the outputs see, what the labels need, the lowest losses.

Imports `config`, `tasks`, `models`, `devices`, `bayes`, `label_dependence`, `receptive_field` and `user_code`.  It
never trains.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from seqjax import bayes, models, tasks
from seqjax.bayes import ForecastRefused, View
from seqjax.config import Config
from seqjax.devices import Compiling
from seqjax.label_dependence import LabelDependence, label_dependence
from seqjax.receptive_field import ReceptiveField, measure
from seqjax.tasks import Task
from seqjax.user_code import is_own

MEASURED_STEPS = 128  # beyond, what a built-in model sees is taken from its construction
NUM_INITS = 3  # parameters at which the receptive field is measured
MAX_STEPS = 512  # the work of a forecast grows with the square of the length
NUM_PROBES = 8  # sequences in which steps are swapped


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The lowest losses, in nats per step over the scored steps.

    prior_entropy: guessing, position unknown.  noise_entropy: of the label noise.
    known_position_loss: H(Y_t | what output t sees, t).
    bayes_loss: the same under the position classes of the model.
    family_loss: the same within its family of functions; where that is not known
        (`kind` "lower_bound", with a `reason`) the Bayes loss.
    bayes_predictor_loss: `[T]`, the Bayes predictor's loss at each step.
    kind: "exact", "estimate" (see standard_error) or "lower_bound".
    """

    prior_entropy: float
    noise_entropy: float
    known_position_loss: float
    bayes_loss: float
    family_loss: float
    bayes_predictor_loss: np.ndarray
    kind: str
    standard_error: float
    reason: str | None


def values_of(forecast: Forecast) -> dict[str, Any]:
    """`forecast` of a result; the loss of each step stands in `per_step`."""
    values = dataclasses.asdict(forecast)
    del values["bayes_predictor_loss"]
    return values


@dataclasses.dataclass(frozen=True)
class Outlook:
    """A forecast, and what it rests on."""

    forecast: Forecast
    dependence: LabelDependence
    view: View
    field: ReceptiveField | None  # None where the view was not measured
    probes: jax.Array | None = None  # the inputs that it was measured on


Probes = Callable[[Any], tuple[Any, jax.Array]]


def compile_probes(config: Config, task: Task, model: models.Model) -> Probes | None:
    """`seed -> (parameters, leading axis NUM_INITS, inputs [B, T, F])`, on which a receptive field is measured.

    It is compiled in a thread; None where nothing is measured.
    """
    if config.seq_len > MEASURED_STEPS:
        return None

    def probes(seed: Any) -> tuple[Any, jax.Array]:
        init_key, inputs_key = jax.random.split(jax.random.key(seed))
        params = jax.lax.map(model.init, jax.random.split(init_key, NUM_INITS))  # not vmap: see `training`
        return params, task.draw_inputs(inputs_key, NUM_PROBES)

    return Compiling(jax.jit(probes).lower(np.uint32(config.seed)), NUM_PROBES * config.seq_len)


def measure_model(config: Config, model: models.Model, probes: Probes) -> tuple[ReceptiveField, jax.Array]:
    """The receptive field over several initial parameters, and the real inputs `[B, T, F]` that were tried."""
    params, inputs = probes(np.uint32(config.seed))
    return measure_at(config, model, params, inputs), inputs


def measure_trained(config: Config, model: models.Model, outlook: "Outlook", params: Any) -> ReceptiveField:
    """The same at trained parameters, replicates along the leading axis: at three of them, or fewer repeated."""
    chosen = jax.tree.map(lambda leaf: leaf[np.arange(NUM_INITS) % len(leaf)], params)
    return measure_at(config, model, chosen, outlook.probes)


def measure_at(config: Config, model: models.Model, params: Any, inputs: Any) -> ReceptiveField:
    """The same at given parameters (leading axis: initialisations) and inputs `[B, T, F]`."""
    # What a recurrence forgets too fast to be measured is seen all the same; of somebody's own nothing is known.
    recurrent = not is_own(config.model) and models.MODELS[config.model].recurrent is not None
    structural = models.sight(config).sees if recurrent else None
    return measure(model.apply, params, inputs, structural=structural, scored=config.scored_steps)


def look_ahead(config: Config, task: Task, model: models.Model, probes: Probes | None = None) -> Outlook:
    """The forecast for a model, its receptive field measured; raises ForecastRefused.

    probes: from `compile_probes`, where that was begun before.
    """
    probes = probes or compile_probes(config, task, model)
    if probes is None:
        return look_ahead_of(config)
    field, inputs = measure_model(config, model, probes)
    sees = field.sees
    if field.undecided_beyond is not None:  # as if it saw them: the forecast must not be too high
        steps = np.arange(config.seq_len)
        sees = sees | (np.abs(steps[:, None] - steps) > field.undecided_beyond)
    view = View(sees, field.position_classes, field.unordered, config.scored_steps)
    return dataclasses.replace(_outlook(config, task, view, field), probes=inputs)


def look_ahead_of(config: Config, view: View | None = None) -> Outlook:
    """The forecast by what a built-in model sees by construction; raises ForecastRefused.

    view: what a model of somebody's own sees, which nothing but a measurement can tell.
    """
    if config.seq_len > MAX_STEPS:
        raise ForecastRefused(
            f"no forecast: seq_len={config.seq_len} is above {MAX_STEPS}, and every pair is tried"
        )
    if not is_own(config.model):
        view = View(*models.sight(config), config.scored_steps)
    elif view is None:
        raise ForecastRefused(
            f"no forecast: what model={config.model} sees is measured at the length of the training alone, "
            f"up to {MEASURED_STEPS} steps"
        )
    return _outlook(config, tasks.build(config), view._replace(scored=config.scored_steps), None)


def _outlook(config: Config, task: Task, view: View, field: ReceptiveField | None) -> Outlook:
    dependence = label_dependence(task, seed=config.seed)

    def loss(of: Callable[..., bayes.Loss], *args: Any, **kwargs: Any) -> bayes.Loss:
        return of(task, *args, dependence=dependence, seed=config.seed, **kwargs)

    prior = loss(bayes.prior_entropy, view.scored)
    known = loss(bayes.bayes_loss, bayes.known_positions(view))
    best = loss(bayes.bayes_loss, view)
    reachable = best
    family, reason = models.family(config)
    if family == "linear" and (task.count_probs is None or task.num_classes != 2):
        reason = "what a linear model can reach is known only for two classes and features that are fair bits"
    elif family == "linear":
        reachable = loss(bayes.family_loss, view, step_position=config.step_position)
    if field is not None and field.undecided_beyond is not None:
        reason = f"float32 shows no trace of steps more than {field.undecided_beyond} away, seen or not"
    errors = [of.standard_error for of in (prior, known, best, reachable)]
    forecast = Forecast(
        prior_entropy=prior.mean,
        noise_entropy=bayes.noise_entropy(task),
        known_position_loss=known.mean,
        bayes_loss=best.mean,
        family_loss=reachable.mean,
        bayes_predictor_loss=best.per_step,
        kind="lower_bound" if reason else "estimate" if any(errors) else "exact",
        standard_error=max(errors),
        reason=reason,
    )
    return Outlook(forecast, dependence, view, field)
