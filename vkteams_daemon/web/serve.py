"""Serves the page until it is told to end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from vkteams_daemon.config import Config
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.serving import serving_log
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.serving.audit_files import open_audit
from vkteams_daemon.serving.beside import Beside
from vkteams_daemon.serving.listening import LimitedServer, bracketed, listen
from vkteams_daemon.serving.questions import Questions
from vkteams_daemon.serving.refusals import Refusals
from vkteams_daemon.system.user import daemon_user
from vkteams_daemon.web.application import Application
from vkteams_daemon.web.live import Live
from vkteams_daemon.web.oidc import SignIn
from vkteams_daemon.web.session import Sessions, read_key
from vkteams_daemon.web.visitor import Admission

log = logging.getLogger(__name__)

_OPEN = (
    "nobody would have to sign in",
    "Set oidc.issuer or web.trusted_proxies (docs/web.md), or listen on 127.0.0.1.",
)


MakeBeside = Callable[[Config, str, str, Audit, Callable[[], None], Questions[Archive]], Beside]


def serve(config: Config, host: str, port: int, make_beside: MakeBeside | None = None) -> None:
    """Serve the page on this address. Does not return.

    Args:
        config: the whole configuration.
        host: where to listen.
        port: the port.
        make_beside: makes what the same server serves beside the page, such as MCP.

    Raises:
        ConfigError, PermissionRefused: nobody could sign in, or an option or a file of it is wrong.
        UsageError: there is no such host, or the page may listen on loopback alone.
        CannotCreate: the server cannot listen on the address.
    """
    admission = Admission(config.web, config.oidc)
    sign_in = SignIn(config.oidc, config.web.url) if admission.by_oidc else None
    with listen(host, port, refusal=_OPEN if admission.needs_loopback else None) as listening:
        secrets, out = serving_log.start(config), open_audit(config)
        audit = Audit(secrets, "http", face="web", out=out)
        archive = Archive(config)
        owner = daemon_user(config.daemon.user)
        with owner.acting() if owner else contextlib.nullcontext():  # else the unit could not read what root has made
            sessions = Sessions(read_key(config.state_dir / "cookie.key"))
        refusals = Refusals(audit)
        live = Live(archive)
        application = Application(config, archive, admission, sessions, audit, host, sign_in, live)
        # The address of the connection decides who is believed, so no header may replace it.
        running = LimitedServer(
            application.asgi, refusals.count, lifespan=make_beside is not None, forwarded=False, ending=live.close
        )
        url = f"http://{bracketed(host)}:{listening.getsockname()[1]}"
        close: list[Callable[[], None]] = [refusals.flush]
        if make_beside:
            part = make_beside(config, host, url, Audit(secrets, "http", out=out), running.end, application.questions)
            running.config.app = part.over(application.asgi)
            close += part.close
            log.info("MCP at %s%s", url, part.paths[0])
        running.take_signals()
        log.info("the page is at %s/", url)
        running.run_to_the_end("the page", listening, (*close, audit.close, archive.close))
