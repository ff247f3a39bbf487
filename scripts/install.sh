#!/bin/sh
# Install what is named, such as '.[dev]', into .venv: with uv, or with pip where uv cannot be installed or fails.
set -eu
bin=.venv/bin
pip_settings=$("$bin/pip" config list)

setting() { # of pip: its environment variables come before its files
  printf '%s\n' "$pip_settings" | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | head -n 1 | sed 's/\\n/ /g; s/^ *//'
}

with_uv() { # which knows pip's settings only if they are handed on; its own come first
  "$bin/pip" install --quiet --disable-pip-version-check uv || return 1
  UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$(setting index-url)} \
    UV_INDEX=${UV_INDEX:-$(setting extra-index-url)} \
    UV_FIND_LINKS=${UV_FIND_LINKS:-$(setting find-links | tr ' ' ',')} \
    UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} \
    SSL_CERT_FILE=${SSL_CERT_FILE:-$(setting cert)} \
    "$bin/uv" pip install --quiet --python "$bin/python" -c constraints.txt -e "$1"
}

with_uv "$1" || "$bin/pip" install --quiet --disable-pip-version-check -c constraints.txt -e "$1"
