"""`vkteamsctl simulator`: a Bot API on this machine, to try the daemon without a bot."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import UsageError

PORT = 8765
BUILTIN = "builtin"


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `simulator` with its verb run."""
    noun = nouns.add_parser("simulator", help="a Bot API on this machine to try things with", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    run = verbs.add_parser(
        "run",
        help="answer as the Bot API does, until it is interrupted (docs/simulator.md)",
        parents=[common],
        epilog="examples:\n  vkteamsctl simulator run --script builtin\n"
        "  vkteamsctl simulator run --port 0 --script talk.jsonl --rate 5 --loop\n\n"
        "Then, in another terminal:\n"
        "  curl http://127.0.0.1:8765/simulator/messages -d "
        '\'{"chatId": "1@chat.agent", "userId": "anna@corp.example", "text": "Hi"}\'',
    )
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    run.add_argument("--port", type=_port, default=PORT, help=f"port to listen on, 0 for a free one ({PORT})")
    run.add_argument("--token", help="the token that is accepted; its bot is what follows the colon")
    run.add_argument(
        "--script",
        metavar="FILE.jsonl",
        help=f"events to issue; {BUILTIN} is the built-in conversation of an office, in Russian and English",
    )
    run.add_argument("--rate", metavar="N", type=_rate, help="events of the script a second (all of them at once)")
    run.add_argument("--loop", action="store_true", help="start the script over when it has ended; needs --rate")
    run.add_argument("--lenient", action="store_true", help="answer acknowledged events again when asked for them")
    run.set_defaults(func=_run, needs_config=False)


def _run(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.simulator import TOKEN, Simulator
    from vkteams_daemon.simulator.script import CONVERSATION, read_script

    if args.loop and args.rate is None:
        raise UsageError("--loop needs --rate", hint="All events at once, again and again, would have no end.")
    if args.script is None and (args.rate or args.loop):
        raise UsageError("--rate and --loop need --script", hint=f"Name a file, or {BUILTIN}.")
    lines = read_script(CONVERSATION if args.script == BUILTIN else Path(args.script)) if args.script else []
    # Blocked before the first thread is made, so that every thread has them blocked and sigwait alone gets them.
    stops = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        with Simulator(host=args.host, port=args.port, token=args.token or TOKEN, lenient=args.lenient) as simulator:
            if lines:
                simulator.play(lines, rate=args.rate, loop=args.loop)
            # The answer stands alone on standard output where a program reads it.
            out = sys.stdout if getattr(args, "output", "table") == "table" else sys.stderr
            out.write(f"Bot API at {simulator.url} with the token {simulator.token}\n")
            out.flush()
            signal.sigwait(stops)
        data = {"url": simulator.url, **simulator.state()}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def render(screen: Screen) -> None:
        screen.line(f"stopped; {data['issued']} events issued, {data['unread']} of them unread, {data['polls']} polls")

    return Answer(data, render)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of events a second")
    return rate
