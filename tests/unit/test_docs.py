"""The documentation names every command, option, setting, variable and exit code there is, and none that is not."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tests.harness.daemon import ROOT
from vkteams_daemon import config_template, errors
from vkteams_daemon.ctl import command_line as ctl
from vkteams_daemon.ctl import command_lines as commands
from vkteams_daemon.ctl.output import MODES
from vkteams_daemon.daemon import arguments
from vkteams_daemon.daemon.health import State
from vkteams_daemon.errors import UsageError, VkTeamsError
from vkteams_daemon.options import ALIASES, NOT_OPTIONS, SECTIONS, options

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = (ROOT / "docs" / "vkteamsctl.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
VERBS = {f"{noun.name} {verb.name}": verb for noun in commands.nouns() for verb in noun.verbs}
VERBS |= {command.name: command for command in commands.shortcuts()}
GLOBAL = {name for flag in commands.global_flags() for name in flag.names}
# Variables that other programs read for us: requests, the harness of systemd, the shell of an example.
FOREIGN = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "NOTIFY_SOCKET"}
OWN_CODES = {0, 130, 141}  # what main() returns without an error of the tree


def _section(verb: str) -> str:
    """What docs/vkteamsctl.md says of a verb."""
    return re.split(r"\n#{1,3} ", COMMANDS.partition(f"\n### {verb}\n")[2])[0]


def _leaves(kind: type[VkTeamsError]) -> Iterator[type[VkTeamsError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _leaves(below)


# The commands


def test_every_verb_has_its_section_and_every_section_its_verb() -> None:
    assert sorted(re.findall(r"(?m)^### (.+)$", COMMANDS)) == sorted(VERBS), "docs/vkteamsctl.md"
    for verb in VERBS:
        assert COMMANDS.partition(f"\n### {verb}\n")[0].rpartition("\n## ")[2].partition("\n")[0] == verb.split()[0]


@pytest.mark.parametrize("verb", VERBS)
def test_a_section_lists_the_options_that_its_verb_has(verb: str) -> None:
    listed = re.findall(r"(?m)^- `(--[^`]+)`: \S", _section(verb))
    known = [f"{flag.names[0]} {flag.value}".strip() for flag in VERBS[verb].flags]
    assert sorted(listed) == sorted(known), f"docs/vkteamsctl.md, ### {verb}"


@pytest.mark.parametrize("verb", VERBS)
def test_a_section_has_an_example_of_its_verb(verb: str) -> None:
    assert re.search(rf"(?m)^    vkteamsctl (?:.* )?{verb}\b", _section(verb))


def test_the_global_options_and_modes() -> None:
    general = COMMANDS.partition("\n## Exit codes")[0]
    listed = re.findall(r"(?m)^- `(--[^`]+)`:", general)
    assert listed == [f"{flag.names[0]} {flag.value}" for flag in commands.global_flags()]
    assert tuple(re.findall(r"(?m)^\| `(\w+)` \|", general)) == MODES


def test_the_exit_codes_are_those_of_the_errors() -> None:
    table = COMMANDS.partition("\n## Exit codes")[2].partition("\n## ")[0]
    listed = {int(code) for row in re.findall(r"(?m)^\| ([\d, ]+) \|", table) for code in row.split(",")}
    assert listed == {kind.exit_code for kind in _leaves(VkTeamsError)} | OWN_CODES


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"(?m)^[ │├└─]*(\w+) +(\d+)  ", errors.__doc__ or ""))
    assert {name: int(code) for name, code in drawn.items()} == {
        kind.__name__: kind.exit_code for kind in _leaves(VkTeamsError)
    }


# Help


def _walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _walk(below)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_that_can_be_run(verb: str) -> None:
    command = VERBS[verb]
    assert command.help
    examples = re.findall(r"(?m)^  (vkteamsctl .*)$", command.example)
    assert examples
    assert all(f" {verb}" in example for example in examples)
    for example in examples:
        _parsed(example)
    for flag in command.flags:
        assert flag.help, flag
    for argument in command.arguments:
        assert argument.help, argument


def test_the_examples_of_the_programs_themselves() -> None:
    for text in (ctl.EXAMPLES, arguments._EXAMPLES):
        for example in re.findall(r"(?m)^  (vkteams\w+.*)$", text):
            _parsed(example)


# What is written anywhere


def _spoken() -> Iterator[tuple[str, str]]:
    """(page, command line) of every vkteamsctl and vkteamsd in a code block or span."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = re.findall(r"(?m)^(?: {4}|\$ )?(?:\S+=\S* )*(vkteams(?:ctl|d) .*)$", text)
        lines += re.findall(r"`(vkteams(?:ctl|d) [^`]*)`", text)
        for line in lines:
            if "──" in line:
                continue  # a drawing
            yield page.name, re.split(r"\s+#|\s\|\s|\s&&?\s|\s>|…", line)[0].strip()


