"""`carbontrack run`: measure any command, without disturbing it."""

from __future__ import annotations

import sys
from argparse import REMAINDER, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from carbontrack.api.assembly import assemble, current_environment
from carbontrack.cli import summary
from carbontrack.cli.budget_watch import GRACE_S, BudgetWatch
from carbontrack.cli.child import Child, End, become, default_name, obstacle
from carbontrack.cli.group import CommandGroup, followed
from carbontrack.cli.live import LiveLine
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal, collected
from carbontrack.config.environment import child_environ, is_disabled
from carbontrack.config.load import load_settings
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.record import Record, Sink, told
from carbontrack.sinks.capabilities import FileSink, QueuedSink
from carbontrack.sinks.factory import is_file
from carbontrack.system.files import package_path
from carbontrack.system.interrupts import attempt
from carbontrack.system.log import LOSSES, silenced
from carbontrack.text import visible
from carbontrack.tracking.budget import Budget, BudgetGuard, Verdict
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import NoOpTracker, Tracker
from carbontrack.values import NamedTuple

OVER_BUDGET = 3
CODECARBON_HOOK = "compat/codecarbon/hook"
"""The folder with the `sitecustomize` that puts us in CodeCarbon's place."""

_ABOUT = """\
Measure a command and every process that it starts. Its exit code, signals and
streams pass through. A summary goes to stderr: energy, emissions, how they are
known, and their uncertainty. The record goes to emissions.csv."""
_CODES = """\
examples:
  carbontrack run -- python train.py
  carbontrack run --region FR --output runs.jsonl -- make test
  carbontrack run --budget '5 g' --on-exceed terminate -- ./simulate

exit codes: that of the command; 128+n if signal n ended it; 127 if it was not
found; 126 if it cannot be executed; 2 for wrong options; 3 if the budget is
exceeded and the command's own code is 0, or if the budget ended the command."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `run` and its options; under CARBONTRACK_DISABLE they take anything."""
    parser = new_parser(
        subparsers,
        "run",
        run,
        description=_ABOUT,
        epilog=_CODES,
        usage="carbontrack run [options] -- COMMAND [ARGUMENT ...]",
        keep_lines=True,
    )
    _add_options(parser.add_argument, checks=not is_disabled())
    parser.add_argument(
        "command", nargs=REMAINDER, metavar="COMMAND", help="the command and its arguments"
    )


def _add_options(add: Callable[..., object], *, checks: bool) -> None:
    add("--name", help="name in the record; default: that of the script or program")
    add("--region", help="where this machine is: FR, US-CA, aws:eu-west-3")
    add("--output", metavar="PATH|URL", help="file or server for the record; 'none' for no record")
    add(
        "--scope",
        metavar="process|machine",
        help="count the command's share of the machine's energy (the default), or all of it",
    )
    add("--budget", metavar="QUANTITY", type=_budget if checks else str,
        help="a limit on emissions or energy: '5 g', '0.4 kWh'")  # fmt: skip
    add("--on-exceed", choices=("warn", "terminate") if checks else None,
        help="if the budget is exceeded, warn (the default) or end the command")  # fmt: skip
    add("--grace", metavar="SECONDS", type=_grace if checks else str,
        help="time from SIGTERM to SIGKILL, if the budget ends the command (10)")  # fmt: skip
    add("--label", metavar="KEY=VALUE", type=_label if checks else str, action="append",
        default=[], help="a label in the record; may be given several times")  # fmt: skip
    add("--interval", metavar="SECONDS", help="sampling interval (1)")
    add(
        "--timeline",
        action="store_true",
        default=None,
        help="also keep power over time, in a file next to the output",
    )
    add("--as-codecarbon", action="store_true",
        help="let `import codecarbon` load carbontrack in each Python it starts")  # fmt: skip
    add(
        "--quiet",
        action="store_true",
        help="print nothing, unless the record is lost or in another file than asked for",
    )
    add("--verbose", action="store_true", help="add sources, and how often the interval holds")
    add(
        "--json",
        action="store_true",
        help="print the record as one line of JSON on stderr, instead of the summary",
    )


def run(args: Namespace) -> int:
    """Run the command and return its exit code, or 3 where it was 0 and the budget is exceeded."""
    if args.quiet:
        LOSSES.is_ending = True  # what is lost is said below, and not while all is silent
    with silenced() if args.quiet or args.json else nullcontext():
        code = _run(args)
    if args.quiet:
        LOSSES.say()
    return code


