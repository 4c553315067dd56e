"""Writes the table of options into etc/vkteamsd.toml and docs/configuration.md; `make options` runs it."""

from __future__ import annotations

import re
from pathlib import Path

from vkteams_daemon import config_template
from vkteams_daemon.options import SECTIONS

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write both files again."""
    (ROOT / "etc" / "vkteamsd.toml").write_text(config_template.toml(), encoding="utf-8")
    page = ROOT / "docs" / "configuration.md"
    text = page.read_text(encoding="utf-8")
    for section in SECTIONS:
        table = f"### [{section}]\n\n{SECTIONS[section].__doc__}\n\n{config_template.markdown(section)}\n"
        text, count = re.subn(rf"### \[{section}\]\n.*?(?=\n#|\Z)", lambda _, table=table: table, text, flags=re.DOTALL)
        assert count == 1, f"docs/configuration.md has no section [{section}]"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
