"""What depends on the devices: meshes, several processes.  Imports `config`."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from seqjax.config import ConfigError

AXES = ("replica", "data")
HEARTBEAT_SECONDS = 30  # a process that is silent for so long counts as dead


# Steps of sequences: what computes no more of them in all is compiled with less effort.
SHORT_WORK, TINY_WORK = 2**20, 2**12


def compiler_options(steps: float = math.inf) -> dict[str, Any]:
    """Options for a program that will compute so many steps of sequences in all.

    On a CPU, LLVM's default effort takes twice as long as its first level and gains
    nothing measurable here: an epoch of the default run 0.0365 s against 0.0353 s,
    its compilation 2.1 s against 1.3 s (2 cores, jaxlib 0.10).  XLA's older emitters,
    which jaxlib 0.10 still has, halve what is left, for epochs that take a fifth to a
    half longer: that pays for a second of training.  What is over at once is not optimised.
    """
    if jax.default_backend() != "cpu":
        return {}
    options: dict[str, Any] = {"xla_backend_optimization_level": 0 if steps <= TINY_WORK else 1}
    if steps <= SHORT_WORK and jax.__version_info__ < (0, 11):
        options["xla_cpu_use_fusion_emitters"] = False
    return options


class Compiling:
    """A program that is compiled while Python goes on, since XLA lets go of it; the first call waits for it."""

    def __init__(self, lowered: jax.stages.Lowered, steps: float = math.inf):
        """steps: see `compiler_options`."""
        pool = ThreadPoolExecutor(1)
        self._compiled = pool.submit(lowered.compile, compiler_options(steps))
        pool.shutdown(wait=False)  # the thread ends with its work

    def compiled(self) -> jax.stages.Compiled:
        """The program, as soon as it is there."""
        return self._compiled.result()

    def __call__(self, *args: Any) -> Any:
        return self.compiled()(*args)


def memory() -> float:
    """Bytes of memory of one device; infinite where it is the machine's own, or not told."""
    return float((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf))


def make_mesh(num_replicates: int, text: str | None = None) -> Mesh | None:
    """All devices as a mesh of axes `replica` and `data`, of type Auto; None for a single device.

    text: "replica:4,data:2"; an axis that is left out is 1.  By default as many
    devices as there are replicates go to them (a divisor of the number of devices),
    and the rest share out the batches.  Raises ConfigError.
    """
    num_devices = jax.device_count()
    if text is None:
        replica = max(n for n in range(1, num_devices + 1) if num_devices % n == 0 and n <= num_replicates)
        sizes = {"replica": replica, "data": num_devices // replica}
    else:
        sizes = {"replica": 1, "data": 1} | _sizes(text)
        if math.prod(sizes.values()) != num_devices:
            raise ConfigError(
                f"mesh={text}: has {math.prod(sizes.values())} places, and there are {num_devices} devices"
            )
    if num_devices == 1:
        return None
    return jax.make_mesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=(AxisType.Auto,) * 2)


def _sizes(text: str) -> dict[str, int]:
    sizes = {}
    for part in text.split(","):
        axis, _, size = part.partition(":")
        if axis not in AXES or axis in sizes or not size.isdecimal() or int(size) < 1:
            raise ConfigError(f"mesh={text}: expected replica:N,data:N with whole numbers of at least 1")
        sizes[axis] = int(size)
    return sizes


def sharding(mesh: Mesh, specs: Any) -> Any:
    """A tree of PartitionSpecs as shardings on the mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P))


def share_out(batch: Any, mesh: Mesh | None) -> Any:
    """The batch, its sequences shared out over the `data` axis of the mesh."""
    return batch if mesh is None else jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, P("data")))


def to_host(tree: Any) -> Any:
    """NumPy copies of arrays wherever their parts are; every process must call it, and gets all."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; every process must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def from_first_process(tree: Any) -> Any:
    """Process 0's arrays in every process, which must all give arrays of the same shapes."""
    return multihost_utils.broadcast_one_to_all(tree)


def join_processes(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Make this one of several processes with one set of devices; before anything else uses JAX.

    With no arguments the cluster is detected (TPU pods, SLURM, Kubernetes).  A process
    that dies ends the others within `HEARTBEAT_SECONDS`.  Raises ConfigError.
    """
    try:
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the processes could not be joined ({reason}); expected a cluster that JAX detects, or "
            f"--coordinator_address=HOST:PORT, --num_processes and --process_id"
        ) from None
