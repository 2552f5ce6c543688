"""Only ``JwtClaim`` needs the extra."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_JOSERFC = """
import sys
sys.modules["joserfc"] = None
from tenantry.errors import MissingDependency
from tenantry.resolve import Chain, Subdomain
Chain(Subdomain("example.com"))
try:
    from tenantry.resolve import JwtClaim
except MissingDependency as error:
    print(error.hint)
"""


def test_only_a_token_needs_the_extra_and_the_error_says_how_to_install_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_JOSERFC], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "pip install 'tenantry[jwt]'", done.stderr
