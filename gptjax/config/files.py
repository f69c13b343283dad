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

from gptjax.errors import UserError, did_you_mean

_REPOSITORY = Path(__file__).resolve().parents[2]


def names() -> list[str]:
    """The short names: the files in the repository's ``configs/``."""
    return sorted(path.stem for path in (_REPOSITORY / "configs").glob("[!_]*.py"))


def load(name: str) -> ConfigDict:
    """What the ``get_config`` of a config file returns, locked.

    ``name``: a path from here or from the repository's top, or a short name; after a colon a size,
    handed to ``get_config``. UserError: no such file or size, or a mistake in the file.
    """
    path, file, size = find(name), name, None
    if path is None and ":" in name:  # the whole name first: C:\\gpt.py has a colon, too
        file, _, size = name.rpartition(":")
        path = find(file)
    choices = ", ".join(names()) or "the path of a .py file"
    if not name:
        raise UserError(f"--config is missing: choose one of {choices}; --help says more")
    if path is None:
        near = did_you_mean(Path(file.replace("\\", "/")).stem, names())
        raise UserError(f"no config file {name!r}{near}: choose one of {choices}")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if not callable(get_config):
            raise UserError(f"{path} has no get_config()")
        if size is not None and not inspect.signature(get_config).parameters:
            raise UserError(f"{path} comes in one size: leave out :{size}")
        settings = get_config() if size is None else get_config(size)
    except (UserError, OSError):
        raise
    except SystemExit as error:  # its code 0 would look like a training that went well
        raise UserError(f"{path} ends the program (sys.exit): get_config() must return") from error
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{error.filename or path}{line}: {error.msg}") from error
    except Exception as error:  # the file is the user's program: anything may come
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if frame.filename == str(path)]
        raise UserError(f"{path}{''.join(lines[-1:])}: {_what(error)}") from error
    if not isinstance(settings, ConfigDict):
        kind = type(settings).__name__
        raise UserError(f"get_config() of {path} must return a ConfigDict, and returns a {kind}")
    return settings.lock()


def find(name: str) -> Path | None:
    """The file a name without a size stands for: from here first, then in the repository."""
    places = (Path(name), _REPOSITORY / name, _REPOSITORY / "configs" / f"{name}.py")
    return next((place for place in places if place.suffix == ".py" and place.is_file()), None)


def _what(error: Exception) -> str:
    text = str(error)
    if near := re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text):
        return f"unknown field {near[2]} (did you mean {near[1]}?)"
    if unknown := re.search(r'Key "(.+?)" does not exist', text):
        return f"unknown field {unknown[1]}; --print_config lists them all"
    if kinds := re.search(r"field '(.+?)' .* type <class '(.+?)'> .* type <class '(.+?)'>", text):
        return f"field {kinds[1]} is set to a {kinds[2]}, must be {kinds[3]}"
    return f"{type(error).__name__}: {text}"