def _checked_command(args: Namespace) -> list[str]:
    """The command, if the options go together; under CARBONTRACK_DISABLE they are dropped."""
    command: list[str] = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise ConfigError("run needs a command: carbontrack run [options] -- COMMAND…")
    if is_disabled():
        args.budget = args.on_exceed = args.grace = args.output = None
        args.label = []
    if args.budget is None and (args.on_exceed or args.grace is not None):
        raise ConfigError("--on-exceed and --grace need a budget, such as --budget '500 g'")
    if args.grace is not None and args.on_exceed != "terminate":
        raise ConfigError("--grace is for --on-exceed terminate")
    return command


def _run(args: Namespace) -> int:
    command = _checked_command(args)
    terminal, child = Terminal(sys.stderr), Child()
    measured: Measured | None = None
    end = obstacle(command)
    if end is not None:
        with collected():
            _settings(args)  # a mistake in these is said first
    else:
        with child.signals():  # before any thread of ours
            measured, error = attempt(_measure, args, command, child)
            if isinstance(error, ConfigError) and not child.has_started:
                raise error  # what was asked of us is wrong, and nothing around us
            if error is not None:
                end = _run_unmeasured(args, child, command, error)
            elif measured is not None:
                end = measured.end
    assert end is not None
    if end.is_no_room:
        _said_on(terminal, args)(f"{command[0]} is not measured: {end.error}")
        end = become(command, _environ(args))
    if not end.started:
        return _not_started(end, terminal)
    if measured is None:
        return end.code
    code, error = attempt(_tell, args, measured, terminal)
    if error is not None:
        _said_on(terminal, args)(f"there is no summary: {type(error).__name__}: {error}")
    return end.code if code is None else code


class Measured(NamedTuple):
    """A command that has run, and what was measured of it.

    `notes` are our warnings.
    """

    end: End
    settings: Settings
    tracker: Tracker
    span: Span
    notes: Sequence[str]


def _measure(args: Namespace, command: Sequence[str], child: Child) -> Measured:
    """Run the command in a span.

    Raises:
        ConfigError: an option or a setting cannot be used; the command has not been started.
    """
    with collected() as notes:
        settings = _settings(args)
        environment = current_environment().in_a_job()
        tracker = NoOpTracker() if settings.disable else assemble(settings, environment)
    with tracker:
        span = tracker.span(args.name or default_name(command), labels=dict(args.label))
        shown = Terminal(sys.stderr) if _shows_text(args) else None
        watch = _budget_watch(args, span, child, shown) if args.budget else None
        environ = partial(_environ, args, job_id=environment.launch.job_id)
        with followed(tracker, environment.state_path(settings.state_dir)) as group:
            end = _run_measured(
                span, child, command, environ=environ, terminal=shown, watch=watch, group=group
            )
    return Measured(end, settings, tracker, span, notes)


def _run_unmeasured(args: Namespace, child: Child, command: Sequence[str], error: Exception) -> End:
    """Start the command, unless that was done, and wait for it; whatever has gone wrong with us."""
    say = _said_on(Terminal(sys.stderr), args)
    say(f"{command[0]} is not measured: {type(error).__name__}: {error}")
    if not child.has_started:
        refusal = child.start(command, environ=_environ(args))
        if refusal is not None:
            return refusal
    return child.wait()


def _said_on(terminal: Terminal, args: Namespace) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not args.quiet:
            terminal.say(f"carbontrack: {visible(text)}\n")

    return say


def _tell(args: Namespace, measured: Measured, terminal: Terminal) -> int:
    """Print the summary, and return the exit code."""
    end, settings, tracker, span, notes = measured
    assert span.record is not None
    verdict = args.budget.check(span.record) if args.budget else None
    if args.json:
        terminal.say(terminal.json(_plain(span.record, verdict)) + "\n")
    elif _shows_text(args) and not settings.disable:
        found = summary.rows(
            span.record,
            outputs=list(map(_place, settings.output, tracker.session.sinks)),
            verdict=verdict,
            timeline=span.timeline(),
            verbose=args.verbose,
            hardware=tracker.session.sampler.hardware,
        )
        title = terminal.bold(f"carbontrack: {summary.headline(span.record)}")
        lines = terminal.table([*found, *(("note", note) for note in notes)])
        terminal.say(f"\n{title}\n{lines}\n")
    elif args.quiet and not args.json:
        for text in filter(None, map(_elsewhere, settings.output, tracker.session.sinks)):
            terminal.say(f"carbontrack: {visible(text)}\n")
    return OVER_BUDGET if end.code == 0 and verdict and verdict.outcome == "over" else end.code


