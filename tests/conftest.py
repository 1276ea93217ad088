"""All tests run on the CPU, and labels that would broadcast against outputs raise."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
