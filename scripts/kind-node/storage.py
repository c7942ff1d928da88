"""kind's own storage manifest, out of the Go source that holds it, with the two images that the node was given."""

import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text()
manifest = text[text.index("const defaultStorageManifest") :]
manifest = manifest[manifest.index("`") + 1 : manifest.rindex("`")]
sys.stdout.write(
    manifest.replace("` + storageProvisionerImage + `", "localhost/local-path-provisioner:v1").replace(
        "` + storageHelperImage + `", "localhost/local-path-helper:v1"
    )
)
