"""The completions of vkteamsd and vkteamsctl for bash and zsh, made from their argument parsers.

`python -m vkteams_daemon.ctl.completion DIR` writes both files into a directory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from vkteams_daemon.ctl import command_lines as commands
from vkteams_daemon.ctl.command_lines import Command, Flag

# What vkteamsctl offers for the value of an option, or for the argument of a verb of this noun.
_KINDS = {
    "--chat": "chats", "--chat-id": "chat-ids", "--user": "people", "--mentions": "people", "--user-id": "people-ids",
    "--instance": "instances",
}  # fmt: skip
_ARGUMENT_KINDS = {"model": "models"}

_BASH = """# Completion for vkteamsctl and vkteamsd; made from their argument parsers.
_vkteams_names() {
    # Offer names that vkteamsctl knows; it answers at once or not at all.
    local name wanted=${cur//\\\\/}
    wanted=${wanted#[\\"\\']}
    compopt -o filenames 2>/dev/null
    while IFS= read -r name; do
        [[ ${name,,} == "${wanted,,}"* ]] && COMPREPLY+=("$name")
    done < <(timeout 0.6 "${COMP_WORDS[0]}" "${where[@]}" complete "$1" 2>/dev/null)
}
_vkteams() {
    local -a where=()
    local before=
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} noun= verb= word skip= words=
    local program=${COMP_WORDS[0]##*/}
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ -n $skip ]]; then
            skip=
            [[ $before == --config || $before == --instance ]] && where=("$before" "$word")
        elif [[ @GLOBAL@ == *" $word "* ]]; then
            skip=1
        elif [[ $word != -* && -z $noun ]]; then
            noun=$word
        elif [[ $word != -* && -z $verb ]]; then
            verb=$word
        fi
        before=$word
    done
    COMPREPLY=()
    [[ $program == vkteamsd ]] && noun=vkteamsd verb=
    case "$noun $verb $prev" in
@VALUES@
    esac
    case "$noun $verb" in
@WORDS@
    esac
    [[ $cur == -* || $words != -* ]] || return 0
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _vkteams vkteamsctl vkteamsd
"""

_ZSH = """#compdef vkteamsctl vkteamsd
# Completion for vkteamsctl and vkteamsd; made from their argument parsers.

_vkteams_names() {
    local -a names
    names=("${(@f)$(timeout 0.6 vkteamsctl complete $1 2>/dev/null)}")
    compadd -M 'm:{[:lower:][:upper:]}={[:upper:][:lower:]}' -a names
}

_vkteamsd() {
    _arguments \\
@DAEMON@
}

_vkteamsctl() {
    local curcontext=$curcontext state line noun
    local -a global nouns verbs
    global=(
@GLOBAL@
    )
    nouns=(
@NOUNS@
    )
    _arguments -C $global '1:noun:->noun' '*::rest:->rest'
    case $state in
        noun) _describe noun nouns; return ;;
        rest) ;;
        *) return ;;
    esac
    # $words begins with the noun now, and _arguments takes the first word for the command.
    noun=$words[1]
    case $noun in
@SHORTCUTS@
@VERBS@
    esac
    if (( CURRENT == 2 )); then
        _arguments $global '1:verb:{_describe verb verbs}'
        return
    fi
    shift words
    (( CURRENT-- ))
    case "$noun $words[1]" in
@RESTS@
    esac
}

case $service in
    vkteamsd) _vkteamsd ;;
    *) _vkteamsctl ;;
esac
"""


def bash() -> str:
    """The file for bash-completion's directory."""
    shared = commands.global_flags()
    names = [name for flag in shared if flag.value for name in flag.names]
    values: list[str] = []
    words: list[str] = []
    nouns = list(commands.nouns())
    shortcuts = list(commands.shortcuts())
    first = [*(command.name for command in shortcuts), *(noun.name for noun in nouns)]
    words.append(_bash_words(" ", [*first, *_names(shared), "--help", "--version"]))
    for command in shortcuts:
        # Every word behind such a command is an argument, so the verb may be anything.
        offered = " ".join([*_names(command.flags), *_names(shared), "--help"])
        words.append(f'        "{command.name} "*) words="{offered}" ;;')
        values += _bash_values(command.name, command.flags, anything=True)
    for noun in nouns:
        words.append(_bash_words(f"{noun.name} ", [*(verb.name for verb in noun.verbs), *_names(shared), "--help"]))
        for verb in noun.verbs:
            place = f"{noun.name} {verb.name}"
            choices = [choice for argument in verb.arguments for choice in argument.choices]
            words.append(_bash_words(place, [*choices, *_names(verb.flags), *_names(shared), "--help"]))
            values += _bash_values(place, verb.flags)
            if (kind := _ARGUMENT_KINDS.get(noun.name)) and verb.arguments:
                offer = f"[[ $cur == -* ]] || {{ _vkteams_names {kind}; return 0; }}"
                values.append(f'        "{place} {verb.name}"|"{place} "[!-]*) {offer} ;;')
    daemon = commands.daemon()
    words.append(_bash_words("vkteamsd ", [*_names(daemon.flags), "--help"]))
    values = [*_bash_values("vkteamsd ", daemon.flags), *values, *_bash_values("*", shared)]
    return (
        _BASH.replace("@GLOBAL@", f'" {" ".join(names)} "')
        .replace("@VALUES@", "\n".join(values))
        .replace("@WORDS@", "\n".join(words))
    )


