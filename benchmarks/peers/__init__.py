"""Who is measured, ours and others', behind one seam: `Peer` runs a load and tells every token's time.

Children are scripts of other environments and find their helpers beside themselves; here those are found the same way.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
