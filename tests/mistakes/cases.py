"""What a case is, and how one is written: a function of a seed and of whether the mistake is in it.

    @case("does_not_train", "fit", "torch")
    def no_step(seed, wrong): ...        # its docstring: which kind of question it stands for

Imports nothing of the library, and no framework.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Given(NamedTuple):
    """What a person hands over, and by what it can be checked.

    known: for `seqjax.diagnose(**known)`: x, y and, as the case has it, mask, x_val, predict, model, fit ...
    test: fresh x, y, mask of the same kind with nothing wrong, to judge a model by; None for arrays.
    reach: the lowest loss that there is to reach on `test`, nats per scored step.
    """

    known: dict[str, Any]
    test: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    reach: float = 0.0


class Case(NamedTuple):
    """One mistake.  way: arrays, predict, model or fit.  make: `(seed, wrong) -> Given`.

    also: names that say the same of it with equal right (the case's comment says why).
    allowed: findings that are true of the twin as well.
    """

    name: str
    cause: str
    way: str
    framework: str
    make: Callable[[int, bool], Given]
    also: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()

    def build(self, seed: int) -> Given:
        return self.make(seed, True)

    def twin(self, seed: int) -> Given:
        return self.make(seed, False)


CASES: dict[str, Case] = {}


def case(cause: str, way: str, framework: str, also: tuple[str, ...] = (), allowed: tuple[str, ...] = ()) -> Any:
    """Enters a function `(seed, wrong) -> Given` among `CASES`, under its own name and its framework's."""

    def enter(make: Callable[[int, bool], Given]) -> Callable[[int, bool], Given]:
        name = f"{framework}.{make.__name__}"
        assert name not in CASES, name
        CASES[name] = Case(name, cause, way, framework, make, also, allowed)
        return make

    return enter
