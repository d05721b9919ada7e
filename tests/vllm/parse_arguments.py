"""``vllm serve``'s own parser as a filter: on each line a JSON list of words in, and what it makes of them out.

Run with the interpreter of the real vLLM's environment; our packages are not on its path.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    """Parse until standard input ends."""
    top = FlexibleArgumentParser(prog="vllm")
    ServeSubcommand().subparser_init(top.add_subparsers(dest="subparser"))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        said = io.StringIO()
        answer: dict[str, Any]
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                parsed = vars(top.parse_args(json.loads(line)))
            answer = {"parsed": {key: repr(value) for key, value in parsed.items() if key != "dispatch_function"}}
        except (SystemExit, Exception) as error:  # noqa: BLE001 - whatever it says, it did not take the words
            answer = {"error": f"{type(error).__name__}: {error} {said.getvalue()[-300:]}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