def zsh() -> str:
    """The file `_vkteamsctl` for a directory of $fpath."""
    nouns = list(commands.nouns())
    shortcuts = list(commands.shortcuts())
    shorts, verbs, rests = [], [], []
    helps = [*((each.name, each.help) for each in shortcuts), *((each.name, each.help) for each in nouns)]
    described = [f"        {_zsh_quoted(f'{name}:{help}')}" for name, help in helps]
    for command in shortcuts:
        specs = " ".join([*_zsh_specs(command.flags), "'*:word: '"])
        shorts.append(f"        {command.name}) _arguments $global {specs}; return ;;")
    for noun in nouns:
        listed = " ".join(_zsh_quoted(f"{verb.name}:{verb.help}") for verb in noun.verbs)
        verbs.append(f"        {noun.name}) verbs=({listed}) ;;")
        rests += [_zsh_rest(noun.name, verb) for verb in noun.verbs]
    return (
        _ZSH.replace("@DAEMON@", " \\\n".join(f"        {spec}" for spec in _zsh_specs(commands.daemon().flags)))
        .replace("@GLOBAL@", "\n".join(f"        {spec}" for spec in _zsh_specs(commands.global_flags())))
        .replace("@NOUNS@", "\n".join(described))
        .replace("@SHORTCUTS@", "\n".join(shorts))
        .replace("@VERBS@", "\n".join(verbs))
        .replace("@RESTS@", "\n".join(rests))
    )


def _names(flags: Iterable[Flag]) -> list[str]:
    return [name for flag in flags for name in flag.names]


def _bash_words(place: str, words: list[str]) -> str:
    return f'        "{place}") words="{" ".join(words)}" ;;'


def _bash_values(place: str, flags: Iterable[Flag], *, anything: bool = False) -> Iterator[str]:
    """The completion of an option's value: its choices, a path, or nothing."""
    for flag in flags:
        before = "*" if place == "*" else f'"{place} "*' if anything else f'"{place}"'
        pattern = "|".join(f'{before}" {name}"' for name in flag.names)
        if flag.choices:
            reply = f'mapfile -t COMPREPLY < <(compgen -W "{" ".join(flag.choices)}" -- "$cur")'
        elif (kind := _KINDS.get(flag.names[0])) and not place.startswith("vkteamsd"):
            reply = f"_vkteams_names {kind}"
        elif flag.is_file:
            reply = 'mapfile -t COMPREPLY < <(compgen -f -- "$cur")'
        elif flag.value:
            reply = ":"
        else:
            continue
        yield f"        {pattern}) {reply}; return 0 ;;"


def _zsh_rest(noun: str, verb: Command) -> str:
    specs = [*_zsh_specs(verb.flags)]
    if kind := _ARGUMENT_KINDS.get(noun):
        specs += [_zsh_quoted(f"*:{argument.name}:{{_vkteams_names {kind}}}") for argument in verb.arguments[:1]]
        return f"        '{noun} {verb.name}') _arguments $global {' '.join(specs)} ;;"
    for number, argument in enumerate(verb.arguments, 1):
        name = argument.name.strip("[]… ").partition(" ")[0]
        action = "_files" if name == "FILE" else f"({' '.join(argument.choices)})"
        specs.append(_zsh_quoted(f"{number}:{name.lower()}:{action}"))
    return f"        '{noun} {verb.name}') _arguments $global {' '.join(specs)} ;;"


def _zsh_specs(flags: Iterable[Flag]) -> Iterator[str]:
    for flag in flags:
        help = flag.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
        if flag.choices:
            action = f":{flag.value}:({' '.join(flag.choices)})"
        elif kind := _KINDS.get(flag.names[0]):
            action = f":{flag.value}:{{_vkteams_names {kind}}}"
        elif flag.is_file:
            action = f":{flag.value}:_files"
        else:
            action = f":{flag.value}: " if flag.value else ""
        for name in flag.names:
            yield _zsh_quoted(f"*{name}[{help}]{action}")


def _zsh_quoted(text: str) -> str:
    quoted = text.replace("'", "'\\''")
    return f"'{quoted}'"


def main(directory: str) -> None:
    """Create this directory and write both files into it."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    (Path(directory) / "vkteamsctl").write_text(bash(), encoding="utf-8")
    (Path(directory) / "_vkteamsctl").write_text(zsh(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
