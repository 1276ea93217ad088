"""A ladder of reachable losses, as the home-made data of the original question have it."""


def entry(rung, family, loss, half, confined=None, n=36_000, **changes):
    found = {"rung": rung, "family": family, "loss": loss, "ci95": [loss - half, loss + half], "settled": True}
    found |= {"twice_the_data": loss, "reason": None, "curve": {"num_sequences": [n // 2, n], "loss": [loss] * 2}}
    if confined is not None:
        found["confined"] = {"loss": confined, "ci95": [confined - half, confined + half]}
    return found | changes


TABLE = [  # the home-made data: every step has the label of the last
    ("nothing", None, 0.6900, 0.0005, 0.6900), ("position", None, 0.6900, 0.0005, 0.6900),
    ("own_step", "linear", 0.6032, 0.0025, 0.6060), ("own_step", "nonlinear", 0.5595, 0.003, 0.5850),
    ("own_step_and_position", "linear", 0.6031, 0.0025, 0.6060),
    ("own_step_and_position", "nonlinear", 0.3450, 0.003, 0.5016),
    ("past", "linear", 0.6031, 0.0025, 0.6060), ("past", "nonlinear", 0.3450, 0.003, 0.5016),
    ("future", "linear", 0.2000, 0.003, 0.4200), ("future", "nonlinear", 0.0010, 0.0004, 0.3133),
    ("all", "linear", 0.2000, 0.003, 0.4200), ("all", "nonlinear", 0.0010, 0.0004, 0.3133),
]  # fmt: skip
LADDER = [entry(*row) for row in TABLE]
