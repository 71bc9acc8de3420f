"""`torchrun --nproc-per-node 4 -m bezel.dump MODEL --corpus … --hooks … --out …`."""

import sys

from bezel.main import main

sys.exit(main(["dump", *sys.argv[1:]]))
