"""Config files: what ``--config=gpt:small`` names.

In: a path or a short name, perhaps with a size after a colon. Out: the locked ConfigDict of the
file's ``get_config``. Whatever goes wrong in a file becomes one line that names the file's line.
"""

import inspect
import re
import runpy
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from gptjax.config.foreign_names import nearest
from gptjax.config.parse import PATHS
from gptjax.errors import UserError, did_you_mean

# ``configs/`` lies in an installed package, and beside it in a clone: gptjax/configs.py is none.
_HOMES = Path(__file__).resolve().parents[1:3]
_HOME = next((home for home in _HOMES if (home / "configs").is_dir()), _HOMES[0])


def names() -> list[str]:
    """The short names: the files in gptjax's ``configs/``."""
    return sorted(path.stem for path in (_HOME / "configs").glob("[!_]*.py"))


def load(name: str) -> ConfigDict:
    """What the ``get_config`` of a config file returns, locked.

    ``name``: a path, from here or of gptjax's own ``configs/gpt.py``, or a short name; after a
    colon a size, handed to ``get_config``. UserError: no such file or size, or a mistake in it.
    """
    path, file, size = find(name), name, None
    if path is None and ":" in name:  # the whole name first: C:\\gpt.py has a colon, too
        file, _, size = name.rpartition(":")
        path = find(file)
    if path is None:
        near = did_you_mean(Path(file.replace("\\", "/")).stem, names())
        raise UserError(f"no config file {name!r}{near}: choose one of {', '.join(names())}")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if not callable(get_config):
            raise UserError(f"{path} has no get_config()")
        if size is not None and not inspect.signature(get_config).parameters:
            raise UserError(f"{path} comes in one size: leave out :{size}")
        settings = get_config() if size is None else get_config(size)
    except (UserError, OSError, KeyboardInterrupt):
        raise
    except SystemExit as error:  # its code 0 would look like a training that went well
        raise UserError(f"{path} ends the program (sys.exit): get_config() must return") from error
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{error.filename or path}{line}: {error.msg}") from error
    except BaseException as error:  # the file is the user's program: anything may come
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if frame.filename == str(path)]
        raise UserError(f"{path}{''.join(lines[-1:])}: {_what(error)}") from error
    if not isinstance(settings, ConfigDict):
        kind = type(settings).__name__
        raise UserError(f"get_config() of {path} must return a ConfigDict, and returns a {kind}")
    return settings.lock()


def find(name: str) -> Path | None:
    """The file a name without a size stands for: from here first, then among gptjax's own."""
    places = (Path(name), _HOME / name, _HOME / "configs" / f"{name}.py")
    return next((place for place in places if place.suffix == ".py" and place.is_file()), None)


def _what(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # of a class of the user's
        return type(error).__name__
    if unknown := re.search(r'Did you mean ".+?" instead of "(.+?)"|Key "(.+?)" does not', text):
        name = unknown[1] or unknown[2]
        groups = dict.fromkeys(path.partition(".")[0] for path in PATHS if "." in path)
        return f"unknown field {name}{nearest(name, [*PATHS, *groups])}; --help lists them all"
    if kinds := re.search(r"field '(.+?)' .* type <class '(.+?)'> .* type <class '(.+?)'>", text):
        return f"field {kinds[1]} is set to a {kinds[2]}, must be {kinds[3]}"
    return f"{type(error).__name__}: {text}"
