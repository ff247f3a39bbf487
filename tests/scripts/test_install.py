"""The script that installs into .venv, with programs in place of pip and uv that print what they get."""

import subprocess

import pytest

from tests.conftest import ROOT

PIP = """#!/bin/sh
case "$*" in
"config list") cat << 'END'
:env:.index-url='https://env/simple'
global.index-url='https://file/simple'
global.extra-index-url='\\nhttps://a/simple\\nhttps://b/simple'
install.find-links='/one /two'
END
;;
*" uv") exit "$CODE" ;;
*) echo "pip $*" ;;
esac
"""
UV = """#!/bin/sh
echo "$UV_DEFAULT_INDEX, $UV_INDEX, $UV_FIND_LINKS, $UV_INDEX_STRATEGY, [$SSL_CERT_FILE]"
echo "uv $*"
exit "$UV_CODE"
"""


@pytest.fixture
def install(tmp_path):
    def run(code=0, uv_code=0, **environment):
        folder = tmp_path / ".venv" / "bin"
        folder.mkdir(parents=True)
        for name, text in (("pip", PIP), ("uv", UV)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        command = ["sh", ROOT / "scripts" / "install.sh", ".[dev]"]
        environment |= {"PATH": "/usr/bin:/bin", "CODE": str(code), "UV_CODE": str(uv_code)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


FROM_PIP = "https://env/simple, https://a/simple https://b/simple, /one,/two, unsafe-best-match, []"
BY_UV = "uv pip install --quiet --python .venv/bin/python -c constraints.txt -e .[dev]"
BY_PIP = "pip install --quiet --disable-pip-version-check -c constraints.txt -e .[dev]"


def test_uv_installs_from_the_indexes_of_pip(install):
    assert install() == [FROM_PIP, BY_UV]


def test_settings_of_uv_come_first(install):
    assert install(UV_DEFAULT_INDEX="https://own/simple")[0] == FROM_PIP.replace("//env", "//own")


def test_pip_installs_where_uv_cannot_be_had(install):
    assert install(code=1) == [BY_PIP]


def test_pip_installs_where_uv_fails(install):
    assert install(uv_code=2) == [FROM_PIP, BY_UV, BY_PIP]
