"""As vllm.logger, to standard error."""

import logging
import sys

logger = logging.getLogger("vllm")
logger.addHandler(logging.StreamHandler(sys.stderr))
logger.setLevel(logging.INFO)
