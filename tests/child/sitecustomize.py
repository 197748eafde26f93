"""Every Python process that a test starts with `CHILD_PATCHES` set begins here."""

import os

if os.environ.get("CHILD_PATCHES"):
    from tests.serving_patches import install

    install(os.environ["CHILD_PATCHES"].split())
