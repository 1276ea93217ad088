"""Builds the API reference from the docstrings into build/reference, without a warning."""

import pkgutil
import warnings
from pathlib import Path

import pdoc

import seqjax

warnings.simplefilter("error")
for name in seqjax.__all__:  # pdoc looks at what is there, and these are looked up when they are asked for
    setattr(seqjax, name, getattr(seqjax, name))
folder = Path(__file__).parents[1] / "build" / "reference"
modules = ["seqjax", *(module.name for module in pkgutil.iter_modules(seqjax.__path__, "seqjax."))]
pdoc.pdoc(*modules, output_directory=folder)
print(f"{len(list(folder.rglob('*.html')))} pages in {folder.relative_to(Path.cwd())}")