def _parsed(line: str) -> None:
    program, *words = shlex.split(line)
    if not words or "NOUN" in words or set(words) & {"--help", "--version"}:
        return
    if program == "vkteamsd":
        arguments.parser().parse_args(words)
        return
    noun = ctl.glance(words)[1]
    if noun in ctl.COMMANDS:
        ctl.parse(words, noun)
        return
    verbs = [name.split()[1] for name in VERBS if name.split()[0] == noun and " " in name]
    assert noun in ctl.NOUNS, f"{line}: no such noun"
    if not set(words) & set(verbs):
        assert words[-1] == noun, f"{line}: no such verb"
        return
    try:
        ctl.build(noun).parse_args(words)
    except UsageError as error:
        if "required" not in str(error):  # a span may name a verb without what it is told
            raise AssertionError(f"{line}: {error}") from error


@pytest.mark.parametrize(("page", "line"), sorted(set(_spoken())))
def test_every_command_that_is_written_exists(page: str, line: str) -> None:
    _parsed(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_written_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {option.name for option in options()}
    sections = "|".join(SECTIONS)
    for name in re.findall(rf"`((?:{sections})\.[a-z_]+)`", text):
        assert name in known or name.split(".")[1] in ("toml", "md", "py", "sql"), name
    for section, key in re.findall(rf"`\[({sections})\] ([a-z_]+)", text):
        assert f"{section}.{key}" in known, f"[{section}] {key}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_is_written_exists(page: Path) -> None:
    known = {variable for option in options() for variable in option.variables} | NOT_OPTIONS
    for name in re.findall(r"\bVKTEAMS_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")):
        assert name in known, name


# The configuration


@pytest.mark.parametrize("section", SECTIONS)
def test_every_option_has_its_row(section: str) -> None:
    text = CONFIGURATION.partition(f"\n### [{section}]\n\n")[2].partition("\n### ")[0].strip()
    assert text == f"{SECTIONS[section].__doc__}\n\n{config_template.markdown(section)}", (
        "vkteams_daemon/config_template.py has it"
    )


def test_no_section_too_many() -> None:
    assert re.findall(r"(?m)^### \[(\w+)\]$", CONFIGURATION) == list(SECTIONS)


def test_the_short_names() -> None:
    assert dict(re.findall(r"(?m)^\| `(\w+)` \| `(\w+\.\w+)` \|$", CONFIGURATION)) == {
        alias: next(option.name for option in options() if option.variable == variable)
        for alias, variable in ALIASES.items()
    }


def test_every_variable_that_the_code_reads_is_named() -> None:
    read = set(NOT_OPTIONS)
    for file in (ROOT / "vkteams_daemon").rglob("*.py"):
        read |= set(re.findall(r"environ(?:\.get\(|\[|\.pop\()\"([A-Z_]+)\"", file.read_text(encoding="utf-8")))
    for name in sorted(read):
        assert re.search(rf"`[^`\n]*\b{name}\b", CONFIGURATION), f"{name} is not in docs/configuration.md"
    assert read >= {"XDG_RUNTIME_DIR", "NO_COLOR", "VKTEAMS_DEBUG", "CREDENTIALS_DIRECTORY"}, "the search finds nothing"


def test_no_variable_is_named_that_nobody_reads() -> None:
    table = CONFIGURATION.partition("## Other variables")[2].partition("\n## ")[0]
    rows = {name for row in re.findall(r"(?m)^\| (`.*?`) \|", table) for name in re.findall(r"`(\w+)`", row)}
    assert rows
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "vkteams_daemon").rglob("*.py"))
    for name in rows - FOREIGN:
        assert f'"{name}"' in source, name


# The code


def _folders() -> list[str]:
    package = ROOT / "vkteams_daemon"
    places = {file.parent for kind in ("*.py", "*.sql") for file in package.rglob(kind)} - {package}
    return sorted(f"{place.relative_to(package)}/" for place in places)


def test_the_map_has_every_folder_and_no_other() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("\n## Where things are")[2]
    rows = re.findall(r"(?m)^\| (`.*?`) \|", table)
    places = {name for row in rows for name in re.findall(r"`(.+?)`", row)}
    modules = {file.name for file in (ROOT / "vkteams_daemon").glob("*.py")} - {"__init__.py"}
    assert places == {*_folders(), *modules}


