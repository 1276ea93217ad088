"""Checks the figures of two real runs: the original question on two steps, and on one."""

import json
import sys
from pathlib import Path

two, one = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
checks = {
    "two steps: forecast 0.60315": abs(two["forecast"]["family_loss"] - 0.60315) < 1e-4,
    "two steps: validation loss 0.594 to 0.616": 0.594 <= two["final"]["val_loss"] <= 0.616,
    "two steps: cause unseen_steps": two["verdict"]["cause"] == "unseen_steps",
    "two steps: the budget adds up": abs(sum(two["budget"].values()) - two["final"]["val_loss"]) < 1e-9,
    "one step: validation loss at most 1e-4": one["final"]["val_loss"] <= 1e-4,
    "one step: healthy": one["verdict"]["cause"] == "healthy",
}
for name, passed in checks.items():
    print("ok    " if passed else "FAILED", name)
sys.exit(not all(checks.values()))
