"""One experiment: generate the data, train the model, and leave a result.json.

python -m experiments.main --seq_len=2
"""

import json
import sys

from flax.traverse_util import flatten_dict

from experiments import command, workdir
from experiments.flags import main_flags
from seqjax import experiment
from seqjax.report.console import RunReport


def main(argv: list[str]) -> None:
    """Run the experiment that the flags describe; see `command` for how it ends."""
    config, flags = main_flags(argv)
    experiment.check(config)
    command.use_compilation_cache(flags)
    name = f"{config.model}-{config.labels}-T{config.seq_len}"
    folder = workdir.open_workdir(flags.workdir, flags.overwrite, name)
    workdir.write_json(folder / "config.json", experiment.full_config(config))

    with RunReport(config, file=sys.stderr if flags.json else sys.stdout) as report:

        def watch(what, value):
            if what == "epoch":
                workdir.append_line(folder / "metrics.jsonl", value)
            report.watch(what, value)

        result = experiment.run(config, watch)
        report.result(result.values)

    params = {"/".join(path): leaf for path, leaf in flatten_dict(result.params).items()}
    workdir.write_npz(folder / "params.npz", params)
    if flags.save_predictions:
        workdir.write_npz(folder / "predictions.npz", result.predictions)
    workdir.write_json(folder / "result.json", result.values)
    if flags.json:
        json.dump(result.values, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print(folder / "result.json")


if __name__ == "__main__":
    command.run_command(main, __doc__)
