"""Makes the pages of their templates."""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vkteams_daemon.options import Web
from vkteams_daemon.search import links
from vkteams_daemon.web import chat_page, markup
from vkteams_daemon.web.language import Language, translations
from vkteams_daemon.web.session import LANGUAGES


class Pages:
    """The templates, once in each language.

    Args:
        options: `[web]`.
        version: of the files beside the pages, for their addresses.
    """

    def __init__(self, options: Web, version: str) -> None:
        self._environments = {code: _environment(code, options, version) for code in LANGUAGES}

    def render(self, template: str, language: Language, **shown: Any) -> str:
        """The HTML of a page."""
        return self._environments[language.code].get_template(template).render(language=language, **shown)


def _environment(code: str, options: Web, version: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("vkteams_daemon.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, extensions=["jinja2.ext.i18n"], auto_reload=False,
    )  # fmt: skip
    catalogue = translations(code)
    environment.install_gettext_callables(  # type: ignore[attr-defined]
        catalogue.gettext, catalogue.ngettext, newstyle=True
    )
    environment.globals |= {
        "version": version, "plain": markup.plain, "marked": markup.marked, "hue": markup.hue,
        "initials": markup.initials, "chat_address": chat_page.chat_address,
        "messenger_url": functools.partial(links.messenger_url, options),
        "message_address": links.page_path,
    }  # fmt: skip
    return environment
