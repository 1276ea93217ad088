"""The commands in README.md and BUILD.md: those that need other hardware than CI has are at least well-formed.

`.ci/run` runs every command in a block marked `bash`; blocks marked `sh` are for machines that it is not on.
"""

import re
import shlex
from pathlib import Path

import pytest

from experiments import benchmark
from experiments.flags import benchmark_flags, diagnose_flags, main_flags, sweep_flags, table_flags

ROOT = Path(__file__).parent.parent
READERS = {
    "main": main_flags,
    "sweep": sweep_flags,
    "table": table_flags,
    "diagnose": diagnose_flags,
    "benchmark": lambda argv: benchmark_flags(argv, list(benchmark.SUITES)),
}


def commands():
    for document in ("README.md", "BUILD.md"):
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / document).read_text(), re.DOTALL):
            yield from (line for line in block.splitlines() if "-m experiments." in line)


@pytest.mark.parametrize("line", list(commands()))
def test_the_flags_of_every_command_are_known(line):
    words = shlex.split(line.split(" > ")[0])
    at = next(i for i, word in enumerate(words) if word.startswith("experiments."))
    argv = words[at:]
    if "--help" in argv or "--resume" in argv:
        pytest.skip("run by CI: the one prints, the other reads a run that is not here")
    READERS[argv[0].removeprefix("experiments.")](argv)


def test_the_readme_opens_with_two_commands_and_the_second_runs_the_tests():
    first, second = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[:2]
    assert first.strip().endswith("python -m experiments.main --seq_len=2")
    assert second.strip().endswith("python -m pytest")
    assert first.count("\n") == second.count("\n") == 1
