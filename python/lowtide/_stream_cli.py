"""``lowtide pipe``, behind the executable's own reading of the words: src/cli/pipe.c runs this with them in order."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from lowtide._stream import StreamError, Summary, stream
from lowtide._stream_bar import Bar, text_time
from lowtide._stream_engine import Progress
from lowtide._stream_memory import StreamWarning, text_bytes


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"takes 0 or more, not '{text}'")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lowtide pipe", add_help=False, allow_abbrev=False)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--workers", type=_number, default=0)
    parser.add_argument("--resume", nargs="?", const=True, default=False)
    parser.add_argument("--errors", default="raise")
    parser.add_argument("--chunks", action="store_true")
    parser.add_argument("--format")
    parser.add_argument("--to")
    parser.add_argument("--delimiter")
    parser.add_argument("--no-header", action="store_true")
    parser.add_argument("--columns")
    parser.add_argument("--checkpoint")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("function")
    parser.add_argument("inputs", nargs="+")
    return parser


def find_function(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; the module is looked for in this directory too."""
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise StreamError(f"'{name}' names no function; write module:function, such as clean:fix for fix in clean.py")
    if module_name.endswith(".py"):
        raise StreamError(f"'{module_name}' is a file; write its module: {module_name[:-3].replace('/', '.')}:{path}")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise StreamError(f"cannot import {module_name}: {text}") from None
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise StreamError(f"{module_name} has no {path}; look at its name in {found_file(found)}") from None
    if not callable(found):
        raise StreamError(f"{name} is no function but {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def found_file(module: Any) -> str:
    return str(getattr(module, "__file__", None) or "the module")


def summary_line(summary: Summary, out: str) -> str:
    rate = summary.source_bytes / summary.seconds if summary.seconds else 0
    aside = f", {summary.aside} set aside" if summary.aside else ""
    return (
        f"{out}: {summary.records_out} of {summary.records_in} records{aside}, {text_bytes(summary.output_bytes)} in "
        f"{text_time(summary.seconds)} ({text_bytes(rate)}/s), peak {text_bytes(summary.peak_bytes)} of "
        f"{text_bytes(summary.ceiling_bytes)}"
    )


class _Watcher:
    """The bar, and where the stream stood when it was stopped."""

    def __init__(self, bar: Bar | None) -> None:
        self.bar, self.last = bar, None

    last: Progress | None

    def __call__(self, now: Progress) -> None:
        self.last = now
        if self.bar:
            self.bar(now)

    def share(self) -> str:
        if not self.last or not self.last.total_bytes:
            return ""
        return f" at {100 * self.last.position_bytes // self.last.total_bytes} %"


def run(words: argparse.Namespace, watcher: _Watcher) -> Summary:
    function = find_function(words.function)
    to_stdout = words.output == "-"
    source: Any = sys.stdin.buffer if words.inputs == ["-"] else tuple(words.inputs)
    if words.resume not in (True, False, "changed"):
        raise ValueError(f"--resume takes nothing or changed, not '{words.resume}'")
    pipeline = stream(
        source,
        words.memory,
        workers=words.workers,
        resume=words.resume,
        checkpoint=words.checkpoint if words.resume else None,
        errors=words.errors,
        format=words.format,
        delimiter="\t" if words.delimiter == r"\t" else words.delimiter,
        header=not words.no_header,
        columns=words.columns.split(",") if words.columns is not None else None,
        progress=watcher,
    )
    resumable = not to_stdout and words.inputs != ["-"]
    pipeline._settings["keep"] = resumable  # even without --resume, so that the next run can go on
    if words.checkpoint and resumable:
        pipeline._settings["keep_at"] = words.checkpoint
    pipeline = pipeline.map_chunks(function) if words.chunks else pipeline._pipe(function)
    return pipeline.write(sys.stdout.buffer if to_stdout else words.output, format=words.to)


def main(argv: list[str]) -> int:
    try:
        words = _parser().parse_args(argv)
    except ValueError as error:
        print(f"lowtide: {str(error).removeprefix('argument ')}; see `lowtide pipe --help`", file=sys.stderr)
        return 2
    watcher = _Watcher(Bar(sys.stderr) if sys.stderr.isatty() else None)

    def say(text: str, file: Any = sys.stderr) -> None:
        if watcher.bar:
            watcher.bar.close()
        print(text, file=file)

    show = warnings.showwarning

    def warn(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, StreamWarning):
            say(f"lowtide: {message}")
        else:
            show(message, category, *where, **more)

    warnings.showwarning = warn
    own = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() != own:
            os._exit(128 + number)  # a worker that has just been forked
        raise KeyboardInterrupt(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        summary = run(words, watcher)
    except StreamError as error:
        say(f"lowtide: {error}")
        return 1
    except (ValueError, TypeError) as error:
        say(f"lowtide: {' '.join(str(error).split())}; see `lowtide pipe --help`")
        return 2
    except MemoryError:
        say("lowtide: out of memory; the machine has less than --memory says")
        return 1
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt as stopped:
        goes_on = "" if words.output == "-" or words.inputs == ["-"] else "; the same command with --resume goes on"
        say(f"lowtide: interrupted{watcher.share()}{goes_on}")
        return 128 + (stopped.args[0] if stopped.args else signal.SIGINT)
    if words.json:
        out = sys.stderr if words.output == "-" else sys.stdout
        say(json.dumps({"output": words.output, **dataclasses.asdict(summary)}), out)
    else:
        say(summary_line(summary, words.output))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)
