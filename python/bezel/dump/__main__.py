"""`torchrun --nproc-per-node 4 -m bezel.dump MODEL --corpus … --hooks … --out …`."""

import sys

from bezel.main import main

if __name__ == "__main__":
    sys.exit(main(["dump", *sys.argv[1:]]))
