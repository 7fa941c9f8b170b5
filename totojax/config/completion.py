"""Completion of the command in bash and zsh: `totojax --completion=bash` prints it.

The script knows flags and the configs that ship. Keys of a config are asked for
once (`--completion=keys`, which imports no jax) and kept below ~/.cache, until
the config or the package is newer; so a TAB after the first costs milliseconds.
"""

from collections.abc import Iterator
import os
import pathlib
import sys
from typing import Any

from absl import flags

from totojax.config import arguments, roots, schema

# In what bash and zsh have in common, with awk.
_COMMON = r"""
_totojax_keys() { # CONFIG: its keys, a line each: name, tab, values
  local folder="${XDG_CACHE_HOME:-$HOME/.cache}/totojax/completion" kept
  kept="$folder/$(printf '%s' "$PWD $1" | cksum | tr ' ' _)"
  if [ ! -s "$kept" ] || [ "${1%%:*}" -nt "$kept" ] || [ '@PACKAGE@' -nt "$kept" ]; then
    mkdir -p "$folder" 2>/dev/null
    if command totojax "--config=$1" --completion=keys >"$kept.$$" 2>/dev/null; then
      mv -f "$kept.$$" "$kept"
    else
      rm -f "$kept.$$"
      return
    fi
  fi
  cat "$kept"
}

_totojax_paths() { # FLAG START: FLAG with each path that begins so
  local found
  for found in "$2"*; do
    if [ -d "$found" ]; then printf '%s\n' "$1$found/"
    elif [ -e "$found" ]; then printf '%s\n' "$1$found"; fi
  done
}

_totojax_words() { # CONFIG WORD: what the word can become, a line each
  local value="${2#*=}" key
  case $2 in
    --config.*=*)
      key="${2%%=*}"
      _totojax_keys "$1" | awk -F '\t' -v key="${key#--config.}" -v start="$value" '
        $1 == key { n = split($2, values, " ")
          for (i = 1; i <= n; i++)
            if (index(values[i], start) == 1) print "--config." key "=" values[i] }
        $1 == key && $2 == "" { status = 1 }
        END { exit status }' || _totojax_paths "$key=" "$value" ;;
    --config.*)
      _totojax_keys "$1" | awk -F '\t' -v start="${2#--config.}" '
        index($1, start) == 1 { rest = substr($1, length(start) + 1); dot = index(rest, ".")
          word = dot ? start substr(rest, 1, dot) : $1 "="
          if (!(word in seen)) { seen[word] = 1; print "--config." word } }' ;;
    --list=*)
      _totojax_keys "$1" | awk -F '\t' -v start="$value" '
        { n = split($1, parts, "."); path = ""
          for (i = 1; i < n; i++) { path = path (i > 1 ? "." : "") parts[i]
            if (index(path, start) == 1 && !(path in seen)) {
              seen[path] = 1; print "--list=" path } } }' ;;
    --config=*)
      printf '%s\n' @CONFIGS@ |
        awk -v start="$value" 'index($0, start) == 1 { print "--config=" $0 }'
      case $value in configs/*) ;; *) _totojax_paths --config= "$value" ;; esac ;;
    --workdir=*) _totojax_paths --workdir= "$value" ;;
    --completion=*) printf '%s\n' --completion=bash --completion=zsh ;;
    *) printf '%s\n' @FLAGS@ | awk -v start="$2" 'index($0, start) == 1' ;;
  esac
}
"""
_BASH = r"""
_totojax() {
  local line="${COMP_LINE:0:COMP_POINT}" config="" before="" word replaced
  local current="${line##*[[:space:]]}" words
  read -ra words <<<"$line"
  for word in "${words[@]}"; do
    case $word in --config=*) config="${word#--config=}" ;; esac
    if [ "$before" = --config ]; then config=$word; fi
    before=$word
  done
  COMPREPLY=()
  while IFS= read -r word; do
    case $word in --config=*:*) ;; *[=./]) ;; *) word="$word " ;; esac
    COMPREPLY+=("$word")
  done < <(_totojax_words "$config" "$current" | awk '!seen[$0]++')
  # Readline replaces only what follows the last of its breaks.
  replaced="${current%"${current##*[=:]}"}"
  COMPREPLY=("${COMPREPLY[@]#"$replaced"}")
}
complete -o nospace -F _totojax totojax
"""
_ZSH = r"""
_totojax() {
  setopt localoptions sh_word_split null_glob
  local config="" before="" word
  local -a found
  for word in "${words[@]}"; do
    case $word in --config=*) config="${word#--config=}" ;; esac
    if [ "$before" = --config ]; then config=$word; fi
    before=$word
  done
  found=("${(@f)$(_totojax_words "$config" "$PREFIX" | awk '!seen[$0]++')}")
  for word in "${found[@]}"; do
    case $word in '') ;; *[=./]) compadd -S '' -- "$word" ;; *) compadd -- "$word" ;; esac
  done
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _totojax totojax
"""
_HEADS = {
  "bash": '# Completion of totojax: in ~/.bashrc, eval "$(totojax --completion=bash)"',
  "zsh": '#compdef totojax\n# In ~/.zshrc: eval "$(totojax --completion=zsh)"',
}
# Flags that need no value.
_ALONE = ("allow_changed_config", "allow_other_versions", "traceback", "multihost", "list")


def show(shell: str, config: Any) -> None:
  """Prints a shell's script, or the keys of a config as the script reads them.

  Args:
    shell: "bash", "zsh" or "keys".
    config: a `ConfigDict`, for "keys"; else it is not looked at.

  Raises:
    ConfigError: keys of no config are asked for, or of one that is wrong.
  """
  if shell != "keys":
    print(script(shell))
    return
  if config is None:
    raise schema.ConfigError("--completion=keys is of a config; name one, --config=FILE")
  sys.stdout.write("".join(f"{line}\n" for line in keys(roots.read(config.to_dict()))))


def script(shell: str) -> str:
  """What a shell reads for completing the command."""
  text = _HEADS[shell] + _COMMON + {"bash": _BASH, "zsh": _ZSH}[shell]
  words = {"CONFIGS": arguments.shipped(), "FLAGS": list(_flags())}
  for name, found in words.items():
    text = text.replace(f"@{name}@", " ".join(f"'{word}'" for word in found))
  # Touched by every new version.
  package = pathlib.Path(__file__).resolve().parent
  return text.replace("@PACKAGE@", os.fspath(package))


def _flags() -> Iterator[str]:
  module = flags.FLAGS.find_module_defining_flag("config")
  for flag in flags.FLAGS.get_flags_for_module(module):
    yield f"--{flag.name}" + ("" if flag.name in _ALONE else "=")
  yield from ("--config.", "--list=", "--help")


def keys(config: Any) -> Iterator[str]:
  """A line a key of a typed config: its name, a tab, the values that it may have."""
  for key in schema.keys(config):
    kind = schema.without_none(key.kind)
    values = map(str, key.meta.range.choices or ((True, False) if kind is bool else ()))
    if key.path == "run":
      values = (str(key.value), *(["plan"] if key.value in ("pretrain", "tokenize") else []))
    yield f"{key.path}\t{' '.join(values)}"
