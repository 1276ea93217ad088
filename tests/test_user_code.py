"""What a flag names is found or refused in one line; a user's errors are shown as theirs."""

import sys

import numpy as np
import pytest

from seqjax.config import ConfigError
from seqjax.user_code import UserCodeError, guarded, load_object, one_line, user_code_error

TRAIN = """
import numpy as np

number = 3


class Holder:
    model = staticmethod(lambda x: x)


def fit(x, y, mask):
    return helper(x)


def helper(x):
    return x @ np.ones((3,))


def fit_without_mask(x, y):
    return None


def fit_with_options(x, y, mask=None, epochs=3):
    return lambda x: x


def predict(x):
    return x


def make():
    return predict


def stop(x, y, mask):
    raise SystemExit(2)
"""

FILES = {
    "my_train.py": TRAIN,
    "my_broken.py": "import numpy as np\n\nvalue = np.zeros(3)[5]\n",
    "my_syntax.py": "def fit(x, y, mask)\n    return x\n",
    "my_getattr.py": "def __getattr__(name):\n    raise ValueError('no ' + name)\n",
    "my_needs.py": "import json\nimport no_such_library_at_all\n",
    "my_script.py": "import argparse\n\nargparse.ArgumentParser().parse_args(['--wrong'])\n",
    "my_package/__init__.py": "",
    "my_package/inner.py": "def predict(x):\n    return x + 1\n",
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of a user, and no trace of its modules afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def test_objects_are_found_in_the_current_folder():
    assert load_object("my_train:predict", "--predict")(3) == 3
    assert load_object("my_package.inner:predict", "--predict")(3) == 4
    assert load_object("my_train:Holder.model", "--model")(3) == 3
    assert load_object("my_train:fit_with_options", "--fit")(1, 2, 3)(3) == 3
    assert load_object("my_train:fit_without_mask", "--fit")
    assert load_object("my_train:make", "--predict")()(3) == 3, "what makes a predict may be named for one"


def test_objects_are_found_on_the_path():
    assert load_object("json:dumps", "--model")({}) == "{}"


# spec, flag, the whole message
REFUSED = {
    "no colon": ("my_train", "--fit", "--fit=my_train: expected module:object, such as --fit=my_train:NAME"),
    "no name": ("my_train:", "--fit", "--fit=my_train:: expected module:object, such as --fit=my_train:NAME"),
    "no module": (":fit", "--fit", "--fit=:fit: expected module:object, such as --fit=module:fit"),
    "a file": (
        "my_train.py:fit", "--fit",
        "--fit=my_train.py:fit: 'my_train.py' is a file; expected a module: --fit=my_train:fit",
    ),
    "a file in a folder": (
        "my_package/inner.py:predict", "--predict",
        "--predict=my_package/inner.py:predict: 'my_package/inner.py' is a file; expected a module: "
        "--predict=my_package.inner:predict",
    ),
    "near module": (
        "my_trian:fit", "--fit",
        "--fit=my_trian:fit: no module 'my_trian' on the path or in this folder; did you mean my_train?",
    ),
    "near module of a package": (
        "my_package.iner:predict", "--predict",
        "--predict=my_package.iner:predict: no module 'my_package.iner' on the path or in this folder; "
        "did you mean my_package.inner?",
    ),
    "near name": (
        "my_train:fitt", "--fit", "--fit=my_train:fitt: my_train (my_train.py) has no 'fitt'; did you mean fit?"
    ),
    "near name of an object": (
        "my_train:Holder.modle", "--model",
        "--model=my_train:Holder.modle: my_train.Holder has no 'modle'; did you mean model?",
    ),
    "a number": (
        "my_train:number", "--fit",
        "--fit=my_train:number: my_train.number is of type int; expected a function fit(x, y, mask) or fit(x, y)",
    ),
    "a module": ("my_train:np", "--model", "--model=my_train:np: my_train.np is of type module; expected a model"),
    "too few arguments": (
        "my_train:predict", "--fit",
        "--fit=my_train:predict: it is predict(x); expected a function fit(x, y, mask) or fit(x, y)",
    ),
    "too many arguments": (
        "my_train:fit", "--predict",
        "--predict=my_train:fit: it is fit(x, y, mask); expected predict(x), or a model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "flag", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_found_is_refused_with_what_is_near(spec, flag, text):
    with pytest.raises(ConfigError) as e:
        load_object(spec, flag)
    assert str(e.value) == text
    assert not isinstance(e.value, UserCodeError)


# module, the message, the frames
BROKEN = {
    "my_broken": ("IndexError: index 5 is out of bounds for axis 0 with size 3 (my_broken.py, line 3)", "[5]"),
    "my_syntax": ("SyntaxError: expected ':' (my_syntax.py, line 1)", ""),
    "my_needs": (
        "ModuleNotFoundError: No module named 'no_such_library_at_all' (my_needs.py, line 2)",
        "import no",
    ),
}


@pytest.mark.parametrize("module", BROKEN)
def test_errors_of_an_import_are_the_users(module):
    text, frame = BROKEN[module]
    with pytest.raises(UserCodeError) as e:
        load_object(f"{module}:fit", "--fit")
    assert str(e.value) == f"--fit={module}:fit: importing {module} raised {text}"
    assert frame in e.value.frames
    assert "seqjax" not in e.value.frames
    assert "importlib" not in e.value.frames


def test_a_module_whose_getattr_raises_is_the_users():
    with pytest.raises(UserCodeError, match=r"my_getattr raised ValueError: no fit \(my_getattr.py, line 2\)$"):
        load_object("my_getattr:fit", "--fit")


def test_a_script_that_reads_flags_on_import():
    with pytest.raises(UserCodeError, match=r"raised SystemExit: 2 \(my_script.py, line 3\); .*__main__"):
        load_object("my_script:fit", "--fit")


def test_errors_within_a_call_have_the_users_frames_alone():
    what = "--fit=my_train:fit: fit"
    fit = guarded(load_object("my_train:fit", "--fit"), what)
    with pytest.raises(UserCodeError) as e:
        fit(np.ones((32, 2)), None, None)
    line = TRAIN.splitlines().index("    return x @ np.ones((3,))") + 1
    assert str(e.value).startswith(f"{what} raised ValueError: matmul: Input operand 1 has a mismatch")
    assert str(e.value).endswith(f"(my_train.py, line {line})")
    assert e.value.frames.count("File ") == 2
    assert "return helper(x)" in e.value.frames
    assert "x @ np.ones((3,))" in e.value.frames
    assert "user_code.py" not in e.value.frames


def test_a_call_that_works_is_left_alone():
    assert guarded(lambda x, y=1: x + y, "sum")(2, y=3) == 5


def test_the_first_error_stays():
    """A user's function inside a user's function: the inner name is the useful one."""
    inner = guarded(lambda: 1 / 0, "inner")
    with pytest.raises(UserCodeError, match=r"^inner raised ZeroDivisionError: division by zero"):
        guarded(inner, "outer")()


def test_sys_exit_is_an_error_and_an_interrupt_is_not():
    with pytest.raises(
        UserCodeError, match=r"^fit raised SystemExit: 2 \(my_train.py, line \d+\); expected no call"
    ):
        guarded(load_object("my_train:stop", "--fit"), "fit")(1, 2, 3)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(interrupted, "fit")()


def test_whatever_their_code_raises_is_told_as_theirs():
    class OfTheirs(BaseException):
        pass

    class WithoutWords(Exception):
        def __str__(self):
            raise ValueError

    def fails(error):
        raise error

    for error in (OfTheirs("mine"), GeneratorExit("mine"), WithoutWords()):
        with pytest.raises(UserCodeError, match=f"^fit raised {type(error).__name__}") as e:
            guarded(fails, "fit")(error)
        assert str(e.value).count("mine") == bool(error.args)


def test_messages_of_libraries_become_one_line():
    text = (
        "Exception encountered when calling Dense.call().\n\n\x1b[1mshapes differ\x1b[0m\n\nArguments received by"
    )
    assert one_line(text) == "Exception encountered when calling Dense.call(). shapes differ"
    assert len(one_line("a" * 1000)) == 300
    assert str(user_code_error(ValueError(), "fit")) == "fit raised ValueError"
