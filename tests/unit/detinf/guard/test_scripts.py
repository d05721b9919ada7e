"""Set-up scripts: one that fails half-way is refused with its name, its line and its words; the real ones are not."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from detinf.guard import scripts
from detinf.guard.errors import RefusedError
from detinf.guard.scripts import sourced

PATH = {"PATH": "/usr/bin:/bin"}

# The script, and what the refusal says: its line, what failed there, and what was printed.
FAILS = {
    "returns 1": ("export A=1\necho no driver >&2\nreturn 1\nexport B=1\n", "line 3: it returned 1: no driver"),
    "returns 1 from a branch": ("if true; then\n  return 3\nfi\n", "line 2: it returned 3: nothing was printed"),
    "last command fails": ("export A=1\n[ -n '' ]\n", "line 2: it returned 1"),
    "command that is missing": ("nosuch --all\nexport A=1\n", "line 1: nosuch --all ended with 127: .*not found"),
    "command that may not be run": ("/etc/passwd\nexport A=1\n", "line 1: /etc/passwd ended with 126"),
    "command that is missing in a function": (
        "prepend() {\n  nosuch\n  export A=1\n}\nprepend\n",
        "line 2: nosuch ended with 127",
    ),
    "command that is missing in a substitution": ("export A=$(nosuch)\n", "line 1: nosuch ended with 127"),
    "command that is missing in a pipeline": ("A=$(echo 1 | nosuch | cat)\nexport A\n", "line 1: nosuch was not found"),
    "file that is cut off in a here-document": (
        "export A=1\ncat <<EOF\nhalf\n",
        "line [0-9]+: it ends in the midst of a here-document",
    ),
    "syntax error": ("export A=1\nif true; then\n", "it returned [12]: .*line [0-9]+: syntax error"),
    "variable that is not set": (
        "set -u\n: $NOT_SET\nexport A=1\n",
        "line 2: it ended the shell with .*NOT_SET: unbound",
    ),
    "variable that is demanded": ("\n: ${NOT_SET:?say where}\n", "line 2: it ended the shell .*NOT_SET: say where"),
    "command that fails under -e": ("set -e\nfalse\n", "line 2: it ended the shell with 1"),
    "exit": ("exit 0\n", "line 1: it ended the shell with 0"),
    "script of its own that is missing": (
        "source /nowhere/set_env.sh\nexport A=1\n",
        "line 1: source /nowhere/set_env.sh ended with 1: .*No such file",
    ),
    "script of its own that is missing, with a dot": (". /nowhere/set_env.sh\ntrue\n", "line 1: . /nowhere/.* ended"),
    "script of its own that is a folder": (
        "source /usr\nexport A=1\n",
        "line 1: source /usr ended with 1: .*directory",
    ),
    "environment that has no env": ("export PATH=/nowhere\n", "ended with 127: .*env: not found"),
}


def script(folder: Path, text: str, name: str = "set_env.sh") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("case", FAILS)
def test_script_that_fails_half_way_is_refused_with_its_line_and_its_words(tmp_path: Path, case: str) -> None:
    text, words = FAILS[case]
    path = script(tmp_path, text)
    with pytest.raises(
        RefusedError, match=rf"^scripts: {re.escape(path)}(?s:.*){words}(?s:.*); mend the image$"
    ) as told:
        sourced([path], PATH)
    assert "\n" not in str(told.value)


def test_script_of_a_script_that_fails_is_told_where_it_is_sourced(tmp_path: Path) -> None:
    inner = script(tmp_path, "if\n", "inner.sh")
    path = script(tmp_path, f"export A=1\n[ -f {inner} ] && source {inner}\nexport B=1\n")
    with pytest.raises(RefusedError, match=f"{path}: line 2: source {inner} ended with .*syntax error"):
        sourced([path], PATH)


def test_second_script_is_named_where_it_fails(tmp_path: Path) -> None:
    first, second = script(tmp_path, "export A=1\n", "a.sh"), script(tmp_path, "return 2\n", "b.sh")
    with pytest.raises(RefusedError, match=f"^scripts: {second}: line 1: it returned 2"):
        sourced([first, second], PATH)


def test_folder_in_the_place_of_a_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=f"scripts: {tmp_path} is a folder; use an image"):
        sourced([str(tmp_path)], PATH)


# What stands in CANN's setenv.bash and in ATB's set_env.sh, and is no failure: a find that may not read a folder, a
# probe for a command, a variable that is not set, and -e of their own.
LIKE_THE_REAL_ONES = """\
case "$-" in *e*) was_set=y ;; *) was_set=n ;; esac
set -e
prepend_env() {
    local name="$1" value="$2"
    local env_value="$(eval echo "\\${${name}}")"
    read -r $name <<END
$value:$(echo "${env_value}" | tr ':' '\\n' | grep -v -E "^/old" | tr '\\n' ':' | sed 's/:$//')
END
    export $name
}
prepend_env LD_LIBRARY_PATH /toolkit/lib64
found="$(find /nowhere -name libascend_hal.so 2> /dev/null || true)"
if command -v nosuch > /dev/null; then echo "no" >&2; fi
res=$(nosuch -c "import torch" &> /dev/null || echo "torch_not_exist")
export FOUND="$res"
if [ "$was_set" = "n" ]; then set +e; fi
found=$(find /nowhere 2> /dev/null)
num=$(find /nowhere 2> /dev/null | wc -l)
[ -n "$ZSH_VERSION" ]
echo "set up"
unset was_set
"""


def test_what_the_real_scripts_do_is_no_failure_and_what_they_print_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = script(tmp_path, LIKE_THE_REAL_ONES)
    seen = sourced([path], PATH | {"LD_LIBRARY_PATH": "/old/lib:/lib"})
    assert seen == PATH | {"LD_LIBRARY_PATH": "/toolkit/lib64:/lib", "FOUND": "torch_not_exist"}
    assert capfd.readouterr() == ("", "set up\n")


def test_options_and_traps_of_one_script_are_not_the_next_ones(tmp_path: Path) -> None:
    first = script(tmp_path, "set -euo pipefail\ntrap 'exit 9' ERR EXIT\n", "a.sh")
    second = script(tmp_path, "export A=$NOT_SET\n[ -n '' ]\nfalse | true\ntrue\n", "b.sh")
    assert sourced([first, second], PATH) == PATH | {"A": ""}
    with pytest.raises(RefusedError, match="line 1: nosuch ended with 127"):
        sourced([first, script(tmp_path, "nosuch\ntrue\n", "c.sh")], PATH)


def test_scripts_see_no_arguments_and_leave_nothing_of_the_guards(tmp_path: Path) -> None:
    path = script(tmp_path, 'set -a\nexport ARGUMENTS="$#"\necho one two > /dev/null\nexport LAST="$_"\n')
    assert sourced([path], PATH) == PATH | {"ARGUMENTS": "0", "LAST": "two"}


def test_process_that_a_script_leaves_behind_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "SECONDS", 30)
    path = script(tmp_path, "sleep 600 &\nexport LEFT=$!\n")
    os.kill(int(sourced([path], PATH)["LEFT"]), signal.SIGKILL)


def test_path_of_a_script_may_begin_with_a_variable_of_the_scripts_before_it(tmp_path: Path) -> None:
    (tmp_path / "cann-9.1.0").mkdir()
    script(tmp_path, "export TOOLKIT_HOME=/cann-9.1.0 OTHER='${TOOLKIT_HOME}'\n", "toolkit.sh")
    script(tmp_path / "cann-9.1.0", "export FOUND=1\n")
    seen = sourced(["/toolkit.sh", "${TOOLKIT_HOME}/set_env.sh"], PATH | {"TOOLKIT_HOME": "/of/the/image"}, tmp_path)
    assert seen["FOUND"] == "1"
    with pytest.raises(RefusedError, match=f"^scripts: {tmp_path}/cann-9.1.0/ir.sh is missing or unreadable; use an"):
        sourced(["/toolkit.sh", "${TOOLKIT_HOME}/ir.sh"], PATH, tmp_path)


@pytest.mark.parametrize("container", [{}, {"TOOLKIT_HOME": ""}], ids=["not set", "empty"])
def test_path_of_a_script_that_nobody_set_is_refused_by_the_variables_name(
    tmp_path: Path, container: dict[str, str]
) -> None:
    words = r"^scripts: \$\{TOOLKIT_HOME\}/set_env.sh cannot be found: nothing sets TOOLKIT_HOME; use an image"
    with pytest.raises(RefusedError, match=words):
        sourced(["${TOOLKIT_HOME}/set_env.sh"], PATH | container, tmp_path)
