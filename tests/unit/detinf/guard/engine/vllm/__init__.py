"""Stands in for vLLM: the processes of one server, without a model."""

import json
import os

TEST = json.loads(os.environ.get("TEST_ENGINE", "{}"))
