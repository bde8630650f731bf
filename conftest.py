"""Before torch is imported: idle threads sleep, so that tests do not fight each other for shared cores."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