def _place(output: str, sink: Sink) -> str:
    """Where the record was written or sent: another file, if the named one is someone else's."""
    waits = isinstance(sink, QueuedSink) and sink.still_waits
    if not is_file(output):
        return (
            f"{told(output)}{', not delivered yet; to send it: carbontrack sync' if waits else ''}"
        )
    place = _written_to(output, sink)
    return f"{place}{', not written yet; to write it: carbontrack recover' if waits else ''}"


def _written_to(output: str, sink: Sink) -> str:
    return str(Path(output).with_name(sink.path.name)) if isinstance(sink, FileSink) else output


def _elsewhere(output: str, sink: Sink) -> str | None:
    """Where the record is if not in the file that was asked for; None where it is there.

    What waits for a server is sent by the next run: that is how records are delivered.
    """
    if not is_file(output):
        return None
    place = _written_to(output, sink)
    if isinstance(sink, QueuedSink) and sink.still_waits:
        return f"the record is not in {place} yet; to write it: carbontrack recover"
    if place == str(Path(output)):
        return None
    why = f": {output} has other columns" if ".schema-" in place else ""
    return f"the record is in {place}, not in {output}{why}"


def _budget_watch(
    args: Namespace, span: Span, child: Child, terminal: Terminal | None
) -> BudgetWatch:
    def say(text: str) -> None:
        if terminal is not None:
            terminal.say(f"carbontrack: {visible(text)}\n")

    return BudgetWatch(
        BudgetGuard(args.budget, warn=say),
        span,
        child,
        terminates=args.on_exceed == "terminate",
        grace_s=GRACE_S if args.grace is None else args.grace,
    )


def _settings(args: Namespace) -> Settings:
    given = {"region": args.region, "scope": args.scope, "interval_s": args.interval,
             "timeline": args.timeline}  # fmt: skip
    if args.output is not None and not args.output.strip():
        raise ConfigError("--output is empty; name a file or an address, or write 'none'")
    if args.output is not None:  # for a setting None would be "no output"
        given["output"] = args.output
    try:
        settings = load_settings(given)
    except ConfigError as error:
        if (text := _in_options(str(error))) == str(error):
            raise
        raise ConfigError(text) from error
    if args.as_codecarbon and settings.origins.get("output", "default") == "default":
        # the command's rows go to a file of the same name
        settings = load_settings({**given, "output": "none"})
    return settings


def _in_options(text: str) -> str:
    """An error message with the names of options instead of those of `track`'s arguments."""
    for name in ("scope", "interval_s", "output"):
        rest = text.removeprefix(f"argument {name}=")
        if rest != text:
            return f"--{name.removesuffix('_s')} {rest}"
    return text


def _shows_text(args: Namespace) -> bool:
    return not (args.quiet or args.json)


def _run_measured(
    span: Span,
    child: Child,
    command: Sequence[str],
    *,
    environ: Callable[[str | None], dict[str, str]],
    terminal: Terminal | None,
    watch: BudgetWatch | None,
    group: CommandGroup | None,
) -> End:
    span.open()
    with nullcontext() if group is None else group.entered():
        refusal = child.start(command, environ=environ(_said_of(span)))
    if refusal is not None:
        span.discard()
        return refusal
    live = LiveLine(terminal, span.snapshot) if terminal and terminal.moves_cursor else None
    with live or nullcontext():
        with watch or nullcontext():
            end = child.wait(live.paused if live else nullcontext)
        if watch is not None and watch.terminated_by is not None:
            end = End(OVER_BUDGET, "budget", watch.terminated_by.text)
        span.close(end.status, end.error)
    return end


def _environ(
    args: Namespace, said: str | None = None, *, job_id: str | None = None
) -> dict[str, str]:
    """The environment of the command; `said` names the span that counts it."""
    hook = package_path(CODECARBON_HOOK) if args.as_codecarbon else None
    return child_environ(said, job_id=job_id, first_folder=hook)


def _said_of(span: Span) -> str | None:
    """How the command gets to know the span that counts it; None where nothing is counted."""
    return None if span.record_id is None else span.session.context_of(span.record_id)


def _not_started(end: End, terminal: Terminal) -> int:
    terminal.say(f"carbontrack: {visible(end.error or '')}\n")
    return end.code


def _plain(record: Record, verdict: Verdict | None) -> dict[str, object]:
    row: dict[str, object] = {**record.to_row(), "labels": dict(record.labels)}
    if verdict is not None:
        row["budget"] = {"limit": verdict.limit.text, "outcome": verdict.outcome}
    return row


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _grace(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 86400.0:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return seconds


def _budget(text: str) -> Budget:
    try:
        return Budget.of(text)
    except ConfigError as error:
        raise ArgumentTypeError(str(error)) from error
