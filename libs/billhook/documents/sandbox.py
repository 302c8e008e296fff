"""The process that merchants' templates run in: `python -m billhook.documents.sandbox`, started by `templating`.

A template may read the document and the logo, and call nothing that leads out of them (Jinja's sandbox). What the
sandbox does not bound is work and memory, and neither can be taken back from a thread: hence a process, with limits
that the kernel keeps. It takes one line of JSON with the templates and then one for each page, and answers each with a
line at once, so that what was done before a limit kills it is not lost.

It imports little: it is started for every batch.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from billhook.documents.bidi import Text

CPU_SECONDS: Final = 5
"""For one page. Ten thousand lines take a tenth of it; time of the processor, so a busy machine fails nobody."""
_GRACE: Final = 2
"""Seconds more until the kernel ends the process: something that Python cannot interrupt, such as 9**9**9."""
_MEMORY: Final = 512 * 1024 * 1024
LARGEST_PAGE: Final = 16 * 1024 * 1024
"""Characters; a document of ten thousand lines has less than half of them."""

_NO_FILES: Final = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class _OverLimit(Exception):
    pass


def environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(autoescape=True, undefined=jinja2.StrictUndefined)
    made.globals = {name: made.globals[name] for name in ("range", "namespace")}
    del made.filters["random"]  # equal documents are equal files
    made.filters["text"] = lambda value: Text("ltr")(str(value))
    return made


def compiled(made: jinja2.Environment, source: str) -> jinja2.Template:
    for found in made.parse(source).find_all(_NO_FILES):
        raise jinja2.TemplateSyntaxError("a template stands alone: there is nothing to include or import", found.lineno)
    return made.from_string(source)


def rendered(template: jinja2.Template, document: dict[str, Any], logo: str | None) -> str:
    parts, size = [], 0
    template.environment.filters["text"] = Text(document["direction"])
    for part in template.generate(document=document, logo=logo):
        size += len(part)
        if size > LARGEST_PAGE:
            raise _OverLimit(f"the page has more than {LARGEST_PAGE:,} characters")
        parts.append(part)
    return "".join(parts)


def _answers(lines: Iterator[str], seconds: int) -> Iterator[dict[str, Any]]:
    made = environment()
    templates: list[str] = json.loads(next(lines))
    ready: dict[int, jinja2.Template] = {}
    over: dict[int, dict[str, Any]] = {}
    for line in lines:
        page = json.loads(line)
        place = page["template"]
        if place in over:
            yield over[place]
            continue
        try:
            with _limited(seconds):
                if place not in ready:
                    ready[place] = compiled(made, templates[place])
                html = rendered(ready[place], page["document"], page["logo"]) if "document" in page else ""
            answer = {"html": html}
        except _OverLimit as error:
            answer = over[place] = {"error": _placed(error, str(error))}
        except MemoryError as error:
            answer = over[place] = {"error": _placed(error, "it takes more memory than a page may")}
        except RecursionError as error:
            answer = over[place] = {"error": _placed(error, "it is nested too deeply")}
        except Exception as error:  # a template can fail in as many ways as a program
            answer = {"error": _placed(error, getattr(error, "message", None) or str(error) or type(error).__name__)}
        yield answer


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + seconds + _GRACE
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise _OverLimit("it takes more work than a page may")


def _placed(error: BaseException, said: str) -> str:
    """The error, with the line of the template where it happened if that is known."""
    line: int | None = getattr(error, "lineno", None)
    step: TracebackType | None = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    said = said.rstrip(".")
    return f"line {line}: {said}" if line else said


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS knows the name and not the limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGPROF, _too_long)
    for answer in _answers(iter(sys.stdin.readline, ""), int(sys.argv[1])):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
