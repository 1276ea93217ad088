"""Where the nats went: the final validation loss as a sum.  Imports `forecasts`."""

from seqjax.forecasts import Forecast

# In the order in which they add up; all but the first can be avoided.
TERMS = ("label_noise", "unseen_steps", "unknown_position", "model_family", "optimisation", "generalisation")

Budget = dict[str, float | None]


def loss_budget(forecast: Forecast, train_loss: float, val_loss: float) -> Budget:
    """The six terms, in nats per step; they add up to `val_loss` exactly, up to float rounding.

    train_loss, val_loss: at the final parameters.  `optimisation` is negative where
    the model has memorised: its training loss lies below what the inputs tell.
    Where the model's family is not known (`kind` "lower_bound"), `model_family` is
    None and `optimisation` holds the sum of both.
    """
    bound = forecast.kind == "lower_bound"
    return {
        **known_terms(forecast),
        "model_family": None if bound else forecast.family_loss - forecast.bayes_loss,
        "optimisation": train_loss - (forecast.bayes_loss if bound else forecast.family_loss),
        "generalisation": val_loss - train_loss,
    }


def known_terms(forecast: Forecast) -> Budget:
    """The terms that no training can change, known before it."""
    return {
        "label_noise": forecast.noise_entropy,
        "unseen_steps": forecast.known_position_loss - forecast.noise_entropy,
        "unknown_position": forecast.bayes_loss - forecast.known_position_loss,
    }
