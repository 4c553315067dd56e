"""The manual pages and completions say what the argument parsers and the table of options say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from docs import manual
from vkteams_daemon.ctl import command_lines as commands
from vkteams_daemon.ctl import completion
from vkteams_daemon.ctl.command_line import COMMANDS, NOUNS
from vkteams_daemon.options import options


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The pages without what roff needs of them."""
    return {name: _read(text) for name, text in manual.pages().items()}


def _read(page: str) -> str:
    return re.sub(r"\\f[BIR]", "", page).replace("\\-", "-").replace("\\&", "").replace("\\(aq", "'")


def test_every_option_of_the_daemon_has_its_entry(pages: dict[str, str]) -> None:
    flags = commands.daemon().flags
    assert {"--config", "--foreground", "--role"} <= {name for flag in flags for name in flag.names}
    for flag in flags:
        assert f".TP\n{', '.join(flag.names)}" in pages["vkteamsd.8"]


def test_every_noun_verb_and_option_of_vkteamsctl_has_its_entry(pages: dict[str, str]) -> None:
    page = pages["vkteamsctl.1"]
    for command in commands.shortcuts():
        entry = page.partition(f".TP\n{command.name} ")[2].partition(".RE\n")[0]
        assert all(", ".join(flag.names) in entry for flag in command.flags), command.name
    nouns = list(commands.nouns())
    assert [noun.name for noun in nouns] == list(NOUNS)
    for noun in nouns:
        section = page.partition(f".SS {noun.name}: ")[2].partition(".SS ")[0].partition(".SH ")[0]
        for verb in noun.verbs:
            entry = section.partition(f".TP\n{noun.name} {verb.name}")[2].partition(".RE\n")[0]
            assert verb.help and " ".join(verb.help.split()).replace("`", "") in entry.replace("...", "…")
            for flag in verb.flags:
                assert ", ".join(flag.names) in entry, f"{noun.name} {verb.name} {flag.names}"


def test_every_option_of_the_configuration_has_its_entry(pages: dict[str, str]) -> None:
    for option in options():
        section = pages["vkteamsd.toml.5"].partition(f".SS [{option.section}]\n")[2].partition(".SS ")[0]
        entry = section.partition(f".BR {option.key} ")[2].partition(".TP\n")[0]
        assert option.help.replace("`", "") in entry, option
        assert all(variable in entry for variable in option.variables)
        assert ("SIGHUP" in entry) == option.reload


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", ["vkteamsd.8", "vkteamsctl.1", "vkteamsd.toml.5"])
def test_groff_prints_no_warning(name: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z"],
        input=manual.pages()[name], text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that bash-completion reads."""
    file = tmp_path_factory.mktemp("completion") / "vkteamsctl"
    file.write_text(completion.bash(), encoding="utf-8")
    return file


def _complete(file: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    script = f'. {file}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vkteams; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script, "bash", *words], text=True, capture_output=True, check=True)
    return done.stdout.split()


def test_bash_completes_nouns_verbs_and_options(bash: Path) -> None:
    assert {*NOUNS, *COMMANDS} <= set(_complete(bash, "vkteamsctl", ""))
    for words in (("find", "--"), ("find", "слово", "--"), ("find", "слово", "ещё", "--")):
        assert {"--since", "--user", "--output"} <= set(_complete(bash, "vkteamsctl", *words)), words
    assert _complete(bash, "vkteamsctl", "find", "слово", "--sort", "") == ["best", "new"]
    assert _complete(bash, "vkteamsctl", "diag") == ["diagnostic"]
    for noun in commands.nouns():
        assert {verb.name for verb in noun.verbs} <= set(_complete(bash, "vkteamsctl", noun.name, ""))
        verb = noun.verbs[-1]
        offered = set(_complete(bash, "vkteamsctl", noun.name, verb.name, "--"))
        assert {name for flag in verb.flags for name in flag.names if name.startswith("--")} <= offered
    assert "--foreground" in _complete(bash, "vkteamsd", "--f")


def test_bash_completes_the_value_of_an_option(bash: Path, tmp_path: Path) -> None:
    assert _complete(bash, "vkteamsctl", "daemon", "start", "--role", "l") == ["listen"]
    assert _complete(bash, "vkteamsctl", "--output", "jsonl", "sea") == ["search"]
    assert _complete(bash, "vkteamsctl", "search", "text", "--output", "q") == ["quiet"]
    (tmp_path / "some.toml").touch()
    assert _complete(bash, "vkteamsd", "--config", f"{tmp_path}/so") == [f"{tmp_path}/some.toml"]
    assert _complete(bash, "vkteamsctl", "search", "text", "--since", "") == []


def test_bash_completes_names_that_the_archive_knows(bash: Path, tmp_path: Path) -> None:
    """The names themselves come from `vkteamsctl complete`, which answers at once or not at all."""
    program = tmp_path / "vkteamsctl"
    program.write_text(
        '#!/bin/sh\nwhile [ $1 != complete ]; do echo "$1" >> $0.where; shift; done\n'
        "case $2 in\n chats) printf 'Эксплуатация и дежурство\\nDevelopment\\n' ;;\n"
        " people) printf 'Анна Иванова\\nПётр\\n' ;;\n models) echo tiny-model ;;\n instances) echo sales ;;\n"
        " chat-ids) sleep 5; echo late ;;\nesac\n"
    )
    program.chmod(0o755)

    def names(*words: str) -> list[str]:
        script = f'. {bash}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vkteams; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", script, "bash", str(program), *words], text=True, capture_output=True, check=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        return done.stdout.splitlines()

    assert names("find", "слово", "--chat", "экспл") == ["Эксплуатация и дежурство"]
    assert names("find", "--user", "") == ["Анна Иванова", "Пётр"]
    assert names("find", "--user", "'Анна И") == names("find", "--user", "Анна\\ И") == ["Анна Иванова"]
    assert names("search", "text", "x", "--mentions", "П") == ["Пётр"]
    assert names("model", "use", "t") == ["tiny-model"]
    assert names("--instance", "s") == ["sales"]
    assert names("--config", "/x.toml", "context", "get", "--chat", "D") == ["Development"]
    assert (tmp_path / "vkteamsctl.where").read_text() == "--config\n/x.toml\n"
    began = time.monotonic()
    assert names("find", "x", "--chat-id", "") == [""]
    assert time.monotonic() - began < 4, "a person does not wait"


def test_zsh_file_has_every_verb_and_option(tmp_path: Path) -> None:
    text = completion.zsh()
    for noun in commands.nouns():
        for verb in noun.verbs:
            line = next(line for line in text.splitlines() if line.lstrip().startswith(f"'{noun.name} {verb.name}')"))
            assert all(f"{name}[" in line for flag in verb.flags for name in flag.names)
    if shutil.which("zsh"):
        (tmp_path / "_vkteamsctl").write_text(text, encoding="utf-8")
        subprocess.run(["zsh", "-n", str(tmp_path / "_vkteamsctl")], check=True)