_WRITTEN = sorted([*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"])


@pytest.mark.parametrize("page", _WRITTEN, ids=lambda page: page.name)
def test_every_file_that_is_written_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[\w.]+/)+(?:\w+\.(?:py|sql|md|toml|txt))?)`", text):
        folders = (ROOT, ROOT / "vkteams_daemon")
        if name.split("/")[0] in ("vkteams_daemon", *(path.name for path in (ROOT / "vkteams_daemon").iterdir())):
            assert any((folder / name).exists() for folder in folders), name
        elif name.startswith(("tests/", "docs/", "bench/", "etc/", "debian/")):
            assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((?!https?:)([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / name).exists(), name


@pytest.mark.parametrize("page", _WRITTEN, ids=lambda page: page.name)
def test_every_method_that_is_written_exists(page: Path) -> None:
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "vkteams_daemon").rglob("*.py")]
    for owner, name in re.findall(r"`([A-Z][a-z]\w+)\.(\w+)[`(]", page.read_text(encoding="utf-8")):
        places = [source for source in sources if f"\nclass {owner}" in source]
        assert any(re.search(rf"\b{name}\b", source) for source in places), f"{owner}.{name}"


def test_the_recipes_name_the_files_they_need() -> None:
    recipes = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Recipes")[2]
    for name in ("An option", "A command", "A migration", "An MCP tool", "A model of the catalogue"):
        recipe = recipes.partition(f"\n**{name}.**")[2].partition("\n**")[0]
        assert "vkteams_daemon/" in recipe and "tests/" in recipe, name


def test_the_glossary_has_each_term_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = [term for term in re.findall(r"(?m)^\| ([^|]+) \| [^|]+ \|$", text) if term not in ("term", "---")]
    assert len(terms) > 50
    assert len(terms) == len(set(terms))
    assert all(re.search(rf"(?m)^\| {re.escape(term)} \| \S", text) for term in terms)


def test_page_on_postgresql_explains_every_error_of_the_server_check() -> None:
    """The words of a message that do not change stand in the page."""
    phrases = re.findall(r"`([^`\n]+)`", (ROOT / "docs" / "postgresql.md").read_text(encoding="utf-8"))
    source = (ROOT / "vkteams_daemon" / "store" / "server_check.py").read_text(encoding="utf-8")
    messages = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        first = node.args[0]
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name == "append" and isinstance(first, ast.Tuple):  # (message, hint) of a weakness
            first, name = first.elts[0], "SchemaError"
        if name in ("SchemaError", "ConfigError", "CannotWrite") and isinstance(first, ast.Constant | ast.JoinedStr):
            messages.append(ast.unparse(first))
    assert len(messages) >= 13
    for message in messages:
        assert any(phrase in message for phrase in phrases), f"{message} is not in docs/postgresql.md"


def _log_formats() -> Iterator[tuple[str, str]]:
    """(module, format) of every line of level warning or error, and of every warning of the status."""
    for file in sorted((ROOT / "vkteams_daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, owner = node.func.attr, getattr(node.func.value, "id", "")
            level = owner in ("log", "logger") and name in ("warning", "error", "critical", "exception", "log")
            warned = "daemon" in file.parts[-3:] and name in ("warn", "_warn", "_set")
            for value in node.args if level or warned else ():
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield file.name, re.sub(r"%(\.\d+)?[a-z]|`[^`]*`", "…", value.value)
                elif isinstance(value, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in value.values]
                    yield file.name, "".join(map(str, parts))


def test_page_on_operations_explains_every_line_of_the_log() -> None:
    """The longest piece of a line that does not change stands in the page."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    lines = [piece for line in re.findall(r"^\| `([^`]+)`", page, re.MULTILINE) for piece in line.split("…")]
    formats = [
        (module, max(text.split("…"), key=len).strip(" :;,`("))
        for module, text in _log_formats()
        if re.search(r"[a-z]{2} [a-z]{2}|failed", text)
    ]
    assert len(formats) >= 35
    missing = [f"{module}: {text}" for module, text in formats if not any(_same(text, line) for line in lines)]
    assert missing == [], "not in docs/operations.md"


def _same(text: str, line: str) -> bool:
    line = line.strip(" :;,`(")
    return len(line) > 5 and (line in text or text in line)


def test_page_on_operations_has_every_state_and_every_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))
    assert set(get_args(State)) <= rows
    alerts = re.findall(r"alert: (\w+)", (ROOT / "etc" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    assert {row for row in rows if row.startswith("Vkteams")} == set(alerts)
