"""What a person runs: thin scripts over `seqjax`."""

import gc

# Imports and tracing make objects by the hundred thousand, and hardly any of them is garbage: to look for it after
# every 700, as Python does, takes a tenth of a short run.
gc.set_threshold(100_000, 20, 100)
