"""Runs a command as somebody whom file permissions bind, as they do not bind root."""

from __future__ import annotations

import os

BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Before a command."""
