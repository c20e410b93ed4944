"""The text that is always there: what Python says about itself."""

import ast
import hashlib
import importlib.util
import inspect
import json
import pathlib
import platform
import sysconfig

from .corpus import (
    SPLITS,
    Corpus,
    cache_dir,
    file_sha256,
    hash_words,
    replacing,
)
from .words import split_words

# Every module with a docstring that Python 3.11, 3.12 and 3.13 have in common.
MODULES = """
__future__ _collections_abc _compression _markupbase _osx_support _py_abc
_pydecimal _pyio _sitebuiltins _strptime _threading_local abc antigravity
argparse ast asyncio base64 bdb bisect bz2 cProfile calendar cmd code codecs
codeop collections colorsys compileall concurrent configparser contextlib copy
copyreg csv ctypes curses dataclasses datetime dbm difflib dis doctest email
encodings ensurepip enum filecmp fileinput fnmatch fractions ftplib functools
genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac html
http idlelib imaplib importlib inspect io ipaddress json keyword linecache
locale logging lzma mailbox mimetypes modulefinder multiprocessing netrc ntpath
nturl2path numbers opcode operator optparse os pathlib pdb pickle pickletools
pkgutil platform plistlib poplib posixpath pprint profile pstats pty py_compile
pyclbr pydoc queue quopri random re reprlib rlcompleter runpy sched secrets
selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3
ssl stat statistics string stringprep subprocess symtable sysconfig tabnanny
tarfile tempfile textwrap threading timeit tkinter token tokenize tomllib trace
traceback tracemalloc tty turtle turtledemo types typing unittest urllib uuid
venv warnings wave weakref webbrowser wsgiref xml xmlrpc zipapp zipfile
zipimport zoneinfo
""".split()
TOPICS = "pydoc_data.topics"
LICENCE = "PSF-2.0 (Python Software Foundation)"
_TESTS = {"test", "tests", "idle_test"}


def read_stdlib(data_dir=None):
    """Reads the docstrings of the standard library of the running Python.

    The text is the docstrings of the modules, classes and functions of a fixed
    list of modules, parsed from their source and never imported, and the
    language reference in `pydoc_data.topics`: about 308,000 words between
    spaces in Python 3.11, 430,000 with the punctuation apart.

    The SHA-256 of the name of a module says whether it goes to train, valid or
    test (8 : 1 : 1); the topics go to train. A docstring of valid or test that
    an earlier split holds word for word is left out. Nothing is random: one
    version of Python gives one text, whose hash is `sha256`. The text is kept
    in the cache (`ORRERY_CACHE`, by default `~/.cache/orrery`) if it can be
    written.

    Args:
        data_dir: not used; every reader takes it.

    Returns:
        A `Corpus`. Its `version` is that of Python; its `remarks` list the
        modules that this installation lacks and count the docstrings left out.

    Raises:
        FileNotFoundError: if the standard library has no source files, as in
            an embedded or zipped Python.
    """
    del data_dir
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    files, missing = find_modules(root)
    if len(missing) > len(MODULES) // 2:
        raise FileNotFoundError(
            f"The standard library in {root} has no source files "
            f"({len(missing)} of {len(MODULES)} modules are missing): it is "
            "zipped or stripped. Use a full Python installation or name a text "
            "file of your own."
        )
    content = _cached(root, files)
    return Corpus(
        name="stdlib",
        texts=content["texts"],
        source=f"docstrings and {TOPICS} of the Python standard library",
        licence=LICENCE,
        sha256=content["sha256"],
        version=f"Python {platform.python_version()}",
        tokenise=split_words,
        remarks={
            "missing_modules": missing,
            "repeated_docstrings": content["repeated"],
        },
    )


def find_modules(root):
    """Finds the source files of the listed modules.

    Args:
        root: path of the standard library.

    Returns:
        Tuple of a dict from dotted module name to path, in sorted order and
        without test suites, and the list of the modules that are not there.
    """
    files = {}
    missing = [] if importlib.util.find_spec(TOPICS) else [TOPICS]
    for name in MODULES:
        found = [root / f"{name}.py"]
        if not found[0].is_file():
            found = sorted((root / name).rglob("*.py"))
        if not found:
            missing.append(name)
        for path in found:
            parts = path.relative_to(root).with_suffix("").parts
            if _TESTS.isdisjoint(parts):
                files[".".join(parts).removesuffix(".__init__")] = path
    return dict(sorted(files.items())), missing


def docstrings(source):
    """The docstrings of a module, its classes and functions, as they stand.

    Args:
        source: bytes or string, Python source.

    Returns:
        List of strings, indentation removed, without the lines that hold no
        letter or digit (rules under headings).
    """
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)
    ]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = [_without_rules(ast.get_docstring(node) or "") for node in nodes]
    return [text for text in texts if text]


def split_of(module):
    """The split of a module: train, valid or test by the hash of its name."""
    bucket = int(hashlib.sha256(module.encode()).hexdigest(), 16) % 10
    return {8: "valid", 9: "test"}.get(bucket, "train")


def _read(files):
    """Parses the files; see `read_stdlib`."""
    texts = {split: [] for split in SPLITS}
    if importlib.util.find_spec(TOPICS):
        topics = importlib.import_module(TOPICS).topics
        texts["train"] = [_without_rules(topics[key]) for key in sorted(topics)]
    for module, path in files.items():
        texts[split_of(module)] += docstrings(path.read_bytes())
    seen, repeated = set(texts["train"]), {}
    for split in ("valid", "test"):
        fresh = [text for text in texts[split] if text not in seen]
        repeated[split] = len(texts[split]) - len(fresh)
        texts[split] = fresh
        seen.update(fresh)
    texts = {split: "\n\n".join(texts[split]) for split in SPLITS}
    words = [word for split in SPLITS for word in split_words(texts[split])]
    sha256 = hash_words(words)
    return {"texts": texts, "repeated": repeated, "sha256": sha256}


def _cached(root, files):
    """The text from the cache; parses and stores it where it is not there."""
    key = [platform.python_version(), str(root)]
    # The code that reads is a part of the key, as the files it reads are.
    key += [file_sha256(__file__), file_sha256(inspect.getfile(split_words))]
    for name, path in files.items():
        status = path.stat()
        key.append([name, status.st_size, status.st_mtime_ns])
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = cache_dir() / f"stdlib-{digest}.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        content = _read(files)
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(content), "utf-8")
    except OSError:
        pass  # Without the cache the next call parses again, for seconds.
    return content


def _without_rules(text):
    lines = inspect.cleandoc(text).splitlines()
    return "\n".join(line for line in lines if any(map(str.isalnum, line)))
