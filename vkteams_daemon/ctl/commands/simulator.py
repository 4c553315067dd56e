"""`vkteamsctl simulator`: a simulated Bot API on this machine, to try the daemon without a bot."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import UsageError

PORT = 8765
BUILTIN = "builtin"


def register(noun: Noun) -> None:
    """Add the verb run."""
    run = noun.verb(
        "run",
        "answer like the Bot API until interrupted (docs/simulator.md)",
        _run,
        "vkteamsctl simulator run --script builtin",
        "vkteamsctl simulator run --port 0 --script talk.jsonl --rate 5 --loop",
        note="Then, in another terminal:\n"
        "  curl http://127.0.0.1:8765/simulator/messages -d "
        '\'{"chatId": "1@chat.agent", "userId": "anna@corp.example", "text": "Hi"}\'',
        needs_config=False,
    )
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    run.add_argument(
        "--port", type=argument_types.port, default=PORT, help=f"port to listen on, 0 for a free one ({PORT})"
    )
    run.add_argument("--token", help="the token to accept; the part after the colon is the bot's id")
    run.add_argument(
        "--script",
        metavar="FILE.jsonl",
        help=f"events to issue; {BUILTIN} is a built-in conversation of an office, in Russian and English",
    )
    run.add_argument(
        "--rate", metavar="N", type=argument_types.rate, help="events of the script a second; without it, all at once"
    )
    run.add_argument("--loop", action="store_true", help="repeat the script; needs --rate")
    run.add_argument("--lenient", action="store_true", help="answer acknowledged events again on request")


def _run(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.simulator import TOKEN, Simulator
    from vkteams_daemon.simulator.script import CONVERSATION, read_script

    if args.loop and args.rate is None:
        raise UsageError("--loop needs --rate", hint="Without a rate, all events come at once, without end.")
    if args.script is None and (args.rate or args.loop):
        raise UsageError("--rate and --loop need --script", hint=f"Name a file, or {BUILTIN}.")
    lines = read_script(CONVERSATION if args.script == BUILTIN else Path(args.script)) if args.script else []
    # Blocked before the first thread starts: every thread inherits the mask, and only sigwait gets the signals.
    stops = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        with Simulator(host=args.host, port=args.port, token=args.token or TOKEN, lenient=args.lenient) as simulator:
            if lines:
                simulator.play(lines, rate=args.rate, loop=args.loop)
            # A program that reads standard output gets the answer alone.
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
